"""FT: the student's factors against the teacher's, which a paraphraser has learned to extract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from understudy.heads.factor import Paraphraser, translator
from understudy.heads.shapes import map_shape
from understudy.heads.tokens import as_map
from understudy.interface import Batch, Outputs, Positive, Setup
from understudy.losses.ft import ft_loss
from understudy.methods.method import Method, TeacherPass


@dataclass(frozen=True, slots=True, kw_only=True)
class FT(Method):
    """Absolute difference of the energy maps of factors; channels and sizes of the last maps may differ.

    The published weight is 200. Before the first epoch the paraphraser learns, without labels, to reconstruct the
    teacher's last map of the un-augmented training images; afterwards its encoder is frozen and saved with the run.
    """

    paper: ClassVar[str] = (
        "Kim, Park and Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("stage_last",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_last",)
    unscheduled: ClassVar[tuple[str, ...]] = ("paraphraser_lr",)  # of what is over before the first epoch

    paraphraser_epochs: Annotated[int, Ge(1)] = 30
    paraphraser_lr: Positive = 0.1
    """Learning rate of the paraphraser's own SGD; our choice."""

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the teacher's paraphraser, untrained, and the student's translator."""
        ours, theirs = map_shape(setup.student, "stage_last")[0], map_shape(setup.guide, "stage_last")[0]
        return nn.ModuleDict({"paraphrase": Paraphraser(theirs), "translate": translator(ours, theirs)})

    def needs_prepare(self, heads: nn.ModuleDict) -> bool:
        """Returns whether the paraphraser is still untrained."""
        return not paraphraser(heads).ready

    def prepare(
        self, setup: Setup, heads: nn.ModuleDict, batches: Iterable[Batch], teacher: TeacherPass
    ) -> None:
        """Trains the paraphraser: ``paraphraser_epochs`` passes over the batches, so they must be re-iterable."""

        def maps() -> Iterator[Tensor]:
            return (as_map(teacher(batch)["stage_last"]) for batch in batches)

        paraphraser(heads).fit(maps, num_epochs=self.paraphraser_epochs, learning_rate=self.paraphraser_lr)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean absolute difference of unit energy maps."""
        ours = heads["translate"](as_map(student["stage_last"]))
        return ft_loss(ours, heads["paraphrase"](as_map(teacher["stage_last"])))


def paraphraser(heads: nn.ModuleDict) -> Paraphraser:
    """Returns the term's paraphraser, for the type checker's eyes too."""
    found = heads["paraphrase"]
    assert isinstance(found, Paraphraser)
    return found
