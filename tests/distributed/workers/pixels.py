"""Writes the gradients of segmentation steps into a file: `pixels.py OUT`, as one of N processes."""

import torch
from same import part, run, without_dropout

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.engine.evaluate import Shard
from understudy.engine.measure import measure
from understudy.interface import Batch

CLASSES, SIZE = 4, (16, 24)
LOSSES = {
    "ce": [{"name": "ce"}],
    "ce, weighted": [{"name": "ce", "class_weights": [1.0, 2.0, 0.5, 0.1]}],
    "ce and kd": [{"name": "ce"}, {"name": "kd"}],
    "ce and dkd": [{"name": "ce"}, {"name": "dkd"}],
    "ce and binary_kl_norm": [{"name": "ce"}, {"name": "binary_kl_norm"}],
    "ce and dhkd": [{"name": "ce"}, {"name": "dhkd", "head": "mlp"}],
    "ce and cwd on logits": [{"name": "ce"}, {"name": "cwd", "role": "logits"}],
    "ce and fitnet and sp": [{"name": "ce"}, {"name": "fitnet"}, {"name": "sp"}],
}


def global_batch(size):
    """Images of which each has another number of labelled pixels, one none at all."""
    g = torch.Generator().manual_seed(2)
    images = torch.randn(size, 3, *SIZE, generator=g, dtype=torch.float64)
    masks = torch.randint(0, CLASSES, (size, *SIZE), generator=g)
    for i in range(size):
        masks[i, : round(SIZE[0] * i / (size - 1))] = 255
    return images, masks


def distiller_of(losses, align):
    torch.manual_seed(0)
    student, teacher = us.create_model("fcn_tiny", CLASSES), us.create_model("fcn_small", CLASSES)
    torch.manual_seed(1)
    distiller = Distiller(student, teacher, losses, align=align, example=torch.zeros(2, 3, *SIZE)).double()
    teacher.double()
    return without_dropout(distiller)


def step(distiller, columns, parts=1):
    """One step on a global batch, whose parts hold different numbers of labelled pixels, too."""
    size = len(columns[0])
    cuts = [slice(size * i // parts, size * (i + 1) // parts) for i in range(parts)]
    own = [part([column[cut] for column in columns], distiller.ranks) for cut in cuts]
    density = distiller.density(torch.cat([masks for _, masks in own]))
    loss = torch.zeros((), dtype=torch.float64)
    for i, (images, masks) in enumerate(own):
        share = (cuts[i].stop - cuts[i].start) / size
        out = distiller(images, masks, density=density)
        distiller.backward(out, last=i == parts - 1, scale=share)
        loss += share * out.loss.detach()
    found = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
    return found | {"loss": distiller.ranks.total(loss) / distiller.ranks.world}


def all_steps():
    for label, losses in LOSSES.items():
        for align in ("none", "backbone", "feature"):
            if align == "feature" and "fitnet" in label:  # neither of its terms passes the feature
                continue
            yield f"{label} / {align}", step(distiller_of(losses, align), global_batch(7))
    for size in (5, 3, 2):
        yield f"{size} images", step(distiller_of(LOSSES["ce and kd"], "backbone"), global_batch(size))
    yield "two parts", step(distiller_of(LOSSES["ce and kd"], "none"), global_batch(11), parts=2)


def scores(ranks):
    """The counts of a set that is divided among the processes."""
    distiller = distiller_of(LOSSES["ce and kd"], "none").eval()
    images, masks = part(global_batch(5), ranks)
    batches = [Batch(images, masks)] if len(images) else []
    networks = {"student": distiller.predict, "teacher": distiller.guides.predict}
    shard = Shard(batches, ranks, torch.device("cpu"))
    found = measure(distiller.task, networks, shard, CLASSES, torch.device("cpu"))
    return {name: (m.confusion, m.scores, m.agreement) for name, m in found.items()}


if __name__ == "__main__":
    run(all_steps, scores)
