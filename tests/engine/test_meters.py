import pytest
import torch

from understudy.engine.meters import Meters


def added(meters, ce, kd, n=4):
    terms = {"ce": torch.tensor(ce), "kd": torch.tensor(kd)}
    logits = torch.eye(4)[:n]
    meters.add(sum(terms.values()), terms, logits, torch.zeros(n, dtype=torch.int64))


def test_means_are_weighted_by_batch_size():
    meters = Meters(["ce", "kd"], torch.device("cpu"), 4)
    added(meters, 1.0, 3.0, n=4)
    added(meters, 2.0, 3.0, n=2)
    summary = meters.summary()
    assert summary["train/ce"] == pytest.approx((4 * 1 + 2 * 2) / 6)
    assert summary["train/loss"] == pytest.approx(summary["train/ce"] + 3)
    assert summary["train/acc1"] == pytest.approx(100 * 2 / 6)


@pytest.mark.parametrize(
    ("predicted", "targets", "expected"),
    [
        ([2] * 100, [0, 1, 2, 3] * 25, 2),
        ([2] * 99 + [1], [0, 1, 2, 3] * 25, 2),
        ([2] * 98 + [1] * 2, [0, 1, 2, 3] * 25, None),
        ([2] * 100, [2] * 70 + [1] * 30, None),  # the images themselves are of one class
        ([2] * 99, [0, 1, 3] * 33, None),  # too few to say
    ],
)
def test_predictions_for_one_wrong_class_are_a_collapse(predicted, targets, expected):
    meters, loss = Meters(["ce"], torch.device("cpu"), 4), torch.tensor(1.0)
    for part in (slice(0, 60), slice(60, None)):
        meters.add(loss, {"ce": loss}, torch.eye(4)[predicted[part]], torch.tensor(targets[part]))
    assert meters.collapsed() == expected


def test_what_is_said_of_images_without_a_label_is_no_collapse():
    meters, loss = Meters(["kd"], torch.device("cpu"), 4), torch.tensor(1.0)
    targets = torch.tensor(([0, 1, 2, 3] + [-1] * 16) * 40)  # one of five has a label
    predicted = torch.arange(len(targets)) % 4
    meters.add(loss, {"kd": loss}, torch.eye(4)[(predicted + 1) % 4], targets)
    assert meters.collapsed() is None
    assert meters.summary()["train/acc1"] == 0.0
    meters.add(loss, {"kd": loss}, torch.eye(4)[targets.clamp_min(0)], targets)
    assert meters.summary()["train/acc1"] == 50.0


def test_saved_sums_go_on_where_they_stopped():
    whole, first = (Meters(["ce", "kd"], torch.device("cpu"), 4) for _ in range(2))
    for meters in (whole, first):
        added(meters, 1.0, 3.0)
    second = Meters(["ce", "kd"], torch.device("cpu"), 4)
    second.load_state_dict(first.state_dict())
    for meters in (whole, second):
        added(meters, 2.0, 5.0)
    assert whole.summary() == second.summary()
