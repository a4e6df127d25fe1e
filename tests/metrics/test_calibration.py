import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from understudy.metrics import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_table,
)

MEASURES = (brier_score, expected_calibration_error, negative_log_likelihood, reliability_table)


def sample(batch=400, num_classes=7, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, num_classes, generator=generator, dtype=torch.float64)
    # labels that the logits know something of
    target = torch.where(
        torch.rand(batch, generator=generator) < 0.6,
        logits.argmax(dim=1),
        torch.randint(num_classes, (batch,), generator=generator),
    )
    return logits, target


def softmax(row):
    powers = [math.exp(z - max(row)) for z in row]
    return [p / sum(powers) for p in powers]


def naive_ece(logits, target, bins):
    total = 0.0
    rows = [
        (max(softmax(row)), row.index(max(row)) == y)
        for row, y in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    for i in range(bins):
        inside = [(c, hit) for c, hit in rows if i / bins < c <= (i + 1) / bins]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(hit for _, hit in inside) / len(inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0])
def test_error_equals_the_naive_loop(bins, scale):
    logits, target = sample(scale=scale)
    got = expected_calibration_error(logits, target, bins)
    assert got.dtype == torch.float64
    assert float(got) == pytest.approx(naive_ece(logits, target, bins), rel=1e-12)


def test_table_equals_scikit_learn():
    logits, target = sample()
    table = reliability_table(logits, target)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    accuracy, mean = calibration_curve((predicted == target).numpy(), confidence.numpy(), n_bins=15)
    filled = table.count > 0
    np.testing.assert_allclose(table.accuracy[filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose(table.confidence[filled], mean, rtol=1e-12)


def test_empty_bins_are_nan_and_all_samples_are_counted():
    logits, target = sample(num_classes=2)  # of two classes one has at least 1/2: the low bins stay empty
    table = reliability_table(logits, target)
    assert int(table.count.sum()) == len(target)
    assert table.count[:7].tolist() == [0] * 7
    assert table.accuracy[:7].isnan().all()
    assert table.confidence[:7].isnan().all()
    assert (table.edges[0], table.edges[-1], len(table.edges)) == (0, 1, 16)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    table = reliability_table(torch.zeros(1, 2), torch.tensor([0]), bins=4)  # confidence exactly 1/2
    assert table.count.tolist() == [0, 1, 0, 0]


def test_certainty_falls_into_the_last_bin():
    table = reliability_table(torch.tensor([[500.0, 0.0]]), torch.tensor([0]))
    assert table.count.tolist() == [0] * 14 + [1]
    assert expected_calibration_error(torch.tensor([[500.0, 0.0]]), torch.tensor([0])) == 0


def test_a_network_that_never_knows_is_calibrated_at_chance():
    logits, target = torch.zeros(30, 3), torch.arange(30) % 3
    assert float(expected_calibration_error(logits, target)) == pytest.approx(0, abs=1e-6)


def test_likelihood_equals_scikit_learn():
    logits, target = sample()
    want = log_loss(target, logits.softmax(dim=1), labels=range(7))
    assert float(negative_log_likelihood(logits, target)) == pytest.approx(want, rel=1e-12)


def test_brier_score_equals_the_naive_loop():
    logits, target = sample()
    want = np.mean(
        [
            sum((p - (k == y)) ** 2 for k, p in enumerate(softmax(row)))
            for row, y in zip(logits.tolist(), target.tolist(), strict=True)
        ]
    )
    assert float(brier_score(logits, target)) == pytest.approx(want, rel=1e-12)


def test_brier_score_of_a_certain_mistake_is_2():
    assert float(brier_score(torch.tensor([[500.0, 0.0]]), torch.tensor([1]))) == 2


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), num_classes=st.integers(2, 12), scale=st.floats(0.01, 100))
def test_measures_stay_in_their_ranges(seed, num_classes, scale):
    logits, target = sample(20, num_classes, seed, scale)
    logits = logits.float()
    assert 0 <= float(expected_calibration_error(logits, target)) <= 1
    assert 0 <= float(brier_score(logits, target)) <= 2 + 1e-6
    assert float(negative_log_likelihood(logits, target)) >= 0


def test_half_precision_is_computed_in_float32():
    logits, target = sample()
    half = logits.to(torch.bfloat16)
    for measure in (brier_score, expected_calibration_error, negative_log_likelihood):
        assert measure(half, target).dtype == torch.float32
        assert torch.equal(measure(half, target), measure(half.float(), target))


def test_nothing_keeps_a_graph():
    logits, target = sample()
    logits.requires_grad_()
    assert not brier_score(logits, target).requires_grad
    assert not expected_calibration_error(logits, target).requires_grad
    assert not reliability_table(logits, target).confidence.requires_grad


@pytest.mark.parametrize("measure", MEASURES)
def test_no_sample_is_an_error(measure):
    with pytest.raises(ValueError, match="logits must hold at least one sample, got none"):
        measure(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("measure", MEASURES)
def test_wrong_targets_are_an_error(measure):
    with pytest.raises(ValueError, match=r"target must lie in \[0, 3\), got -1"):
        measure(torch.zeros(1, 3), torch.tensor([-1]))


def test_no_bins_are_an_error():
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        expected_calibration_error(torch.zeros(1, 3), torch.tensor([0]), bins=0)
