"""Writes gradients and scores of images of several classes into a file: `labels.py OUT`, as one of N processes."""

import os
import sys

import torch

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.engine.distributed import Ranks
from understudy.engine.evaluate import Shard
from understudy.engine.launch import join
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


def part(columns, ranks):
    size = len(columns[0])
    rows = slice(size * ranks.rank // ranks.world, size * (ranks.rank + 1) // ranks.world)
    return [column[rows] for column in columns]


def distiller_of(losses, align):
    torch.manual_seed(0)
    student, teacher = us.create_model("cnn_tiny", CLASSES), us.create_model("cnn_small", CLASSES)
    torch.manual_seed(1)
    example = torch.zeros(2, 3, 16, 16)
    distiller = Distiller(student, teacher, losses, align=align, example=example, multilabel=True).double()
    teacher.double()
    for module in distiller.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return distiller


def main(path):
    join(CPU)
    ranks, results = Ranks(), {}
    for label, losses in LOSSES.items():
        for align in ("none", "backbone"):
            distiller = distiller_of(losses, align)
            out = distiller(*part(global_batch(7), ranks))
            distiller.backward(out)
            grads = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
            results[f"{label} / {align}"] = grads
    distiller = distiller_of(LOSSES["bce and dhkd"], "none").eval()
    for size in (9, 1):  # of one image a process has none
        images, target = part(global_batch(size), ranks)
        batches = [Batch(images, target)] if len(images) else []
        networks = {"student": distiller.predict, "teacher": distiller.guides.predict}
        found = measure(distiller.task, networks, Shard(batches, ranks, CPU), CLASSES, CPU)
        results[f"scores of {size}"] = {
            n: (m.scores, m.samples, m.by_class, m.agreement) for n, m in found.items()
        }
    if ranks.is_first:
        torch.save(results, path)


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself
