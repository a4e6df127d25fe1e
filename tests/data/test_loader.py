"""Loaders: every image once an epoch, the same batches from anywhere, on any number of ranks."""

from itertools import islice

import pytest
import torch

from understudy.data import NO_AUGMENT, EvalLoader, PadCropFlip, TrainLoader, load, normalise
from understudy.data.counter import permutation

SPLITS = load("digits", val=0.1)


def train_loader(image_set=SPLITS.train, augment=NO_AUGMENT, **options):
    given = {"batch_size": 100, "seed": 0, "mean": SPLITS.mean, "std": SPLITS.std, **options}
    return TrainLoader(image_set, augment, **given)


def eval_loader(image_set, **options):
    return EvalLoader(image_set, **{"batch_size": 64, "mean": SPLITS.mean, "std": SPLITS.std, **options})


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "target", "index", "view")
    )


def test_an_epoch_shows_every_image_once_and_names_it_rightly():
    batches = list(train_loader().epoch(0))
    index = torch.cat([b.index for b in batches])
    assert index.sort().values.tolist() == SPLITS.train.index.tolist()
    whole = load("digits").train
    expected = normalise(whole.images[index], torch.tensor(SPLITS.mean), torch.tensor(SPLITS.std))
    assert torch.equal(torch.cat([b.images for b in batches]), expected)
    assert torch.equal(torch.cat([b.target for b in batches]), whole.targets[index])


def test_order_and_views_are_the_documented_functions_of_the_seed():
    loader = train_loader(augment=PadCropFlip(), seed=7)
    index = torch.cat([b.index for b in loader.epoch(3)])
    view = torch.cat([b.view for b in loader.epoch(3)])
    assert torch.equal(index, SPLITS.train.index[permutation(7, 3, len(SPLITS.train))])
    assert torch.equal(view, PadCropFlip().views(7, 3, index))


def test_images_of_a_batch_are_the_views_it_names():
    batch = next(train_loader(augment=PadCropFlip()).epoch(1))
    augment, whole = PadCropFlip(), load("digits").train
    expected = augment.render(
        whole.images, batch.index, batch.view, torch.tensor(SPLITS.mean), torch.tensor(SPLITS.std)
    )
    assert torch.equal(batch.images, expected)


def test_epochs_and_seeds_differ_and_repeat():
    loader = train_loader()
    first = next(loader.epoch(0)).index.tolist()
    assert first != next(loader.epoch(1)).index.tolist()
    assert first != next(train_loader(seed=1).epoch(0)).index.tolist()
    assert first == next(loader.epoch(0)).index.tolist()


@pytest.mark.parametrize("start", [0, 1, 7, 12])
def test_an_epoch_can_be_started_at_any_step(start):
    loader = train_loader(augment=PadCropFlip())
    whole = list(loader.epoch(2))
    rest = list(loader.epoch(2, start_step=start))
    assert len(rest) == loader.steps_per_epoch - start
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_global_random_state_neither_matters_nor_changes():
    torch.manual_seed(0)
    first = next(train_loader(augment=PadCropFlip()).epoch(0))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert same(first, next(train_loader(augment=PadCropFlip()).epoch(0)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_together_see_the_batches_of_one_process(world):
    alone = list(train_loader(augment=PadCropFlip()).epoch(0))
    ranks = [list(train_loader(augment=PadCropFlip(), rank=r, world=world).epoch(0)) for r in range(world)]
    for step, batch in enumerate(alone):
        parts = [batches[step] for batches in ranks]
        for name in ("images", "target", "index", "view"):
            assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))
        sizes = [len(p.target) for p in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_last_batch_smaller_than_the_world_leaves_a_rank_an_empty_batch():
    few = SPLITS.train.subset(torch.arange(9))
    last = [
        list(train_loader(few, PadCropFlip(), batch_size=8, rank=r, world=2).epoch(0))[-1] for r in range(2)
    ]
    assert sorted(len(b.target) for b in last) == [0, 1]
    assert all(b.images.shape[1:] == (1, 8, 8) for b in last)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [400, 400, 367]), (True, [400, 400])])
def test_the_last_smaller_batch_is_kept_unless_told_otherwise(drop_last, sizes):
    loader = train_loader(batch_size=400, drop_last=drop_last)
    assert [len(b.target) for b in loader.epoch(0)] == sizes
    assert [loader.global_batch_size(step) for step in range(loader.steps_per_epoch)] == sizes


def test_a_view_of_an_image_is_the_same_in_the_whole_set_and_in_a_part():
    whole = load("digits").train

    def views(image_set):
        batches = train_loader(image_set, PadCropFlip()).epoch(4)
        return {i: v for b in batches for i, v in zip(b.index.tolist(), b.view.tolist(), strict=True)}

    assert views(SPLITS.train).items() <= views(whole).items()


def test_evaluation_goes_in_order_through_all_images_as_they_are():
    loader = eval_loader(SPLITS.test)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader) == 8
        expected = normalise(SPLITS.test.images, torch.tensor(SPLITS.mean), torch.tensor(SPLITS.std))
        assert torch.equal(torch.cat([b.images for b in batches]), expected)
        assert torch.equal(torch.cat([b.target for b in batches]), SPLITS.test.targets)
        assert torch.equal(torch.cat([b.index for b in batches]), SPLITS.test.index)
        assert batches[0].view is None


def test_ranks_together_evaluate_every_image_once():
    index = torch.cat([b.index for r in range(3) for b in eval_loader(SPLITS.test, rank=r, world=3)])
    assert index.sort().values.tolist() == list(range(500))


def test_batches_have_the_memory_format_asked_for():
    train = next(train_loader(augment=PadCropFlip(), memory_format=torch.channels_last).epoch(0))
    test = next(iter(eval_loader(SPLITS.test, memory_format=torch.channels_last)))
    assert train.images.is_contiguous(memory_format=torch.channels_last)
    assert test.images.is_contiguous(memory_format=torch.channels_last)


def test_images_stay_bytes():
    loader = train_loader()
    list(islice(loader.epoch(0), 2))
    assert loader.image_set.images.dtype == torch.uint8


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1 for each of 1 processes, got 0"):
        train_loader(batch_size=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1 for each of 4 processes, got 3"):
        eval_loader(SPLITS.test, batch_size=3, world=4)
    with pytest.raises(ValueError, match=r"at most the 1167 training images with train\.drop_last, got 2000"):
        train_loader(batch_size=2000, drop_last=True)


def test_a_start_beyond_the_epoch_is_refused_at_once():
    loader = train_loader()
    assert list(loader.epoch(0, start_step=12)) == []
    with pytest.raises(ValueError, match="start_step must be from 0 to 12, got 13"):
        loader.epoch(0, start_step=13)


def test_an_image_that_is_shown_again_in_an_epoch_has_other_views():
    few, many = ((SPLITS.train.targets == label).nonzero()[:count, 0] for label, count in ((0, 4), (1, 60)))
    image_set = SPLITS.train.subset(torch.cat((few, many)))
    rows, view = train_loader(image_set, PadCropFlip(), batch_size=8, balance=1.0).plan(0)
    times = rows.bincount()
    assert times.max() >= 4
    assert len(view[rows == times.argmax()].unique()) > 1
