import copy
import os
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from understudy.data.counter import permutation
from understudy.losses import kd_loss
from understudy.models import create_model
from understudy.teacher.answers import Answers, plan
from understudy.teacher.assemble import open_table
from understudy.teacher.fold import fold_batch_norms
from understudy.teacher.frozen import Teacher
from understudy.teacher.table import ViewTable


def collect(answers, epoch, start_step=0):
    """All answers to an epoch, checked against the batches they belong to."""
    got = list(answers.epoch(epoch, start_step))
    batches = list(answers.loader.epoch(epoch, start_step))
    assert [len(next(iter(shown.values()))) for shown in got] == [len(b.target) for b in batches]
    return {role: torch.cat([shown[role] for shown in got]) for role in got[0]}


def pairs_of(loader, epochs):
    return {
        (epoch, *pair)
        for epoch in epochs
        for pair in zip(*(t.tolist() for t in plan(loader, epoch)), strict=True)
    }


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_plan_is_what_the_loader_shows(make, world_size, drop_last):
    world = make(n=25)
    world.image_set = world.image_set.subset(torch.arange(25).flip(0)[:23])  # positions and numbers differ
    for rank in range(world_size):
        loader = world.loader(batch_size=10, seed=5, drop_last=drop_last, rank=rank, world=world_size)
        rows, view = plan(loader, 2)
        batches = list(loader.epoch(2))
        assert torch.equal(world.image_set.index[rows], torch.cat([b.index for b in batches]))
        assert torch.equal(view, torch.cat([b.view for b in batches]))


@pytest.mark.parametrize("roles", [("logits",), ("feature",), ("feature", "logits")])
@pytest.mark.parametrize("kind", ["nothing", "memory", "disk"])
@pytest.mark.parametrize("size", [3, 8, 24, 64])
def test_answers_are_what_the_teacher_shows_of_each_batch(make, tmp_path, roles, kind, size):
    world = make(roles=roles)
    table = None
    if kind != "nothing":
        table = world.table(tmp_path / "t" if kind == "disk" else None, size)
    answers = Answers(world.loader(), world.blocks(size, None if table is None else "fp32"), table, epochs=4)
    for epoch in (0, 1, 2, 3, 3):
        for batch, shown in zip(answers.loader.epoch(epoch), answers.epoch(epoch), strict=True):
            expected = world.teacher(batch)
            for role in roles:
                assert shown[role].dtype == torch.float32
                torch.testing.assert_close(shown[role], expected[role], rtol=1e-4, atol=1e-5)
    answers.close()


def test_answers_are_the_same_bits_with_a_table_in_any_state_and_without(make, tmp_path):
    world = make(n=30)
    plain = collect(Answers(world.loader(), world.blocks(dtype=None), epochs=3), 2)["logits"]
    cold = Answers(world.loader(), world.blocks(), world.table(tmp_path / "cold"), epochs=3)
    assert torch.equal(collect(cold, 2)["logits"], plain)
    assert torch.equal(collect(cold, 2)["logits"], plain)  # all of it read
    lazy = Answers(world.loader(), world.blocks(), world.table(None), epochs=3)
    for epoch in range(2):
        collect(lazy, epoch)
    assert torch.equal(collect(lazy, 2)["logits"], plain)  # a part of it
    cold.close()


@pytest.mark.parametrize("kind", ["nothing", "memory", "disk"])
@pytest.mark.parametrize("start_step", [1, 2, 4])
@pytest.mark.parametrize("roles", [("logits",), ("feature", "logits")])
def test_an_epoch_entered_in_its_middle_gives_the_same_bits(make, tmp_path, kind, start_step, roles):
    world = make(n=47, roles=roles)
    whole = None
    for name in ("never killed", "resumed"):
        table = None if kind == "nothing" else world.table(None if kind == "memory" else tmp_path / name)
        blocks = world.blocks(dtype=None if table is None else "fp32")
        answers = Answers(world.loader(), blocks, table, epochs=3)
        if whole is None:
            whole = collect(answers, 1)
        else:
            rest = collect(answers, 1, start_step)
            for role in roles:
                assert torch.equal(rest[role], whole[role][10 * start_step :])
        answers.close()


def test_a_run_killed_in_an_epoch_finds_in_the_table_what_it_had_computed(make, tmp_path):
    world = make(n=48)
    first = Answers(world.loader(), world.blocks(), world.table(tmp_path / "t"), epochs=1)
    steps = first.epoch(0)
    before = [next(steps)["logits"] for _ in range(2)]
    del steps
    first.close()
    done = first.forwarded
    second = Answers(world.loader(), world.blocks(), world.table(tmp_path / "t"), epochs=1)
    again = collect(second, 0)["logits"]
    second.close()
    assert torch.equal(again[:20], torch.cat(before))
    assert done + second.forwarded == 48


def test_an_epoch_entered_at_its_end_gives_nothing(world):
    for table in (None, world.table(None)):
        answers = Answers(world.loader(), world.blocks(), table, epochs=1)
        assert list(answers.epoch(0, answers.loader.steps_per_epoch)) == []


@pytest.mark.parametrize("kind", ["nothing", "memory"])
def test_every_rank_gets_the_answers_to_its_share(make, kind):
    world = make(n=25)
    whole = collect(Answers(world.loader(), world.blocks(dtype=None), epochs=1), 0)["logits"]
    order = permutation(0, 0, 25)
    for rank in range(4):
        loader = world.loader(rank=rank, world=4)
        table = None if kind == "nothing" else world.table(None)
        answers = Answers(loader, world.blocks(), table, epochs=1)
        got = collect(answers, 0)["logits"]
        where = torch.tensor([int((order == row).nonzero()) for row in plan(loader, 0)[0]])
        assert torch.equal(got, whole[where])


def test_two_processes_with_one_table_get_the_same_bits_and_learn_from_each_other(make, tmp_path):
    world = make(n=30)
    with world.table(tmp_path / "t") as one, world.table(tmp_path / "t") as other:
        first = Answers(world.loader(seed=1), world.blocks(), one, epochs=2)
        collect(first, 0)
        assert one.filled == 30 + 2  # two views of the next epoch filled up the last block
        second = Answers(world.loader(seed=2), world.blocks(), other, epochs=2)
        theirs = collect(second, 0)["logits"]
        expected = collect(Answers(world.loader(seed=2), world.blocks(dtype=None), epochs=1), 0)["logits"]
        assert torch.equal(theirs, expected)
        third = Answers(world.loader(seed=2), world.blocks(), one, epochs=1)
        assert torch.equal(collect(third, 0)["logits"], expected)  # out of the shard of the other one
        assert third.forwarded == 0


def test_damaged_rows_are_computed_again_and_mended(make, tmp_path):
    world = make(n=30)
    answers = Answers(world.loader(), world.blocks(), world.table(tmp_path / "t"), epochs=1)
    whole = collect(answers, 0)["logits"]
    answers.close()
    content = bytearray((tmp_path / "t" / "rows-0.bin").read_bytes())
    for slot in (2, 3, 17):
        content[slot * 40 + 5] ^= 64
    (tmp_path / "t" / "rows-0.bin").write_bytes(content)
    for expected in (3, 0):
        answers = Answers(world.loader(), world.blocks(), world.table(tmp_path / "t"), epochs=1)
        assert torch.equal(collect(answers, 0)["logits"], whole)
        assert answers.forwarded - answers.blocks.padding == expected
        answers.close()


def test_the_last_block_of_an_epoch_is_filled_up_from_the_next_one(make):
    world = make(n=30)
    loader = world.loader()
    shown = [set(zip(*(t.tolist() for t in plan(loader, e)), strict=True)) for e in range(2)]
    answers = Answers(loader, world.blocks(size=8), world.table(None), epochs=2)
    collect(answers, 0)
    assert answers.forwarded == 32
    assert answers.blocks.padding == 0
    collect(answers, 1)
    distinct = len(shown[0] | shown[1])
    assert answers.forwarded - answers.blocks.padding == distinct
    assert answers.blocks.padding == -distinct % 8  # at the end of the run alone


def test_what_fills_up_a_block_is_not_computed_twice(make):
    """With two views an image, half of the next epoch is in this one."""
    world = make(n=12, pad=0)
    loader = world.loader(batch_size=12)
    answers = Answers(loader, world.blocks(size=9), world.table(None), epochs=2)
    shown = [set(zip(*(t.tolist() for t in plan(loader, e)), strict=True)) for e in range(2)]
    assert shown[0] & shown[1]
    collect(answers, 0)
    assert answers.forwarded == 18
    assert 18 - answers.blocks.padding == answers.table.filled
    collect(answers, 1)
    assert answers.forwarded - answers.blocks.padding == answers.table.filled == len(shown[0] | shown[1])


def test_without_a_table_even_a_teacher_that_mixes_its_batch_resumes_to_the_bit(world):
    world.teacher.module.stem.register_forward_hook(lambda m, args, out: out + out[:1])
    answers = Answers(world.loader(batch_size=5), world.blocks(size=8, dtype=None), epochs=1)
    assert not answers.blocks.is_steady()
    whole = collect(answers, 0)["logits"]
    for step in range(1, 5):
        assert torch.equal(collect(answers, 0, step)["logits"], whole[5 * step :])


@pytest.mark.parametrize("runs", [1, 5])
def test_a_sweep_over_a_finite_set_forwards_the_share_that_arithmetic_says(make, tmp_path, runs):
    """CIFAR's 240 epochs of 162 views, scaled to 18 views: 27 epochs a run draw as often from each image's views."""
    world = make(n=150)
    epochs, views = 27, 18
    distinct, forwarded, padding = set(), 0, 0
    for seed in range(runs):
        loader = world.loader(batch_size=50, seed=seed)
        with world.table(tmp_path / "t", size=3) as table:
            answers = Answers(loader, world.blocks(size=3), table, epochs=epochs)
            for epoch in range(epochs):
                for _ in answers.epoch(epoch):
                    pass
                distinct |= set(zip(*(t.tolist() for t in plan(loader, epoch)), strict=True))
            assert table.filled == len(distinct)
        forwarded += answers.forwarded
        padding += answers.blocks.padding
    uncached = runs * epochs * 150
    assert forwarded - padding == len(distinct)  # every distinct pair once, no more
    expected = 150 * views * (1 - (1 - 1 / views) ** (runs * epochs))
    assert len(distinct) == pytest.approx(expected, rel=0.02)
    assert padding <= 0.002 * uncached
    assert forwarded <= (0.14 if runs == 5 else 0.54) * uncached


def train(world, student, shown, steps=10):
    """Ten steps of cross-entropy and KD in float64; returns the weights."""
    student = copy.deepcopy(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    batches = [(epoch, batch) for epoch in range(4) for batch in world.loader().epoch(epoch)][:steps]
    for (_, batch), teacher in zip(batches, shown, strict=False):
        logits = student(batch.images.double())
        loss = F.cross_entropy(logits, batch.target) + kd_loss(logits, teacher["logits"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in student.parameters()])


@pytest.mark.parametrize("roles", [("logits",), ("feature", "logits")])
def test_ten_steps_in_float64_are_those_of_the_plain_teacher(make, tmp_path, roles):
    """Folded, in blocks, from a table: the same student as with the unfolded teacher asked batch by batch."""
    world = make(n=30, dtype=torch.float64, roles=roles)
    torch.manual_seed(0)
    student = create_model("cnn_tiny", 10).double()
    plain = (
        {"logits": world.teacher.module(b.images.double())} for e in range(4) for b in world.loader().epoch(e)
    )
    expected = train(world, student, plain)
    folding = fold_batch_norms(world.teacher.network, torch.zeros(1, 3, 8, 8))
    assert len(folding.folded) == 4
    world.teacher = Teacher(folding.network, roles)
    weights = {}
    for name, dtype, path in (
        ("off", None, None),
        ("memory", "fp64", None),
        ("disk", "fp64", tmp_path / "64"),
        ("fp32", "fp32", tmp_path / "32"),
        ("fp16", "fp16", None),
    ):
        blocks = world.blocks(dtype=dtype)
        table = None if name == "off" else open_table(path, blocks, world.model)
        for _ in range(2):  # cold, then warm
            answers = Answers(world.loader(), blocks, table, epochs=4)
            shown = (s for epoch in range(4) for s in answers.epoch(epoch))
            weights[name] = train(world, student, shown)
            limit = 1e-4 if dtype == "fp16" else 1e-9
            assert (weights[name] - expected).abs().max() <= limit, name
        answers.close()
    assert torch.equal(weights["disk"], weights["memory"])
    assert not torch.equal(weights["fp16"], weights["fp32"])
    assert (weights["fp32"] - weights["off"]).abs().max() <= 1e-9


def test_a_full_disk_ends_the_storing_and_leaves_a_table_that_is_right(make, tmp_path, monkeypatch):
    world = make(n=30)
    said = []
    answers = Answers(world.loader(), world.blocks(), world.table(tmp_path / "t"), epochs=1, say=said.append)
    whole = collect(Answers(world.loader(), world.blocks(dtype=None), epochs=1), 0)["logits"]

    def full(file, data, offset):
        raise OSError(28, "No space left on device")

    steps = answers.epoch(0)
    got = [next(steps)["logits"]]
    stored = answers.table.filled
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        got += [shown["logits"] for shown in steps]
    assert torch.equal(torch.cat(got), whole)
    assert said == ["the teacher's answers are no longer kept: No space left on device"]
    answers.close()
    again = Answers(world.loader(), world.blocks(), world.table(tmp_path / "t"), epochs=1)
    assert again.table.filled == stored < 30
    assert torch.equal(collect(again, 0)["logits"], whole)
    again.close()


@pytest.mark.parametrize("at_the_end", [True, False])
def test_a_disk_that_fails_elsewhere_ends_the_storing_too(make, tmp_path, monkeypatch, at_the_end):
    """At the end, where a network's disk says what it has not written; at the beginning, where it has no locks."""
    world = make(n=30)
    said = []
    whole = collect(Answers(world.loader(), world.blocks(dtype=None), epochs=1), 0)["logits"]

    def fails(*args):
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        answers = Answers(
            world.loader(), world.blocks(), world.table(tmp_path / "t"), epochs=1, say=said.append
        )
        patch.setattr(*((os, "fsync") if at_the_end else (ViewTable, "claim")), fails)
        assert torch.equal(collect(answers, 0)["logits"], whole)
        answers.close()
    assert said == ["the teacher's answers are no longer kept: No locks available"]


def test_a_view_that_an_epoch_shows_twice_is_stored_once(make, tmp_path):
    world = make(n=12, pad=0)
    world.image_set = replace(world.image_set, targets=(torch.arange(12) > 1).long())  # two of one class
    loader = world.loader(batch_size=6, balance=1.0)
    rows, view = plan(loader, 0)
    pairs = set(zip(rows.tolist(), view.tolist(), strict=True))
    assert len(pairs) < len(rows)
    with world.table(tmp_path / "t") as table:
        list(Answers(loader, world.blocks(), table, epochs=1).epoch(0))
        assert table.filled == len(pairs)
