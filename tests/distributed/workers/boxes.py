"""Writes the gradients of detection steps into a file: `boxes.py OUT`, as one of N processes."""

import torch
from same import part, run, without_dropout

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.engine.evaluate import Shard
from understudy.engine.measure import measure
from understudy.interface import Batch

SIZE = (64, 64)
OPTIONS = {"samples": 16, "proposals": 40, "anchors": [[12], [20], [28], [40], [60]]}
LOSSES = {
    "ce": [{"name": "ce"}],
    "ce and dkd": [{"name": "ce"}, {"name": "dkd"}],
    "ce and dhkd": [{"name": "ce"}, {"name": "dhkd", "head": "linear"}],
    "ce and reviewkd and dino": [{"name": "ce"}, {"name": "reviewkd"}, {"name": "dino"}],
    "ce and fgfi": [{"name": "ce"}, {"name": "fgfi"}],
}


def global_batch(size):
    """Images of which each has another number of objects, one none at all."""
    g = torch.Generator().manual_seed(2)
    images = torch.randn(size, 3, *SIZE, generator=g, dtype=torch.float64)
    target = torch.zeros(size, 3, 8, dtype=torch.float64)
    target[..., 0], target[..., 7] = -1, 1
    for i in range(size):
        for k in range(i % 4):
            corner = torch.randint(0, 30, (2,), generator=g)
            side = torch.randint(12, 30, (2,), generator=g)
            target[i, k, 0] = 1 + (i + k) % 2
            target[i, k, 1:5] = torch.cat([corner, corner + side])
    return images, target, torch.arange(size) + 10


def distiller_of(losses, align):
    torch.manual_seed(0)
    student = us.create_model("frcnn_tiny", 2, **OPTIONS)
    teacher = us.create_model("frcnn_small", 2, **OPTIONS)
    torch.manual_seed(1)
    example = torch.zeros(2, 3, *SIZE)
    distiller = Distiller(student, teacher, losses, align=align, example=example).double()
    teacher.double()
    return without_dropout(distiller)


def step(distiller, columns, parts=1):
    size = len(columns[0])
    if distiller.needs_prepare:
        images, target, index = columns
        distiller.prepare([Batch(images, target, index)])
    cuts = [slice(size * i // parts, size * (i + 1) // parts) for i in range(parts)]
    loss = torch.zeros((), dtype=torch.float64)
    for i, cut in enumerate(cuts):
        images, target, index = part([column[cut] for column in columns], distiller.ranks)
        torch.manual_seed(5)  # as the loop does in every step
        share = (cut.stop - cut.start) / size
        out = distiller(images, target, index=index)
        distiller.backward(out, last=i == parts - 1, scale=share)
        loss += share * out.loss.detach()
    found = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
    return found | {"loss": distiller.ranks.total(loss) / distiller.ranks.world}


def all_steps():
    for label, losses in LOSSES.items():
        yield label, step(distiller_of(losses, "none"), global_batch(7))
    yield "aligned", step(distiller_of(LOSSES["ce and dkd"], "backbone"), global_batch(6))
    yield "at the feature", step(distiller_of(LOSSES["ce and dkd"], "feature"), global_batch(6))
    yield "three images", step(distiller_of(LOSSES["ce and dkd"], "none"), global_batch(3))
    yield "two parts", step(distiller_of(LOSSES["ce and dkd"], "none").eval(), global_batch(9), parts=2)


def scores(ranks):
    """Those of a set that is divided among the processes."""
    distiller = distiller_of(LOSSES["ce and dkd"], "none").eval()
    with torch.no_grad():
        for network in (distiller.student, distiller.setup.guide.module):
            network.roi_heads.box_predictor.cls_score.weight *= 30  # so that something is found
    images, target, _ = part(global_batch(5), ranks)
    with torch.no_grad():
        best = distiller.predict(images)[:, 0]
        target[:, 0, 0], target[:, 0, 1:5] = best[:, 5], best[:, :4]  # what the student finds is there
    shard = Shard([Batch(images, target)] if len(images) else [], ranks, torch.device("cpu"))
    networks = {"student": distiller.predict, "teacher": distiller.guides.predict}
    found = measure(distiller.task, networks, shard, 2, torch.device("cpu"))
    return {name: (m.scores, m.by_class) for name, m in found.items()}


if __name__ == "__main__":
    run(all_steps, scores)
