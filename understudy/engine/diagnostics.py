"""What is looked at during training at a chosen interval: it costs little, waits for nothing, and changes no number."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.engine.backward import StepOutput
from understudy.tasks.segmentation import at_size
from understudy.widest import widen, widest

_MEANS = ("feature_norm", "agreement", "conflict", "cosine")


class Diagnostics:
    """Sums over the steps of one epoch that were looked at; they stay on the device until somebody asks.

    Looked at are every so many steps and the last of every epoch. At the feature (the input of the classifier) the
    gradients of the two sides of the loss cost no pass through the backbone.

    Args:
        every: steps between two looks; 0 for none.
        num_classes: of the student.
        device: where the sums live.
    """

    def __init__(self, every: int, num_classes: int, device: torch.device) -> None:
        self.every = every
        self.num_classes = num_classes
        self.sums = torch.zeros(2 * len(_MEANS) + num_classes, dtype=widest(device), device=device)
        self._means, self._counts, self._predicted = self.sums.split([len(_MEANS), len(_MEANS), num_classes])

    def due(self, step: int, steps: int) -> bool:
        """Returns whether to look at a step (from 0) of an epoch of so many."""
        return self.every > 0 and ((step + 1) % self.every == 0 or step + 1 == steps)

    def look(self, out: StepOutput) -> None:
        """Adds what one step shows, before its backward.

        Args:
            out: of the distiller's forward; its graph is kept.
        """
        cosine = _cosine(out)
        with torch.no_grad():
            predicted = _rows(out.logits).argmax(dim=1)
            self._predicted += _histogram(predicted.flatten(), self.num_classes)
            if out.feature is not None:
                feature = _rows(out.feature).detach().float()
                if feature.dim() < 4:
                    feature = feature.flatten(1)
                self._add("feature_norm", feature.norm(dim=1).mean())
            if out.teacher_logits is not None:
                same = _like(_rows(out.teacher_logits), out.logits).argmax(dim=1) == predicted
                if len(same):  # a process may have no image of an epoch's last batch
                    self._add("agreement", 100.0 * widen(same).mean())
            if cosine is not None:
                self._add("cosine", cosine)
                self._add("conflict", 100.0 * widen(cosine < 0))

    def summary(self) -> dict[str, float]:
        """Returns the epoch's means under their names in ``metrics.jsonl``; reads the device.

        ``diagnose/feature_norm`` is the mean Euclidean norm of the student's feature (of a pixel's, where pixels are
        classified); ``agreement`` the share of images (or pixels) that get the same class from student and teacher;
        ``conflict`` the share of steps in which the gradients of labels and teacher oppose at the feature, ``cosine``
        the mean cosine between them; ``top_class`` the share of images in the class predicted most (shares in percent).
        What a run does not have is left out.
        """
        means, counts = self._means.tolist(), self._counts.tolist()
        summary = {
            f"diagnose/{name}": total / count
            for name, total, count in zip(_MEANS, means, counts, strict=True)
            if count
        }
        seen = float(self._predicted.sum())
        if seen:
            summary["diagnose/top_class"] = 100.0 * float(self._predicted.max()) / seen
        return summary

    def _add(self, name: str, value: Tensor) -> None:
        place = _MEANS.index(name)
        self._means[place] += value
        self._counts[place] += 1


def _cosine(out: StepOutput) -> Tensor | None:
    """Returns the cosine of the two sides' gradients at the feature, 0-d; ``None`` where one side has none there."""
    feature, sides = out.feature, (out.label_loss, out.guide_loss)
    if feature is None or not feature.requires_grad:
        return None
    gradients = []
    for side in sides:
        if side is None or not side.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(side, [feature], retain_graph=True, allow_unused=True)
        if gradient is None:
            return None
        gradients.append(widen(gradient.flatten()))
    a, b = gradients
    return (a @ b) / (a.norm() * b.norm()).clamp_min(max(1e-300, torch.finfo(a.dtype).tiny))


def _rows(shown: Tensor) -> Tensor:
    """Returns what is shown of boxes ``(B, S, ...)`` with a row a box, all else as it is."""
    return shown.flatten(0, 1) if shown.dim() == 3 else shown


def _like(logits: Tensor, other: Tensor) -> Tensor:
    """Returns logits at the size of others, if they are maps."""
    return at_size(logits, other[:, 0]) if logits.dim() == 4 else logits


def _histogram(classes: Tensor, count: int) -> Tensor:
    """Returns how often each class occurs, ``(count,)`` in the widest type; unlike ``bincount`` it waits for no GPU."""
    ones = widen(torch.ones_like(classes))
    return ones.new_zeros(count).scatter_add_(0, classes, ones)
