import pytest
import torch

from understudy.engine.meters import Meters


def added(meters, ce, kd, n=4):
    terms = {"ce": torch.tensor(ce), "kd": torch.tensor(kd)}
    logits = torch.eye(4)[:n]
    meters.add(sum(terms.values()), terms, logits, torch.zeros(n, dtype=torch.int64))


def test_means_are_weighted_by_batch_size():
    meters = Meters(["ce", "kd"], torch.device("cpu"))
    added(meters, 1.0, 3.0, n=4)
    added(meters, 2.0, 3.0, n=2)
    summary = meters.summary()
    assert summary["train/ce"] == pytest.approx((4 * 1 + 2 * 2) / 6)
    assert summary["train/loss"] == pytest.approx(summary["train/ce"] + 3)
    assert summary["train/acc1"] == pytest.approx(100 * 2 / 6)


def test_the_term_that_failed_first_is_named():
    meters = Meters(["ce", "kd"], torch.device("cpu"))
    added(meters, 1.0, 3.0)
    assert meters.problem() is None
    added(meters, 1.0, float("nan"))
    added(meters, float("nan"), float("nan"))  # it has spread by now
    assert meters.problem() == "kd"


def test_saved_sums_go_on_where_they_stopped():
    whole, first = (Meters(["ce", "kd"], torch.device("cpu")) for _ in range(2))
    for meters in (whole, first):
        added(meters, 1.0, 3.0)
    second = Meters(["ce", "kd"], torch.device("cpu"))
    second.load_state_dict(first.state_dict())
    for meters in (whole, second):
        added(meters, 2.0, 5.0)
    assert whole.summary() == second.summary()
