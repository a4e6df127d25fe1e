"""Writes gradients and scores of images of several classes into a file: `labels.py OUT`, as one of N processes."""

import torch
from same import part, run, without_dropout

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.engine.evaluate import Shard
from understudy.engine.measure import measure
from understudy.interface import Batch

CLASSES, CPU = 4, torch.device("cpu")
LOSSES = {
    "bce": [{"name": "bce", "pos_weight": [1.0, 2.0, 0.5, 3.0]}],
    "bce and binary_kl": [{"name": "bce"}, {"name": "binary_kl"}],
    "bce and dhkd": [{"name": "bce"}, {"name": "dhkd", "head": "mlp"}],
    "bce and rkd": [{"name": "bce"}, {"name": "rkd"}],
}


def global_batch(size):
    g = torch.Generator().manual_seed(2)
    images = torch.randn(size, 3, 16, 16, generator=g, dtype=torch.float64)
    return images, torch.randint(-1, 2, (size, CLASSES), generator=g)


def distiller_of(losses, align):
    torch.manual_seed(0)
    student, teacher = us.create_model("cnn_tiny", CLASSES), us.create_model("cnn_small", CLASSES)
    torch.manual_seed(1)
    example = torch.zeros(2, 3, 16, 16)
    distiller = Distiller(student, teacher, losses, align=align, example=example, multilabel=True).double()
    teacher.double()
    return without_dropout(distiller)


def all_steps():
    for label, losses in LOSSES.items():
        for align in ("none", "backbone"):
            distiller = distiller_of(losses, align)
            out = distiller(*part(global_batch(7), distiller.ranks))
            distiller.backward(out)
            found = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
            yield f"{label} / {align}", found


def scores(ranks):
    """Those of sets that are divided among the processes; of one image a process has none."""
    distiller, results = distiller_of(LOSSES["bce and dhkd"], "none").eval(), {}
    for size in (9, 1):
        images, target = part(global_batch(size), ranks)
        batches = [Batch(images, target)] if len(images) else []
        networks = {"student": distiller.predict, "teacher": distiller.guides.predict}
        found = measure(distiller.task, networks, Shard(batches, ranks, CPU), CLASSES, CPU)
        results[size] = {n: (m.scores, m.samples, m.by_class, m.agreement) for n, m in found.items()}
    return results


if __name__ == "__main__":
    run(all_steps, scores)
