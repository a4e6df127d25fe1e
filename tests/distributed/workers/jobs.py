"""What the processes of these tests compute: losses, networks and batches, the same on any number of them."""

import torch
from same import part, without_dropout
from torch import nn

import understudy as us
from understudy.engine.distiller import Distiller

CLASSES, IMAGES, SIZE = 5, 40, 8
ALIGNS = ("none", "released", "backbone", "feature", "paper")

SETTINGS = {
    "cc": {"width": 8},
    "crd": {"negatives": 20, "width": 8},
    "dhkd": {"head": "linear"},
    "dual_head_kd": {"head": "linear"},
    "ft": {"paraphraser_epochs": 1},
    "sifn": {"previous": "snapshot"},
}
EQUAL_WIDTHS = {"fsp", "kdsvd"}


def term_lists():
    """Every method beside cross-entropy, and the settings that change what it needs of other processes."""
    of_images = [name for name, method in us.METHODS.items() if name != "ce" and not method.needs_boxes]
    lists = {name: [{"name": name, **SETTINGS.get(name, {})}] for name in of_images}
    for name in ("cosine", "dino", "feature_l2", "infonce"):
        lists[f"{name}, balanced"] = [{"name": name, "class_balanced": True}]
    lists["dist, rows only"] = [{"name": "dist", "gamma": 0.0}]
    lists["ofd and kd, by the batch"] = [{"name": "ofd", "teacher_bn": "batch"}, {"name": "kd"}]
    lists["dhkd, mlp"] = [{"name": "dhkd", "head": "mlp"}]
    lists["dkd and dino and rkd"] = [{"name": "dkd"}, {"name": "dino"}, {"name": "rkd"}]
    return {label: [{"name": "ce"}, *terms] for label, terms in lists.items()}


def networks(losses):
    torch.manual_seed(0)
    if any(term["name"] in EQUAL_WIDTHS for term in losses):
        return us.create_model("wrn_16_1", CLASSES), us.create_model("resnet8", CLASSES)
    return us.create_model("cnn_tiny", CLASSES), us.create_model("cnn_small", CLASSES)


def distiller_of(losses, align="none", sync_bn=True):
    student, teacher = networks(losses)
    example = torch.zeros(2, 3, SIZE, SIZE)
    torch.manual_seed(1)
    distiller = Distiller(
        student,
        teacher,
        losses,
        align=align,
        example=example,
        class_means=torch.randn(CLASSES, us.describe(teacher, example).shapes["feature"][0]),
        train_targets=torch.arange(IMAGES) % CLASSES,
        sync_bn=sync_bn,
    ).double()
    teacher.double()
    without_dropout(distiller)
    if distiller.needs_prepare:
        distiller.prepare([global_batch(12)])
    return distiller


def global_batch(size):
    g = torch.Generator().manual_seed(2)
    index = torch.randperm(IMAGES, generator=g)[:size]
    return torch.randn(size, 3, SIZE, SIZE, generator=g, dtype=torch.float64), index % CLASSES, index


def step(distiller, columns, epoch=0, parts=1):
    """One step on a global batch; returns what must not depend on the number of processes."""
    torch.manual_seed(7)
    distiller.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(parts):
        rows = slice(len(columns[0]) * i // parts, len(columns[0]) * (i + 1) // parts)
        images, target, index = part([c[rows] for c in columns], distiller.ranks)
        out = distiller(images, target, index=index, epoch=epoch)
        distiller.backward(out, last=i == parts - 1, scale=1 / parts)
        loss += out.loss.detach() / parts
    gradients = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
    info = {f"info/{key}": value for key, value in distiller.alignment.items()}
    loss = distiller.ranks.total(loss) / distiller.ranks.world
    return {**gradients, **info, "loss": loss}


class Opposed(nn.Module):
    """A network whose twin with the opposite head pulls against the labels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.fc(self.body(x))


def conflict(align):
    """A distiller and a batch on which labels and teacher disagree."""
    torch.manual_seed(3)
    student, teacher = Opposed(), Opposed()
    teacher.load_state_dict(student.state_dict())
    with torch.no_grad():
        teacher.fc.weight.mul_(-50)
    losses = [{"name": "ce"}, {"name": "dual_head_kd", "head": "linear", "temperature": 1}]
    distiller = Distiller(student, teacher, losses, align=align, example=torch.zeros(2, 3, SIZE, SIZE))
    distiller.double()
    teacher.double()
    distiller.heads["dual_head_kd"]["aux"].load_state_dict(student.fc.state_dict())
    images, _, index = global_batch(11)
    with torch.no_grad():
        target = student.eval()(images).argmax(dim=1)
    student.train()
    return distiller, (images, target, index)
