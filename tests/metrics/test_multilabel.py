"""Average precision and counts of multi-label classification, against sums by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.metrics import average_precision, label_counts, micro_f1


def by_hand(scores, wanted):
    """Precision at every threshold that finds more of the class, weighted by how much more, in Python's own floats."""
    known = [(s, w) for s, w in zip(scores, wanted, strict=True) if w >= 0]
    total = sum(w for _, w in known)
    if not total:
        return math.nan
    value, before = 0.0, 0
    for threshold in sorted({s for s, _ in known}, reverse=True):
        found = [w for s, w in known if s >= threshold]
        value += (sum(found) - before) / total * sum(found) / len(found)
        before = sum(found)
    return value


@given(st.integers(0, 10**6))
def test_average_precision_is_the_sum_by_hand_ties_and_unknown_labels_included(seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (9, 4), generator=g).double()
    target = torch.randint(-1, 2, (9, 4), generator=g)
    got = average_precision(logits, target).tolist()
    for c, value in enumerate(got):
        expected = by_hand(logits[:, c].tolist(), target[:, c].tolist())
        assert (math.isnan(value) and math.isnan(expected)) or value == pytest.approx(expected, rel=1e-12)


def test_a_perfect_order_is_1_and_a_reversed_one_is_not():
    target = torch.tensor([[1], [1], [0], [0], [-1]])
    right = torch.tensor([[4.0], [3.0], [2.0], [1.0], [9.0]])
    assert average_precision(right, target).tolist() == [1.0]
    assert average_precision(-right, target).item() == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_counts_are_those_of_a_loop_and_of_any_parts():
    g = torch.Generator().manual_seed(3)
    logits, target = torch.randn(20, 3, generator=g), torch.randint(-1, 2, (20, 3), generator=g)
    expected = torch.zeros(4, 3, dtype=torch.int64)
    for i, c in itertools.product(range(20), range(3)):
        found, label = bool(logits[i, c] > 0), int(target[i, c])
        if label >= 0:
            expected[{(True, 1): 0, (True, 0): 1, (False, 1): 2, (False, 0): 3}[found, label], c] += 1
    assert torch.equal(label_counts(logits, target), expected)
    assert torch.equal(label_counts(logits[:7], target[:7]) + label_counts(logits[7:], target[7:]), expected)
    tp, fp, fn, _ = expected.sum(dim=1).tolist()
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert micro_f1(expected) == pytest.approx(2 * precision * recall / (precision + recall))
    assert micro_f1(torch.zeros(4, 3, dtype=torch.int64)) == 0


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), "a number for every logit"),
        (torch.zeros(2, 3), torch.full((2, 3), 2), "must be 1 .*got 2"),
        (torch.full((2, 3), torch.nan), torch.ones(2, 3, dtype=torch.int64), "got NaN"),
    ],
)
def test_wrong_input_is_one_line(logits, target, message):
    with pytest.raises(ValueError, match=message) as error:
        average_precision(logits, target)
    assert "\n" not in str(error.value)
