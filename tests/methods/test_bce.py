"""Binary cross-entropy: by hand, with weights and unknown labels, and as the limit of BinaryKL."""

import math

import pytest
import torch

import understudy as us
from understudy.interface import Batch
from understudy.methods.bce import BinaryCrossEntropy
from understudy.methods.binary_kl import BinaryKL


def loss_of(logits, target, **settings):
    batch = Batch(torch.zeros(len(logits)), target)
    return BinaryCrossEntropy(**settings).loss({"logits": logits}, {}, batch, None)


def by_hand(logits, rows, weights=None):
    total = 0.0
    for z_row, y_row in zip(logits.tolist(), rows.tolist(), strict=True):
        for c, (z, y) in enumerate(zip(z_row, y_row, strict=True)):
            if y >= 0:
                p = 1 / (1 + math.exp(-z))
                total -= (weights[c] if weights else 1) * math.log(p) if y else math.log(1 - p)
    return total / len(logits)


def case(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(7, 3, generator=g, dtype=torch.float64), torch.randint(-1, 2, (7, 3), generator=g)


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.0)])
def test_it_is_the_sum_over_known_classes_and_the_mean_over_images(weights):
    logits, target = case()
    assert float(loss_of(logits, target, pos_weight=weights)) == pytest.approx(
        by_hand(logits, target, weights), rel=1e-12
    )


def test_what_nobody_knows_has_no_gradient():
    logits, target = case()
    (gradient,) = torch.autograd.grad(loss_of(logits.requires_grad_(), target), logits)
    assert not gradient[target == -1].any()
    assert gradient[target >= 0].all()


def test_class_numbers_are_rows_with_one_class():
    logits, number = case()[0], torch.tensor([0, 2, 1, 1, 0, 2, 2])
    rows = torch.nn.functional.one_hot(number, 3)
    assert torch.equal(loss_of(logits, number), loss_of(logits, rows))


def test_a_certain_teacher_gives_the_same_gradient_through_binary_kl():
    logits, target = case()
    logits, rows = logits.requires_grad_(), target.clamp_min(0)
    teacher = {"logits": torch.where(rows == 1, 60.0, -60.0).double()}
    batch = Batch(torch.zeros(7), rows)
    taught = BinaryKL(temperature=1.0).loss({"logits": logits}, teacher, batch, None)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (loss_of(logits, rows), taught))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_mixed_images_have_both_labels():
    logits, target = case()
    partner = target.roll(1, 0)
    batch = Batch(torch.zeros(7), target, partner=partner, kept=0.3)
    mixed = BinaryCrossEntropy().loss({"logits": logits}, {}, batch, None)
    expected = 0.3 * by_hand(logits, target) + 0.7 * by_hand(logits, partner)
    assert float(mixed) == pytest.approx(expected, rel=1e-12)


def term(targets, weights="auto", **options):
    student = us.create_model("cnn_tiny", num_classes=3)
    losses = [{"name": "bce", "pos_weight": weights}]
    return us.Distiller(student, None, losses, train_targets=targets, **options).terms[0].spec()["pos_weight"]


def test_auto_is_without_over_with_of_the_known_labels():
    rows = torch.tensor([[1, 0, 0], [0, 0, -1], [0, 1, -1], [0, 1, 0], [-1, -1, -1]], dtype=torch.int8)
    assert term(rows, multilabel=True) == [3.0, 1.0, 1.0]
    assert term(torch.tensor([0, 0, 1, 2, -1])) == [1.0, 3.0, 3.0]
    everywhere = torch.tensor([[1, 0, 1], [1, 1, -1]], dtype=torch.int8)
    assert term(everywhere, multilabel=True) == [1.0, 1.0, 1.0]  # one that all have is learned, too


def test_wrong_weights_are_one_line():
    with pytest.raises(ValueError, match="one number for each of 3 classes, got 2"):
        term(None, (1.0, 2.0))
    with pytest.raises(ValueError, match="must know the training labels"):
        term(None)
