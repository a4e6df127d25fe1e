"""Fine-grained feature imitation against loops."""

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import fgfi_loss, fgfi_mask


def test_fgfi_equals_loops_and_counts_locations_not_channels():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 4, 5).double()
    mask = torch.rand(2, 1, 4, 5) > 0.6
    total, count = 0.0, 0
    for b in range(2):
        for h in range(4):
            for w in range(5):
                if mask[b, 0, h, w]:
                    count += 1
                    total += sum(
                        (float(student[b, c, h, w]) - float(teacher[b, c, h, w])) ** 2 for c in range(3)
                    )
    assert 0 < count < 40
    assert float(fgfi_loss(student, teacher, mask)) == pytest.approx(total / (2 * count), rel=1e-12)


def test_fgfi_gradient_equals_finite_differences_and_is_zero_off_the_mask():
    torch.manual_seed(0)
    student = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.eye(3).bool().view(1, 1, 3, 3)
    assert gradcheck(lambda s: fgfi_loss(s, teacher, mask), student)
    fgfi_loss(student, teacher, mask).backward()
    assert torch.equal(student.grad != 0, mask.expand(1, 2, 3, 3))
    assert teacher.grad is None


@pytest.mark.parametrize("batch", [0, 2])
def test_fgfi_without_any_location_is_a_connected_zero(batch):
    student = torch.randn(batch, 3, 4, 4, requires_grad=True)
    mask = torch.zeros(batch, 1, 4, 4, dtype=torch.bool)
    loss = fgfi_loss(student, torch.randn(batch, 3, 4, 4), mask)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_fgfi_of_concatenated_levels_divides_by_the_locations_of_all():
    torch.manual_seed(0)
    levels = [
        (torch.randn(2, 3, n, n), torch.randn(2, 3, n, n), torch.rand(2, 1, n, n) > 0.5) for n in (8, 4)
    ]
    counts = [int(mask.sum()) for *_, mask in levels]
    parts = [float(fgfi_loss(*level)) * n for level, n in zip(levels, counts, strict=True)]
    joined = [
        torch.cat([x.flatten(2) for x in kind], dim=2).unsqueeze(3) for kind in zip(*levels, strict=True)
    ]
    assert float(fgfi_loss(*joined)) == pytest.approx(sum(parts) / sum(counts), rel=1e-5)


def test_fgfi_wants_one_mask_an_image():
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 1, 4, 4\), got \(2, 4, 4\)"):
        fgfi_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.ones(2, 4, 4).bool())


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (areas - overlap)


def anchors_of(height, width, sizes, stride=8.0):
    """Anchors in (h, w, a) order, centred in their cells."""
    rows = []
    for h in range(height):
        for w in range(width):
            x, y = (w + 0.5) * stride, (h + 0.5) * stride
            rows += [[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for s in sizes]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_fgfi_mask_equals_loops(threshold):
    torch.manual_seed(0)
    anchors = anchors_of(5, 7, (8.0, 16.0, 30.0))
    corner = torch.rand(4, 2).double() * 30
    boxes = torch.cat([corner, corner + 4 + torch.rand(4, 2).double() * 20], dim=1)
    expected = [[False] * 7 for _ in range(5)]
    for box in boxes.tolist():
        overlaps = [iou(a, box) for a in anchors.tolist()]
        for i, overlap in enumerate(overlaps):
            if overlap > threshold * max(overlaps):
                expected[i // 21][i // 3 % 7] = True
    mask = fgfi_mask(anchors, boxes, (5, 7), threshold)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [expected]
    assert 0 < int(mask.sum()) < 35


def test_fgfi_mask_without_boxes_or_overlap_is_empty():
    anchors = anchors_of(2, 3, (8.0,))
    far_away = torch.tensor([[500.0, 500.0, 510.0, 510.0]])
    without_area = torch.tensor([[4.0, 4.0, 4.0, 4.0]])
    for boxes in (torch.zeros(0, 4), far_away, without_area):
        assert not fgfi_mask(anchors, boxes, (2, 3)).any()


def test_fgfi_mask_refuses_anchors_of_another_level():
    with pytest.raises(ValueError, match=r"H, W = 2, 4, got \(6, 4\)"):
        fgfi_mask(anchors_of(2, 3, (8.0,)), torch.zeros(0, 4), (2, 4))
    with pytest.raises(ValueError, match=r"boxes must have shape \(G, 4\), got \(0,\)"):
        fgfi_mask(anchors_of(2, 3, (8.0,)), torch.zeros(0), (2, 3))
