import itertools

import pytest
import torch
from torch import nn

from understudy.teacher import precision
from understudy.teacher.precision import choose_precision, compare_logits, measure_speedup


class Counted(nn.Module):
    """Logits that depend on whether autocast is on, and on nothing else."""

    def __init__(self, full, half):
        super().__init__()
        self.full, self.half = full, half
        self.runs = 0

    def forward(self, images):
        self.runs += 1
        return (self.half if torch.is_autocast_enabled(images.device.type) else self.full).clone()


FULL = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
IMAGES = torch.zeros(3, 3, 4, 4)


def faster(monkeypatch, by):
    monkeypatch.setattr(precision, "measure_speedup", lambda slow, fast, device: by)


def test_bf16_is_chosen_where_it_is_right_and_faster(monkeypatch):
    faster(monkeypatch, 2.0)
    choice = choose_precision(Counted(FULL, FULL + 0.01), IMAGES)
    assert choice.precision == "bf16"
    assert "2.00 times as fast" in choice.note


@pytest.mark.parametrize("by", [0.4, 1.05])
def test_fp32_is_kept_where_bf16_is_not_clearly_faster(monkeypatch, by):
    faster(monkeypatch, by)
    choice = choose_precision(Counted(FULL, FULL), IMAGES)
    assert choice.precision == "fp32"
    assert f"{by:.2f} times" in choice.note


@pytest.mark.parametrize(
    "half",
    [FULL.roll(1, 1), FULL + torch.eye(3), torch.full_like(FULL, torch.nan), FULL * torch.inf],
    ids=["other classes", "too far off", "nan", "inf"],
)
def test_fp32_is_kept_where_bf16_is_wrong_however_fast(monkeypatch, half):
    faster(monkeypatch, 100.0)
    choice = choose_precision(Counted(FULL, half), IMAGES)
    assert choice.precision == "fp32"
    assert "off by" in choice.note


def test_weights_in_another_type_than_float32_run_as_they_are():
    choice = choose_precision(Counted(FULL, FULL), IMAGES.double())
    assert choice.precision == "fp32"
    assert "float64" in choice.note


def test_agreement_counts_first_classes_that_the_error_cannot_swap():
    reference = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.50, 0.49]])
    swapped = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.49, 0.50]])
    deviation, agreement = compare_logits(reference, swapped)
    assert agreement == 1.0
    assert deviation == pytest.approx(0.01 / (0.25 * 2 / 3 + 0.005**2 / 3) ** 0.5, rel=1e-4)


def test_a_real_network_passes_the_test_of_correctness(make):
    world = make(n=16)
    source = world.blocks().source
    module = world.teacher.module
    with torch.no_grad():
        full = module(source.sample(16))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = module(source.sample(16)).float()
    deviation, agreement = compare_logits(full, half)
    assert 0 < deviation < precision.MAX_DEVIATION
    assert agreement >= precision.MIN_AGREEMENT


def test_speed_is_the_best_of_alternating_rounds_after_a_warm_up(monkeypatch):
    took = itertools.chain([50, 90], [4, 3], [6, 2], [5, 9])  # slow, fast, slow, ...
    times = iter([t for seconds in took for t in (0.0, float(seconds))])
    monkeypatch.setattr(precision, "clock", lambda device: next(times))
    order = []
    got = measure_speedup(lambda: order.append("slow"), lambda: order.append("fast"), torch.device("cpu"))
    assert got == 2.0
    assert order == ["slow", "fast"] * 4
