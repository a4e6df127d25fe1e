import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from understudy.metrics import correct


def by_sorting(logits, target, k):
    """Python's stable sort: highest first, lower class first among equals."""
    hits = 0
    for row, label in zip(logits.tolist(), target.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: -row[c])
        hits += label in order[:k]
    return hits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_counts_equal_scikit_learn_where_nothing_ties(dtype):
    generator = torch.Generator().manual_seed(0)
    # permutations: no ties in any precision
    logits = torch.stack([torch.randperm(10, generator=generator) for _ in range(200)]).to(dtype)
    target = torch.randint(10, (200,), generator=generator)
    want = [
        top_k_accuracy_score(target, logits.double().numpy(), k=k, labels=np.arange(10), normalize=False)
        for k in (1, 3, 5)
    ]
    assert correct(logits, target, k=(1, 3, 5)).tolist() == want


@settings(max_examples=100)
@given(st.data())
def test_ties_go_to_the_lower_class(data):
    num_classes = data.draw(st.integers(1, 6))
    rows = data.draw(
        st.lists(st.lists(st.integers(0, 2), min_size=num_classes, max_size=num_classes), min_size=1)
    )
    target = torch.tensor(
        data.draw(st.lists(st.integers(0, num_classes - 1), min_size=len(rows), max_size=len(rows)))
    )
    logits = torch.tensor(rows, dtype=torch.float32)
    got = correct(logits, target, k=(1, 2, 5)).tolist()
    assert got == [by_sorting(logits, target, k) for k in (1, 2, 5)]
    assert got[0] == int((logits.argmax(dim=1) == target).sum())


def test_a_constant_network_is_right_on_class_0_only():
    assert correct(torch.zeros(10, 10), torch.arange(10), k=(1, 5)).tolist() == [1, 5]


def test_k_above_the_number_of_classes_means_all_classes():
    logits, target = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)), torch.arange(7) % 3
    assert correct(logits, target, k=(3, 5)).tolist() == [7, 7]


def test_a_nan_never_makes_a_sample_correct():
    nan = float("nan")
    logits = torch.tensor([[nan, 0.0, 1.0], [nan, 0.0, 1.0], [nan, nan, nan]])
    target = torch.tensor([0, 2, 1])
    assert correct(logits, target, k=(1, 2, 5)).tolist() == [0, 1, 1]


def test_an_empty_batch_counts_nothing():
    assert correct(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).tolist() == [0, 0]


def test_counts_of_batches_add_up():
    generator = torch.Generator().manual_seed(2)
    logits, target = torch.randn(30, 8, generator=generator), torch.randint(8, (30,), generator=generator)
    parts = correct(logits[:11], target[:11]) + correct(logits[11:], target[11:])
    assert torch.equal(parts, correct(logits, target))


def test_no_value_is_read_on_the_host():
    # a meta tensor has no values: reading one raises
    counts = correct(torch.empty(4, 10, device="meta"), torch.empty(4, dtype=torch.int64, device="meta"))
    assert counts.device.type == "meta"
    assert counts.shape == (2,)
    assert counts.dtype == torch.int64


@pytest.mark.parametrize(
    ("logits", "target", "k", "match"),
    [
        (
            torch.zeros(4),
            torch.zeros(4, dtype=torch.int64),
            (1,),
            r"logits must have shape \(B, C\), got \(4,\)",
        ),
        (
            torch.zeros(4, 3, dtype=torch.int64),
            torch.zeros(4, dtype=torch.int64),
            (1,),
            "logits must be floating",
        ),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64), (1,), r"target must be int64 of shape \(4,\)"),
        (torch.zeros(4, 3), torch.zeros(4), (1,), "got torch.float32"),
        (torch.zeros(1, 3), torch.tensor([3]), (1,), r"target must lie in \[0, 3\), got 3"),
        (torch.zeros(1, 3), torch.tensor([0]), (), r"k must hold numbers from 1 up, got \(\)"),
        (torch.zeros(1, 3), torch.tensor([0]), (1, 0), r"got \(1, 0\)"),
    ],
)
def test_wrong_arguments_are_named(logits, target, k, match):
    with pytest.raises(ValueError, match=match):
        correct(logits, target, k)
