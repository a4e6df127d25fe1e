"""The teacher's classifier on the student's last map: a connector, average pooling, and the frozen layer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.heads.connector import ConnectorKind, map_connector
from understudy.heads.shapes import map_shape
from understudy.heads.tokens import as_map
from understudy.interface import Setup
from understudy.models.translated import Translated
from understudy.taps import without_hooks


class Transplant(nn.Module):
    """Trained connector and a frozen copy of the teacher's classifier.

    The classifier passes gradients to its input and takes none itself; as a copy among the heads it is saved with
    the run and can be deployed.

    Args:
        connect: from the student's last map to the teacher's channels.
        classifier: the teacher's last linear layer; copied.

    Shape:
        the student's ``stage_last``, ``(B, C, H, W)`` or tokens ``(B, N, D)`` -> logits ``(B, classes)``.
    """

    def __init__(self, connect: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.connect = connect
        self.classifier = without_hooks(classifier).requires_grad_(False)
        self.checked = False
        """Whether :meth:`check` has passed, here or in the run whose state was loaded."""
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, shown: Tensor) -> Tensor:
        """Returns the teacher's classifier on the student's pooled, connected map."""
        connected = self.connect(as_map(shown))
        if torch.is_grad_enabled():
            self._last = (shown, connected)
        return self.classify(connected)

    def connected(self, shown: Tensor) -> Tensor:
        """Returns the connected map ``(B, D, H, W)``.

        That of the forward pass on the same tensor is handed out, once: running the connector a second time would
        cost as much again and count the batch twice in the running statistics of its batch norms.
        """
        last, self._last = self._last, None
        return last[1] if last is not None and last[0] is shown else self.connect(as_map(shown))

    def forget(self) -> None:
        """Lets go of the map of the last forward pass, which nobody will ask for."""
        self._last = None

    def classify(self, connected: Tensor) -> Tensor:
        """Returns logits ``(B, classes)`` of a connected map."""
        return self.classifier(connected.mean(dim=(2, 3)))

    def check(self, feature: Tensor, last: Tensor) -> None:
        """Checks on the teacher's answers to some images that its classifier reads its pooled last map.

        Args:
            feature: what its classifier was given, ``(B, D)``.
            last: its last map, ``(B, D, H, W)``.

        Raises:
            ValueError: they differ by more than half precision explains: a norm or another layer stands between.
        """
        difference = (feature - last.mean(dim=(2, 3))).abs().max()
        if difference > 0.05 * feature.abs().max():
            raise ValueError(
                "the teacher's classifier must read its pooled last map, got a feature that differs from it by up to "
                f"{float(difference):.3g}. Name the map behind the last norm as teacher.taps.stage_last, or take srrl "
                "or ijckd"
            )
        self.checked = True

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy or a pickle gets: all but the map of the last forward pass."""
        return {**self.__dict__, "_last": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.checked = True


def transplanted_head(
    setup: Setup,
    kind: ConnectorKind,
    name: str,
    init: Literal["default", "fan_out"] = "default",
    *,
    deployed: bool = True,
) -> Transplant:
    """Returns a new connector with the teacher's classifier.

    Args:
        setup: both networks.
        kind: of the connector.
        name: config name of the method, for the errors.
        init: of the connector's convolutions.
        deployed: whether the student answers with it; else it is thrown away.

    Raises:
        ValueError: the teacher's classifier does not read its pooled last map (of as many channels as the classifier
            is wide), its classes are not the student's, or (where it is deployed) its images.
    """
    guide = setup.guide
    if deployed and isinstance(setup.student.module, Translated):
        raise ValueError(
            f"{name} deploys another classifier, so the student must take the data's images as they are, got a student "
            "with its own. Leave out student.image_size, channels, mean and std, or use another method"
        )
    if isinstance(guide.module, Translated) and guide.module.num_members:
        raise ValueError(
            f"{name} uses the teacher's classifier, so the teacher must have the student's classes, got others. Leave "
            "out teacher.classes, or use another method"
        )
    if deployed and isinstance(guide.module, Translated) and not guide.module.only_normalises:
        raise ValueError(
            f"{name} deploys the teacher's classifier, so the teacher must have the student's image size and channels, "
            "got others. Leave out teacher.image_size and channels, or use another method"
        )
    classifier, shape = guide.classifier, guide.shapes.get("stage_last", ())
    if len(shape) != 3 or shape[0] != classifier.in_features:
        raise ValueError(
            f"{name} must have a teacher whose classifier reads its pooled last map, got a classifier of width "
            f"{classifier.in_features} and stage_last of shape {shape or 'unknown'} in "
            f"{type(guide.module).__name__}. Name the map in the config (teacher.taps), or take another method"
        )
    if guide.num_classes != setup.num_classes:
        raise ValueError(
            f"{name} uses the teacher's classifier, so both must have the same classes, got student "
            f"{setup.num_classes} and teacher {guide.num_classes}. Use a teacher for these classes"
        )
    channels = map_shape(setup.student, "stage_last")[0]
    return Transplant(map_connector(kind, channels, classifier.in_features, init), classifier)


def find_transplant(heads: nn.ModuleDict) -> Transplant:
    """Returns the transplant among a term's heads, for the type checker's eyes too."""
    found = heads["transplant"]
    assert isinstance(found, Transplant)
    return found
