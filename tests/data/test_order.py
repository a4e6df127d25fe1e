"""Rare classes shown more often: how often, which images, in which views, on any number of processes."""

from fractions import Fraction

import pytest
import torch

import understudy as us
from understudy.config import load_config
from understudy.data import PadCropFlip, load
from understudy.data.counter import permutation
from understudy.data.images import ImageSet
from understudy.data.loader import TrainLoader
from understudy.data.order import class_counts, epoch_order
from understudy.files import read_json_lines
from understudy.teacher.answers import plan

TARGETS = torch.tensor([0] * 60 + [1] * 25 + [2] * 10 + [4] * 5)  # none of class 3
SIZES = TARGETS.bincount().tolist()


def loader(balance, targets=TARGETS, **options):
    images = torch.arange(len(targets) * 16, dtype=torch.int64).remainder(251).to(torch.uint8)
    data = ImageSet.read(images.view(-1, 1, 4, 4), targets, list("abcde"), "x", unlabelled=True)
    given = {"batch_size": 16, "seed": 2, "mean": [0.0], "std": [1.0], "balance": balance, **options}
    return TrainLoader(data, PadCropFlip(pad=2), **given)


def test_without_balance_the_order_is_the_plain_permutation():
    rows, repetition = epoch_order(TARGETS, 0.0, 7, 3)
    assert torch.equal(rows, permutation(7, 3, 100))
    assert not repetition.any()
    even = torch.arange(40) % 4
    assert torch.equal(epoch_order(even, 1.0, 7, 3)[0], permutation(7, 3, 40))  # nothing to balance


@pytest.mark.parametrize("balance", [0.3, 0.5, 1.0])
def test_classes_are_shown_in_proportion_to_a_power_of_their_size(balance):
    shown = TARGETS[epoch_order(TARGETS, balance, 1, 0)[0]].bincount(minlength=5).tolist()
    assert sum(shown) == 100
    parts = [size ** (1 - balance) if size else 0 for size in SIZES]
    for count, part in zip(shown, parts, strict=True):
        assert abs(count - 100 * part / sum(parts)) < 1
    if balance == 1:
        assert shown == [25, 25, 25, 0, 25]


@pytest.mark.parametrize("sizes", [[7, 1, 3], [1, 1, 1000], [0, 5, 2, 9]])
def test_counts_add_up_and_none_is_more_than_one_off(sizes):
    counts = class_counts(torch.tensor(sizes), 1.0).tolist()
    present = sum(size > 0 for size in sizes)
    assert sum(counts) == sum(sizes)
    assert all(
        abs(c - Fraction(sum(sizes), present)) < 1 if s else c == 0
        for c, s in zip(counts, sizes, strict=True)
    )


@pytest.mark.parametrize("balance", [0.4, 1.0])
def test_images_of_a_class_take_turns_and_repetitions_are_numbered(balance):
    totals = torch.zeros(100, dtype=torch.int64)
    for epoch in range(30):
        rows, repetition = epoch_order(TARGETS, balance, 5, epoch)
        times = rows.bincount(minlength=100)
        for own in range(5):
            within = times[own == TARGETS]
            assert len(within) == 0 or within.max() - within.min() <= 1
        for row in rows.unique():
            assert repetition[rows == row].sort().values.tolist() == list(range(int(times[row])))
        totals += times
    shares = totals[TARGETS == 0].double()  # who is left out of the large class changes from epoch to epoch
    assert shares.min() > 0
    first, second = (epoch_order(TARGETS, balance, 5, epoch)[0].bincount(minlength=100) for epoch in range(2))
    assert not torch.equal(first, second)


def test_an_image_shown_again_in_an_epoch_has_another_view():
    batches = list(loader(1.0).epoch(0))
    index, view = (torch.cat([getattr(b, c) for b in batches]) for c in ("index", "view"))
    rare = index >= 95  # five images, shown five times each
    assert int(rare.sum()) == 25
    assert len({tuple(pair) for pair in torch.stack((index, view), 1)[rare].tolist()}) >= 22
    first = epoch_order(TARGETS, 1.0, 2, 0)[1] == 0
    assert torch.equal(view[first], PadCropFlip(pad=2).views(2, 0, index[first]))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_and_resumed_epochs_see_the_batches_of_one_process(world):
    whole = list(loader(0.7).epoch(4))
    assert len(whole) == loader(0.7).steps_per_epoch == 7
    for a, b in zip(whole[3:], loader(0.7).epoch(4, 3), strict=True):
        assert torch.equal(a.images, b.images)
    ranks = [list(loader(0.7, rank=r, world=world).epoch(4)) for r in range(world)]
    for step, batch in enumerate(whole):
        for column in ("images", "target", "index", "view"):
            assert torch.equal(torch.cat([getattr(b[step], column) for b in ranks]), getattr(batch, column))


def test_the_plan_of_the_teachers_answers_is_that_of_the_batches():
    balanced = loader(1.0)
    rows, view = plan(balanced, 2)
    assert torch.equal(rows, torch.cat([b.index for b in balanced.epoch(2)]))
    assert torch.equal(view, torch.cat([b.view for b in balanced.epoch(2)]))


def test_images_without_label_cannot_be_balanced():
    with pytest.raises(
        ValueError, match=r"data.balance must be 0 where training images have no label, got 0\.5"
    ):
        loader(0.5, torch.tensor([0, 1, -1]))


def uneven(digits_config, **changes):
    """Digits under a table of few views, so that an epoch of rare classes shows a view of an image twice."""
    data = digits_config["data"] | {"augment": {"pad": 1, "flip": False}, "balance": 1.0, "limit": None}
    return load_config(digits_config | {"data": data}, changes)


def test_a_run_is_the_same_with_and_without_a_table(digits_config, monkeypatch):
    def few(config):
        read = load("digits", val=0.1)
        keep = torch.cat([(read.train.targets == c).nonzero()[: 60 if c < 3 else 3, 0] for c in range(10)])
        return us.data.Splits(read.train.subset(keep), read.val, read.test, read.mean, read.std)

    monkeypatch.setattr("understudy.build.read_data", few)
    outputs = {}
    for table in ("off", "memory", "auto"):
        changes = {"teacher.table": table, "train.epochs": 3, "train.batch_size": 24}
        output = f"{digits_config['output']}-{table}"
        run = us.distill(uneven(digits_config, **changes), quiet=True, output=output)
        outputs[table] = read_json_lines(run.path / "metrics.jsonl")
    log = (run.path / "train.log").read_text()
    assert "classes of 3 to 60 training images are shown 20 to 21 times an epoch (data.balance 1)" in log
    for table in ("memory", "auto"):
        for line, expected in zip(outputs[table], outputs["off"], strict=True):
            assert line["train/dhkd"] == pytest.approx(expected["train/dhkd"], rel=1e-5)
            assert line["train/acc1"] == expected["train/acc1"]
