"""FitNet's regressor: the student's map in the teacher's channels and size."""

from __future__ import annotations

from torch import nn


def hint_regressor(
    student: tuple[int, int, int], teacher: tuple[int, int, int], *, relu: bool = True
) -> nn.Sequential:
    """Returns convolution, batch norm and ReLU, with PyTorch's own initialisation.

    The convolution has a bias and takes the student's size to the teacher's: 3×3 with stride 2 from twice the
    size, transposed 4×4 with stride 2 from half the size, otherwise unpadded with a kernel of 1 plus the
    difference (1×1 for equal sizes). From a student that is smaller in any other ratio no such kernel leads to
    the teacher: the convolution is 3×3 and keeps the student's size, to which the teacher's map must be pooled.

    Args:
        student: channels, height and width of the student's map.
        teacher: of the teacher's.
        relu: whether the ReLU is there; AB compares in front of it.

    Shape:
        ``(B, C_s, H_s, W_s)`` -> ``(B, C_t, H_t, W_t)``, or ``(B, C_t, H_s, W_s)`` for the last case.

    Example:
        >>> from understudy.heads import hint_regressor
        >>> sum(p.numel() for p in hint_regressor((128, 16, 16), (128, 16, 16)).parameters())
        16768

    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, section 2.2, whose regressor is the
    unpadded one; the strided and transposed ones and the batch norm are those of the code with which the
    published CIFAR-100 tables were made. The padded one is ours.
    """
    layers = [_convolution(student, teacher), nn.BatchNorm2d(teacher[0])]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _convolution(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Module:
    (c_s, h_s, w_s), (c_t, h_t, w_t) = student, teacher
    if (h_s, w_s) == (2 * h_t, 2 * w_t):
        return nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
    if (2 * h_s, 2 * w_s) == (h_t, w_t):
        return nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
    if h_s >= h_t and w_s >= w_t:
        return nn.Conv2d(c_s, c_t, (1 + h_s - h_t, 1 + w_s - w_t))
    return nn.Conv2d(c_s, c_t, 3, padding=1)
