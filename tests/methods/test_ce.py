"""Weights of classes in the cross-entropy: by hand, worked out from the labels, and in a whole run."""

import math

import pytest
import torch

import understudy as us
from understudy.interface import Batch
from understudy.methods.ce import CrossEntropy, constants


def by_hand(logits, target, weights):
    total = 0.0
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        total += weights[y] * (log_sum - row[y])
    return total / len(target)


def test_every_loss_counts_as_much_as_its_class():
    torch.manual_seed(0)
    logits, target = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    weights = (0.5, 2.0, 1.25)
    loss = CrossEntropy(class_weights=weights).loss(
        {"logits": logits}, {}, Batch(torch.zeros(7), target), None
    )
    assert float(loss) == pytest.approx(by_hand(logits, target, weights), rel=1e-12)


def test_parts_of_a_batch_add_up():
    logits, target = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3
    method = CrossEntropy(class_weights=(1.0, 5.0, 0.1))
    of = lambda rows: method.loss({"logits": logits[rows]}, {}, Batch(torch.zeros(8), target[rows]), None)  # noqa: E731
    whole = of(slice(None))
    parts = (of(slice(0, 2)) * 2 + of(slice(2, 8)) * 6) / 8
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)


def test_weights_are_brought_to_a_device_once():
    """A copy in every step is a wait for a GPU."""
    weights = (1.0, 5.0, 0.1)
    with torch.inference_mode():  # an evaluation asked first
        first = constants(weights, torch.zeros(1))
    assert constants(weights, torch.ones(3)) is first
    assert not first.is_inference()
    assert constants(weights, torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def distiller(weights, targets):
    student = us.create_model("cnn_tiny", num_classes=3)
    return us.Distiller(student, None, [{"name": "ce", "class_weights": weights}], train_targets=targets)


def test_auto_is_inverse_to_the_sizes_and_written_out():
    targets = torch.tensor([0] * 6 + [1] * 3 + [2] + [-1] * 5)
    (term,) = distiller("auto", targets).terms
    assert term.spec()["class_weights"] == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    mean = sum(w * n for w, n in zip(term.spec()["class_weights"], (6, 3, 1), strict=True)) / 10
    assert mean == pytest.approx(1.0)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="must know the training labels"):
        distiller("auto", None)
    with pytest.raises(ValueError, match="one number for each of 3 classes, got 2"):
        distiller([1.0, 2.0], None)


def test_a_run_with_auto_weights_goes_on_from_its_own_config(digits_config):
    losses = [{"name": "ce", "class_weights": "auto"}]
    config = {**digits_config, "losses": losses, "gradients": {"align": "none"}, "teacher": None}
    run = us.train(config, quiet=True, **{"train.epochs": 1})
    assert len(run.config.losses[0]["class_weights"]) == 10
    with pytest.raises(ValueError, match="must not hold a finished run"):  # not: another config
        us.train(config, quiet=True, **{"train.epochs": 1})
