"""The module a method deploys, built from its parts alone: what finished weights are loaded into."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from understudy.interface import Setup
from understudy.methods.method import Method
from understudy.models import known_roles
from understudy.taps import describe, pair_stages


def deployed_model(
    method: Method,
    student: nn.Module,
    teacher: nn.Module,
    example: Tensor,
    *,
    student_taps: Mapping[str, str] | None = None,
    teacher_taps: Mapping[str, str] | None = None,
) -> nn.Module:
    """Returns the module that a run with this method ships, of the same names and shapes, with other weights.

    Nothing is trained, tapped or frozen. Only a method that ``replaces_classifier`` ships more than the student,
    and only its connector and classifier are new.

    Args:
        method: as in the run's config.
        student: of the run's architecture.
        teacher: likewise; its weights do not matter where those of the run are loaded after.
        example: images of the run's size, for the dry runs.
        student_taps: module paths by role, as in the run's config.
        teacher_taps: likewise.

    Raises:
        ValueError: the networks do not suit the method.

    Example:
        >>> import torch
        >>> from understudy.methods import SimKD
        >>> from understudy.methods.deployment import deployed_model
        >>> from understudy.models import create_model
        >>> student, teacher = (create_model(name, num_classes=4) for name in ("cnn_tiny", "cnn_small"))
        >>> net = deployed_model(SimKD(), student, teacher, torch.zeros(2, 3, 16, 16))
        >>> net(torch.zeros(5, 3, 16, 16)).shape
        torch.Size([5, 4])
    """
    network = describe(student, example, known=known_roles(student), overrides=student_taps)
    guide = describe(teacher, example, known=known_roles(teacher), overrides=teacher_taps)
    setup = Setup(
        student=network, teacher=guide, num_classes=network.num_classes, pairs=pair_stages(network, guide)
    )
    return method.deploy(network, method.heads(setup) if method.replaces_classifier else nn.ModuleDict())
