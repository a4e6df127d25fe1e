"""CRD's memory: what both networks last said of every training image, and who is whose negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.losses.crd import crd_normalizer, crd_update

_MANY = 2**62  # a draw from [0, _MANY) modulo N is uniform to N / _MANY


class CRDMemory(nn.Module):
    """Two banks of one row a training image, the two constants Z, and the draw of negatives.

    Banks and constants are buffers, so a resumed run goes on exactly. As a batch norm does, the memory learns in
    training mode alone; in eval mode it answers and stays what it is.

    Args:
        train_targets: label of every training image by its index; an image with -1 is nobody's negative.
        num_classes: C.
        width: E, of the embeddings.

    Raises:
        ValueError: fewer than two classes are trained on, so that there are no negatives.

    Reference: Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, authors' code: banks start
    uniform in ±1/sqrt(E/3). Deviation: negatives are drawn here, on the device, not in the loader; always with
    replacement.
    """

    student: Tensor
    teacher: Tensor
    student_normalizer: Tensor
    teacher_normalizer: Tensor
    order: Tensor
    counts: Tensor
    starts: Tensor

    def __init__(self, train_targets: Tensor, num_classes: int, width: int) -> None:
        super().__init__()
        bound = (width / 3) ** -0.5
        for side in ("student", "teacher"):
            self.register_buffer(side, torch.empty(len(train_targets), width).uniform_(-bound, bound))
            self.register_buffer(f"{side}_normalizer", torch.zeros(()))
        self.ready = False  # whether Z is known, on the host: reading the buffer would synchronise
        targets = train_targets.cpu()
        trained = targets[targets >= 0]
        counts = torch.bincount(trained, minlength=num_classes)
        if len(trained) == int(counts.max()):
            raise ValueError(
                f"crd must have training images of at least two classes for its negatives, got "
                f"{int((counts > 0).sum())}. Check train_targets"
            )
        # of the data, not of the run, so not saved: images sorted by class, and where each class begins
        self.register_buffer(
            "order", targets.argsort(stable=True)[len(targets) - len(trained) :], persistent=False
        )
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)

    def negatives(self, target: Tensor, num: int) -> Tensor:
        """Returns ``(B, num)`` training images of other classes than ``target`` ``(B,)``, each equally likely."""
        count, start = self.counts[target].unsqueeze(1), self.starts[target].unsqueeze(1)  # (B, 1)
        draw = torch.randint(_MANY, (len(target), num), device=target.device) % (len(self.order) - count)
        return self.order[draw + torch.where(draw >= start, count, 0)]  # the own class is stepped over

    def banks(self) -> tuple[Tensor, Tensor]:
        """Returns the student's and the teacher's rows ``(N, E)`` as they are now.

        They are copies in training mode: the loss is differentiated after :meth:`update`, and its gradient needs the
        rows it was computed with.
        """
        if self.training:
            return self.student.clone(), self.teacher.clone()
        return self.student, self.teacher

    def normalizers(
        self, student: Tensor, teacher: Tensor, index: Tensor, negatives: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Returns Z of the student's and of the teacher's scores; the first batch in training mode settles them.

        Args:
            student: unit vectors ``(B, E)``.
            teacher: unit vectors ``(B, E)``.
            index: ``(B,)`` which training image each sample is.
            negatives: ``(B, K)``.
            temperature: T.
        """
        if self.ready:
            return self.student_normalizer, self.teacher_normalizer
        of_student = crd_normalizer(student, self.teacher, index, negatives, temperature)
        of_teacher = crd_normalizer(teacher, self.student, index, negatives, temperature)
        if self.training:
            self.student_normalizer.copy_(of_student)
            self.teacher_normalizer.copy_(of_teacher)
            self.ready = True
        return of_student, of_teacher

    @torch.no_grad()
    def update(self, index: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Moves the rows ``index`` ``(B,)`` towards the embeddings ``(B, E)``; does nothing in eval mode."""
        if self.training:
            self.student.index_copy_(0, index, crd_update(self.student, index, student, momentum))
            self.teacher.index_copy_(0, index, crd_update(self.teacher, index, teacher, momentum))

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # noqa: ANN002, ANN003 (torch's own signature)
        super()._load_from_state_dict(*args, **kwargs)
        self.ready = bool(self.student_normalizer > 0)
