"""Which images of a batch each process computes; no process is needed to know that."""

from dataclasses import dataclass

import pytest
import torch

from understudy.data import PadCropFlip, load
from understudy.data.loader import TrainLoader
from understudy.engine.distributed import Ranks, Share


@dataclass
class Seat:
    """One place among several, as Ranks would say it."""

    rank: int
    world: int
    several: bool = True


def shares(*counts):
    return [Share(Seat(rank, len(counts)), counts) for rank in range(len(counts))]


def test_a_process_on_its_own_holds_all_and_scales_nothing():
    share = Ranks().share(torch.zeros(5, 1))
    assert (share.divided, share.repeated, share.rows) == (False, False, slice(0, 5))
    assert (share.balance, share.weight) == (1.0, 5.0)


@pytest.mark.parametrize("counts", [(4, 4), (2, 3), (7, 2, 4)])
def test_means_over_parts_are_balanced_to_the_mean_over_all(counts):
    parts = torch.rand(sum(counts), dtype=torch.float64).split(counts)
    every = shares(*counts)
    assert all(share.divided and not share.repeated for share in every)
    mean = sum(share.balance * part.mean() for share, part in zip(every, parts, strict=True)) / len(counts)
    torch.testing.assert_close(mean, torch.cat(parts).mean())
    assert sum(share.weight for share in every) == pytest.approx(sum(counts))
    assert [share.rows.stop - share.rows.start for share in every] == list(counts)


@pytest.mark.parametrize("counts", [(0, 1), (1, 1), (2, 1), (0, 0)])
def test_a_batch_that_leaves_a_process_too_few_is_computed_whole_by_all(counts):
    for share in shares(*counts):
        assert share.repeated
        assert share.balance == 1.0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_parts_of_a_batch_hold_the_same_images_on_any_number_of_processes(world):
    images = load("digits").train.subset(torch.arange(50))

    def epoch(rank, world):
        loader = TrainLoader(
            images,
            PadCropFlip(),
            batch_size=16,
            parts=3,
            seed=1,
            mean=[0.5],
            std=[0.5],
            rank=rank,
            world=world,
        )
        return [
            (loader.shares(step), batch.index.split([counts[rank] for counts in loader.shares(step)]))
            for step, batch in enumerate(loader.epoch(0))
        ]

    whole, every = epoch(0, 1), [epoch(rank, world) for rank in range(world)]
    for step, (counts, parts) in enumerate(whole):
        assert [sum(c) for c in every[0][step][0]] == [c for (c,) in counts]
        for number, part in enumerate(parts):
            assert torch.equal(torch.cat([found[step][1][number] for found in every]), part)
    assert [len(parts) for _, parts in whole] == [3, 3, 3, 2]  # of two images no third part is left
