import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from understudy.metrics import (
    Difference,
    difference,
    paired_difference,
    summarise,
    unpaired_difference,
    verdict,
)
from understudy.report.text_tables import interval

A = [76.5, 76.1, 76.9, 76.4, 76.6]
B = [75.6, 75.7, 76.0, 75.4, 75.8]

results = st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=2, max_size=8)


def test_summary_equals_numpy():
    summary = summarise(A)
    assert summary.n == 5
    assert summary.mean == pytest.approx(np.mean(A))
    assert summary.std == pytest.approx(np.std(A, ddof=1))


def test_one_seed_has_no_deviation():
    assert summarise([70.0]).std is None


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_paired_interval_equals_scipy(confidence):
    got = paired_difference(A, B, confidence)
    want = stats.ttest_rel(A, B).confidence_interval(confidence)
    assert got.mean - got.half_width == pytest.approx(want.low, rel=1e-9)
    assert got.mean + got.half_width == pytest.approx(want.high, rel=1e-9)


@pytest.mark.parametrize("other", [B, B[:2], [70.0, 80.0, 75.0]])
def test_welch_interval_equals_scipy(other):
    got = unpaired_difference(A, other)
    want = stats.ttest_ind(A, other, equal_var=False).confidence_interval(0.95)
    assert got.kind == "welch"
    assert got.n == (5, len(other))
    assert got.mean - got.half_width == pytest.approx(want.low, rel=1e-9)
    assert got.mean + got.half_width == pytest.approx(want.high, rel=1e-9)


@settings(max_examples=60)
@given(values=results, data=st.data())
def test_swapping_the_methods_swaps_the_sign_and_nothing_else(values, data):
    n = len(values)
    other = data.draw(st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=n, max_size=n))
    for compare in (paired_difference, unpaired_difference):
        there, back = compare(values, other), compare(other, values)
        assert there.mean == pytest.approx(-back.mean, abs=1e-9)
        assert there.half_width == pytest.approx(back.half_width, abs=1e-9)
    paired = paired_difference(values, other)
    assert paired.wins + paired.ties + paired_difference(other, values).wins == n


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        shared = rng.normal(0, 3, 3)  # what a seed does to both methods
        ours, other = 1 + shared + rng.normal(0, 0.5, 3), shared + rng.normal(0, 0.5, 3)
        got = paired_difference(ours.tolist(), other.tolist())
        covered += abs(got.mean - 1) <= got.half_width
    assert 930 <= covered <= 970  # 950 expected, standard deviation 7


def test_wins_are_counted_seed_by_seed():
    got = paired_difference([2.0, 1.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    assert (got.wins, got.ties, got.n) == (2, 1, (4, 4))


def test_pairing_is_by_seed_and_not_by_order():
    ours, other = dict(enumerate(A)), dict(reversed(list(enumerate(B))))
    assert difference(ours, other) == paired_difference(A, B)


def test_seeds_in_common_are_paired_and_the_rest_left_out():
    got = difference({0: 5.0, 1: 6.0, 2: 9.0}, {1: 5.0, 2: 7.0, 3: 0.0})
    assert got == paired_difference([6.0, 9.0], [5.0, 7.0])


def test_different_seeds_give_the_unpaired_difference():
    assert difference(dict(enumerate(A)), dict(enumerate(B, start=10))) == unpaired_difference(A, B)
    assert difference({0: 5.0, 1: 6.0}, {1: 4.0, 2: 3.0}).kind == "welch"  # one common seed is no pair


def test_one_seed_on_a_side_gives_a_plain_difference():
    got = difference({0: 71.0}, {1: 70.0, 2: 70.5})
    assert (got.kind, got.n, got.half_width) == ("plain", (1, 2), None)
    assert got.mean == pytest.approx(0.75)


@pytest.mark.parametrize("compare", [unpaired_difference, paired_difference])
def test_results_that_never_vary_leave_no_interval_around_a_difference(compare):
    assert compare([1.0, 1.0], [2.0, 2.0]).half_width is None
    assert compare([1.0, 1.0], [1.0, 1.0]).half_width == 0


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (Difference("paired", (5, 5), 0.8, 0.3), "DHKD better than KD by 0.8 ± 0.3 points (5 seeds)"),
        (Difference("paired", (5, 5), -0.8, 0.3), "DHKD worse than KD by 0.8 ± 0.3 points (5 seeds)"),
        (Difference("paired", (3, 3), 0.1, 0.4), "DHKD and KD: within noise (0.1 ± 0.4 points, 3 seeds)"),
        (Difference("paired", (3, 3), -0.1, 0.4), "DHKD and KD: within noise (-0.1 ± 0.4 points, 3 seeds)"),
        (Difference("paired", (3, 3), -0.01, 0.4), "DHKD and KD: within noise (0.0 ± 0.4 points, 3 seeds)"),
        (Difference("paired", (3, 3), 0.0, 0.0), "DHKD and KD: within noise (0.0 ± 0.0 points, 3 seeds)"),
        (
            Difference("welch", (5, 3), 1.25, 0.5),
            "DHKD better than KD by 1.2 ± 0.5 points (5 and 3 seeds, unpaired)",
        ),
        (
            Difference("welch", (5, 3), 0.2, 0.5),
            "DHKD and KD: within noise (0.2 ± 0.5 points, 5 and 3 seeds, unpaired)",
        ),
        (
            Difference("paired", (1, 1), 0.8, None),
            "DHKD and KD: one seed says nothing about noise (difference 0.8 points)",
        ),
        (
            Difference("plain", (1, 4), -9.0, None),
            "DHKD and KD: one seed says nothing about noise (difference -9.0 points)",
        ),
    ],
)
def test_verdicts_are_plain_sentences(numbers, sentence):
    assert verdict("DHKD", "KD", numbers) == sentence


def test_seeds_that_all_differ_alike_prove_nothing():
    """One image of 45 on both seeds is no certainty."""
    found = paired_difference([100 * 30 / 45, 100 * 33 / 45], [100 * 31 / 45, 100 * 34 / 45])
    assert found.half_width is None
    assert interval(found) == "−2.22"
    assert not found.beyond_noise
    assert (
        verdict("A", "B", found)
        == "A and B: 2 seeds, all with one difference, say nothing about noise (-2.2 points)"
    )
    assert "within noise" in verdict("A", "B", paired_difference([70.0, 71.0], [70.0, 71.0]))


@pytest.mark.parametrize(
    ("mean", "half_width", "part"),
    [
        (0.04, 0.03, "0.04 ± 0.03"),
        (0.44, 0.43, "0.44 ± 0.43"),
        (0.35, 0.449, "0.3 ± 0.4"),
        (0.46, 0.51, "0.5 ± 0.5"),
    ],
)
def test_rounding_never_contradicts_the_verdict(mean, half_width, part):
    assert part in verdict("A", "B", Difference("paired", (3, 3), mean, half_width))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_run_is_not_averaged(bad):
    for call in (
        lambda: summarise([bad]),
        lambda: paired_difference([1.0, bad], [1.0, 2.0]),
        lambda: unpaired_difference([1.0, 2.0], [bad, 1.0]),
    ):
        with pytest.raises(ValueError, match=r"must be finite, got (nan|inf)"):
            call()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="values must hold a result for at least one seed, got none"):
        summarise([])
    with pytest.raises(ValueError, match="other must hold a result"):
        difference({0: 1.0}, {})
    with pytest.raises(ValueError, match="paired results must be equally many, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
    for compare in (paired_difference, unpaired_difference):
        with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 95"):
            compare(A, B, confidence=95)
