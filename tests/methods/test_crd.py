import math

import pytest
import torch
from torch import nn

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.interface import Batch

IMAGES, CLASSES, LR = 30, 3, 0.1
LABELS = torch.arange(IMAGES) % CLASSES


class Net(nn.Module):
    """One linear feature and a head: small enough to follow by hand."""

    def __init__(self, width):
        super().__init__()
        self.flatten = nn.Flatten()
        self.body = nn.Linear(12, width)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.fc(self.body(self.flatten(x)))


def build(train_targets=LABELS, **settings):
    torch.manual_seed(0)
    example = torch.zeros(2, 3, 2, 2)
    losses = [{"name": "ce", "weight": 0.0}, {"name": "crd", **settings}]
    distiller = Distiller(Net(5), Net(7), losses, example=example, train_targets=train_targets).double()
    distiller.setup.teacher.module.double()
    return distiller


def batch_of(seed, size=6):
    g = torch.Generator().manual_seed(seed)
    index = torch.randperm(IMAGES, generator=g)[:size]
    return torch.randn(size, 3, 2, 2, generator=g, dtype=torch.float64), LABELS[index], index


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def normalised(v):
    length = dot(v, v) ** 0.5
    return [x / length for x in v]


def one_side(embeddings, bank, index, negatives, z, temperature):
    """A side of the loss, written out, with its Z if none is given. Numbers are 0-d tensors or floats."""
    count, share = len(negatives[0]), len(negatives[0]) / len(bank)
    scores = [
        [(dot(v, bank[j]) / temperature).exp() for j in (int(own), *others)]
        for v, own, others in zip(embeddings, index, negatives, strict=True)
    ]
    if z is None:
        z = len(bank) * float(sum(sum(row) for row in scores).detach()) / (len(index) * (1 + count))
    total = 0.0
    for own, *others in scores:
        total = total - (own / z / (own / z + share + 1e-7)).log()
        total = total - sum((share / (other / z + share + 1e-7)).log() for other in others)
    return total / len(index), z


# 1 + K rows of width E against N: the loss gathers rows in the first case, multiplies the whole bank in the other
@pytest.mark.parametrize(("width", "negatives", "momentum"), [(3, 4, 0.5), (6, 10, 0.25)])
def test_two_steps_equal_the_definition_written_out(width, negatives, momentum):
    """Loss, gradient, bank and Z of two steps in float64; student and embeddings after each."""
    distiller = build(width=width, negatives=negatives, momentum=momentum, temperature=0.5)
    teacher = distiller.setup.teacher.module
    parameters = dict(distiller.named_parameters())
    memory = distiller.heads["crd"]["memory"]
    weights = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    banks = {side: getattr(memory, side).tolist() for side in ("student", "teacher")}
    z = {"student": None, "teacher": None}
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=LR)
    for step in range(2):
        images, target, index = batch_of(step)
        torch.manual_seed(step)
        drawn = memory.negatives(target, negatives).tolist()
        torch.manual_seed(step)
        optimizer.zero_grad()
        out = distiller(images, target, index=index)
        distiller.backward(out)
        optimizer.step()

        flat = images.flatten(1)
        features = {
            "student": flat @ weights["student.body.weight"].T + weights["student.body.bias"],
            "teacher": teacher.body(flat).detach(),
        }
        embeddings = {}
        for side, feature in features.items():
            weight, bias = (weights[f"heads.crd.{side}.{kind}"] for kind in ("weight", "bias"))
            embeddings[side] = [normalised(list(row)) for row in feature @ weight.T + bias]
        loss = 0.0
        for side, other in (("student", "teacher"), ("teacher", "student")):
            part, z[side] = one_side(embeddings[side], banks[other], index, drawn, z[side], 0.5)
            loss = loss + part
        for side, bank in banks.items():
            for i, v in zip(index.tolist(), embeddings[side], strict=True):
                bank[i] = normalised(
                    [
                        momentum * old + (1 - momentum) * float(new.detach())
                        for old, new in zip(bank[i], v, strict=True)
                    ]
                )
        learned = [name for name in weights if ".fc." not in name]
        gradient = torch.autograd.grad(loss, [weights[name] for name in learned])
        with torch.no_grad():
            for name, slope in zip(learned, gradient, strict=True):
                weights[name] -= LR * slope

        torch.testing.assert_close(out.loss.detach(), loss.detach(), rtol=1e-11, atol=0)
        for name in learned:
            torch.testing.assert_close(
                parameters[name].detach(), weights[name].detach(), rtol=1e-10, atol=1e-12
            )
        for side, bank in banks.items():
            torch.testing.assert_close(
                getattr(memory, side), torch.tensor(bank, dtype=torch.float64), rtol=1e-11, atol=1e-13
            )
            assert float(getattr(memory, f"{side}_normalizer")) == pytest.approx(z[side], rel=1e-11)


def test_the_extras_are_two_embeddings_and_two_banks():
    heads = build().heads["crd"]
    assert sum(p.numel() for p in heads.parameters()) == 128 * (5 + 7) + 2 * 128
    memory = heads["memory"]
    assert memory.student.shape == memory.teacher.shape == (IMAGES, 128)
    assert memory.student.abs().max() <= math.sqrt(3 / 128)
    assert not list(memory.parameters())


def test_the_defaults_are_the_published_ones():
    method = build().terms[-1].method
    assert (method.temperature, method.negatives, method.width, method.momentum) == (0.07, 16384, 128, 0.5)


def test_the_order_of_the_batch_is_irrelevant_given_the_negatives():
    """Two images in all: the negative of each is the other, whoever draws."""
    distiller = build(torch.tensor([0, 1]), negatives=3, width=4).eval()
    images = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    target = index = torch.tensor([0, 1])
    one = distiller(images, target, index=index).loss
    other = distiller(images.flip(0), target.flip(0), index=index.flip(0)).loss
    torch.testing.assert_close(other, one, rtol=1e-12, atol=0)


def test_an_image_that_is_not_trained_on_is_nobodys_negative():
    targets = LABELS.clone()
    targets[10:] = -1
    memory = build(targets, negatives=500, width=4).heads["crd"]["memory"]
    assert memory.student.shape[0] == IMAGES  # rows are found by index, so the held-out keep theirs
    assert memory.negatives(torch.tensor([0, 1, 2]), 500).max() < 10


def test_the_gradient_is_that_of_the_rows_before_the_update():
    """The memory moves between loss and backward; a second pass over the moved one has another gradient."""
    images, target, index = batch_of(0)
    gradients = []
    for frozen in (False, True):
        distiller = build(negatives=10, width=6)
        if frozen:
            distiller.heads["crd"]["memory"].eval()
        torch.manual_seed(1)
        distiller.backward(distiller(images, target, index=index))
        gradients.append(distiller.student.body.weight.grad)
    assert torch.equal(*gradients)


def test_the_teachers_embedding_learns_but_not_its_feature():
    distiller = build(negatives=3, width=4)
    heads, method = distiller.heads["crd"], distiller.terms[-1].method
    _, target, index = batch_of(0)
    student, teacher = (torch.randn(6, d, dtype=torch.float64, requires_grad=True) for d in (5, 7))
    batch = Batch(torch.zeros(0), target, index)
    method.loss({"feature": student}, {"feature": teacher}, batch, heads).backward()
    assert student.grad.any()
    assert heads["teacher"].weight.grad.any()
    assert teacher.grad is None


def test_a_batch_without_index_is_one_clear_error():
    distiller = build(negatives=3)
    images, target, _ = batch_of(0)
    with pytest.raises(ValueError, match=r"crd must know which training image .* index=") as error:
        distiller(images, target)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("train_targets", "message"),
    [
        (None, "crd must know the label of every training image, got none. Pass train_targets="),
        (torch.zeros(IMAGES, dtype=torch.int64), "at least two classes"),
    ],
)
def test_training_labels_that_give_no_negatives_are_one_clear_error(train_targets, message):
    with pytest.raises(ValueError, match=message) as error:
        build(train_targets)
    assert "\n" not in str(error.value)


def test_a_batch_may_be_smaller_than_the_one_before():
    distiller = us.Distiller(
        us.create_model("cnn_tiny", CLASSES),
        us.create_model("resnet8", CLASSES),
        [{"name": "ce"}, {"name": "crd", "negatives": 5}],
        train_targets=LABELS,
    )
    for size in (6, 1):
        images, target, index = batch_of(0, size)
        batch = Batch(images, target, index)
        x = torch.nn.functional.interpolate(batch.images.float(), size=16)
        distiller.backward(distiller(x, target, index=index))
        assert distiller.heads["crd"]["memory"].student[index].norm(dim=1).allclose(torch.ones(size))
