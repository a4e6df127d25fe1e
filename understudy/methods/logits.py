"""Both networks' logits, as a logit method compares them: as they are, or standardised."""

from __future__ import annotations

from torch import Tensor

from understudy.interface import Outputs
from understudy.losses.standardise import standardise_logits


def logit_pair(student: Outputs, teacher: Outputs, standardise: bool) -> tuple[Tensor, Tensor]:
    """Returns the student's and the teacher's logits ``(B, C)``.

    Args:
        student: what the student shows.
        teacher: what the teacher shows.
        standardise: whether every row is shifted to mean 0 and scaled to standard deviation 1 first, so that the
            student is free to choose its own level and scale; a temperature then is in units of that deviation
            (Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024).
    """
    if not standardise:
        return student["logits"], teacher["logits"]
    return standardise_logits(student["logits"]), standardise_logits(teacher["logits"])
