"""Keyed choices of images: exact counts, fair to classes, nested, the same for ever."""

import pytest
import torch

from understudy.data.subsets import balanced, complement, stratified

UNEVEN = torch.tensor([0] * 500 + [1] * 300 + [2] * 7 + [4] * 193)[
    torch.randperm(1000, generator=torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize("choose", [stratified, balanced])
@pytest.mark.parametrize("count", [0, 1, 10, 137, 999, 1000])
def test_as_many_as_asked_are_chosen_once_each_in_order(choose, count):
    chosen = choose(UNEVEN, count, 0)
    assert len(chosen) == count
    assert chosen.tolist() == sorted(set(chosen.tolist()))


@pytest.mark.parametrize("count", [10, 100, 137, 500])
def test_stratified_takes_every_class_in_proportion_to_within_one(count):
    taken = UNEVEN[stratified(UNEVEN, count, 0)].bincount(minlength=5)
    assert ((taken - UNEVEN.bincount() * count / 1000).abs() < 1).all()


def test_balanced_takes_equally_many_and_makes_up_for_small_classes():
    assert UNEVEN[balanced(UNEVEN, 20, 0)].bincount().tolist() == [5, 5, 5, 0, 5]
    assert UNEVEN[balanced(UNEVEN, 97, 0)].bincount().tolist() == [30, 30, 7, 0, 30]
    assert sorted(UNEVEN[balanced(UNEVEN, 6, 0)].bincount().tolist()) == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("choose", [stratified, balanced])
def test_a_smaller_choice_lies_within_a_larger_one(choose):
    assert set(choose(UNEVEN, 50, 3).tolist()) < set(choose(UNEVEN, 60, 3).tolist())


@pytest.mark.parametrize("choose", [stratified, balanced])
def test_the_seed_and_nothing_else_decides(choose):
    torch.manual_seed(1)
    first = choose(UNEVEN, 100, 5)
    torch.manual_seed(2)
    assert torch.equal(first, choose(UNEVEN, 100, 5))
    assert not torch.equal(first, choose(UNEVEN, 100, 6))


def test_images_without_a_label_are_a_class_of_their_own():
    targets = torch.tensor([-1] * 20 + [0] * 40 + [1] * 40)
    assert targets[stratified(targets, 10, 0)].unique(return_counts=True)[1].tolist() == [2, 4, 4]
    assert targets[balanced(targets, 9, 0)].unique(return_counts=True)[1].tolist() == [3, 3, 3]


def test_complement_is_what_is_left():
    assert complement(torch.tensor([1, 3]), 5).tolist() == [0, 2, 4]
