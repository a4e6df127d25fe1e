"""The teacher's answers to every training batch, ready before the step that needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from understudy.data.loader import TrainLoader
from understudy.interface import Outputs
from understudy.teacher.blocks import Blocks
from understudy.teacher.memory import Table


class Answers:
    """What the teacher shows of every training batch.

    Which views an epoch will show is a pure function of (seed, epoch), so the teacher need not keep step with the
    student: it works in blocks of its own size, ahead of the steps. With a table only the views that are not in it
    are computed, one full block after the other, and stored; the last block of an epoch is filled up with views of
    the epochs to come, so that nothing is computed in vain before the run ends. A row that does not fit its mark is
    computed anew.

    An answer is the same whether it was computed or read, whoever stored it, and wherever the epoch was entered: rows
    are used as they are stored, blocks have one size, and logits that are derived from a feature are derived at the
    same place of a matrix of the same shape.

    Nothing waits for the device from step to step: a batch's answers are slices. (A miss that goes to a table on the
    disk is copied to the host, once a block.)

    Args:
        loader: of the training batches; it says the order and the views.
        blocks: the teacher; its source holds the loader's images.
        table: what remembers; ``None`` computes every epoch anew.
        epochs: number of the epoch after the last one that asks the teacher; nothing is computed ahead beyond it.
        say: tells the user that the table cannot be written to any more.
    """

    def __init__(
        self,
        loader: TrainLoader,
        blocks: Blocks,
        table: Table | None = None,
        *,
        epochs: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.loader, self.blocks, self.table, self.epochs = loader, blocks, table, epochs
        self.say = say
        self.storing = True
        """Whether what is learnt is stored; not any more once the disk has refused it."""

    @property
    def forwarded(self) -> int:
        """Images that went through the teacher so far, those that only filled up a block included."""
        return self.blocks.forwarded

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Outputs]:
        """Yields the answers to this rank's batches of an epoch, one batch after the other as the loader gives them.

        Args:
            epoch: from 0.
            start_step: likewise.
        """
        sizes = [
            sum(s.stop - s.start for s in self.loader.slices(k)) for k in range(self.loader.steps_per_epoch)
        ]
        start = sum(sizes[:start_step])
        shown = self._shown(epoch, start)
        ahead = next(shown)
        for size in sizes[start_step:]:
            while len(next(iter(ahead.values()))) < size:
                more = next(shown)
                ahead = {role: torch.cat((tensor, more[role])) for role, tensor in ahead.items()}
            yield {role: tensor[:size] for role, tensor in ahead.items()}
            ahead = {role: tensor[size:] for role, tensor in ahead.items()}

    def close(self) -> None:
        """Closes the table."""
        if self.table is not None:
            with self._spared():
                self.table.close()

    def _shown(self, epoch: int, start: int) -> Iterator[Outputs]:
        """Yields the answers to an epoch's positions from ``start`` on, up to a block at a time.

        Blocks begin at multiples of their size wherever the epoch is entered.
        """
        rows, view = plan(self.loader, epoch)
        size = self.blocks.size
        first = start // size * size
        layout, network = self.blocks.layout, self.blocks.teacher.network
        if self.table is None:
            blocks = self._computed(rows[first:], view[first:])
        else:
            blocks = self._recalled(self.table, epoch, rows[first:], view[first:])
        for answers in blocks:
            block = answers.new_zeros(size, layout.width)
            block[: len(answers)] = answers
            shown = layout.unpack(block, network)
            yield {role: tensor[max(start - first, 0) : len(answers)] for role, tensor in shown.items()}
            first += size

    def _computed(self, rows: Tensor, view: Tensor) -> Iterator[Tensor]:
        """Yields packed answers, a block at a time."""
        for r, v in zip(rows.split(self.blocks.size), view.split(self.blocks.size), strict=True):
            yield self.blocks(r, v)

    def _recalled(self, table: Table, epoch: int, rows: Tensor, view: Tensor) -> Iterator[Tensor]:
        """Yields packed answers, a block at a time, out of the table as far as they are there."""
        size = self.blocks.size
        keys = self.blocks.layout.keys(rows, view)
        with self._spared():
            table.claim()
        missing = (~table.present(keys)).nonzero()[:, 0]
        learnt = self.blocks(rows[:0], view[:0])  # answers to the first of those missing
        for start in range(0, max(len(keys), 1), size):
            part = keys[start : start + size]
            answers, usable = table.read(part)
            place = self.blocks.source.device
            answers = answers.to(place, non_blocking=place.type == "cuda")  # elsewhere that is not safe
            count = int((missing < start + len(part)).sum())
            while len(learnt) < count:
                block = missing[len(learnt) : len(learnt) + size]
                learnt = torch.cat((learnt, self._learn(table, epoch, rows[block], view[block])))
            _put(answers, missing[:count] - start, learnt[:count])
            usable[missing[:count] - start] = True
            missing, learnt = missing[count:], learnt[count:]
            damaged = (~usable).nonzero()[:, 0]
            if len(damaged) > 0:
                again = damaged + start
                _put(answers, damaged, self._learn(table, epoch, rows[again], view[again]))
            yield answers

    def _learn(self, table: Table, epoch: int, rows: Tensor, view: Tensor) -> Tensor:
        """Returns the answers to at most a block of pairs, and stores them with what else fits into the block."""
        layout, count = self.blocks.layout, len(rows)
        for later in range(epoch + 1, self.epochs if table.writable and self.storing else 0):
            if len(rows) == self.blocks.size:
                break
            next_rows, next_view = plan(self.loader, later)
            keys = layout.keys(next_rows, next_view)
            new = ~table.present(keys) & ~torch.isin(keys, layout.keys(rows, view))
            useful = new.nonzero()[: self.blocks.size - len(rows), 0]
            rows, view = torch.cat((rows, next_rows[useful])), torch.cat((view, next_view[useful]))
        answers = self.blocks(rows, view)
        if self.storing:
            keys = layout.keys(rows, view)
            once = _first_of_each(keys)  # an epoch that shows images twice may show a view of them twice
            with self._spared():
                table.write(keys[once], answers[once.to(answers.device)])
        return answers[:count]

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Ends the storing, not the run, if the disk refuses something: a run can do without a table."""
        try:
            yield
        except OSError as error:
            if self.storing:
                self.say(f"the teacher's answers are no longer kept: {error.strerror or error}")
            self.storing = False


def plan(loader: TrainLoader, epoch: int) -> tuple[Tensor, Tensor]:
    """Returns the positions in the training set and the views that a loader's batches of an epoch show, on the host.

    Shape:
        output: ``(n,)`` int64 both, batch after batch, this rank's share.
    """
    parts = [own for step in range(loader.steps_per_epoch) for own in loader.slices(step)]
    rows, view = (torch.cat([column[own] for own in parts]) for column in loader.plan(epoch))
    return rows, view


def _first_of_each(keys: Tensor) -> Tensor:
    """Returns the places where a key stands for the first time, ascending."""
    known, which = keys.unique(return_inverse=True)
    first = torch.full_like(known, len(keys)).scatter_reduce(0, which, torch.arange(len(keys)), "amin")
    return first.sort().values


def _put(answers: Tensor, places: Tensor, values: Tensor) -> None:
    answers.index_copy_(0, places.to(answers.device), values)
