"""Probabilistic knowledge transfer against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import pkt_loss


def similarities_by_loops(feature, eps):
    rows = feature.tolist()
    norms = [math.sqrt(sum(x * x for x in row)) + eps for row in rows]
    table = [
        [
            (sum(a * b for a, b in zip(r, q, strict=True)) / n / m + 1) / 2
            for q, m in zip(rows, norms, strict=True)
        ]
        for r, n in zip(rows, norms, strict=True)
    ]
    return [[x / sum(row) for x in row] for row in table]


def test_pkt_equals_loops():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4).double(), torch.randn(6, 9).double()
    student[2] = 0  # the loops give a zero vector the similarity 1/2 to all as well
    s, t = similarities_by_loops(student, 1e-7), similarities_by_loops(teacher, 1e-7)
    pairs = [(a, b) for r, q in zip(s, t, strict=True) for a, b in zip(r, q, strict=True)]
    expected = sum(b * math.log((b + 1e-7) / (a + 1e-7)) for a, b in pairs) / 36
    assert float(pkt_loss(student, teacher)) == pytest.approx(expected, rel=1e-10)


def test_pkt_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: pkt_loss(s, teacher), student)
    pkt_loss(student, teacher).backward()
    assert teacher.grad is None


def test_pkt_ignores_rotation_and_the_scale_of_every_row():
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 5).double(), torch.randn(8, 6).double()
    turn = torch.linalg.qr(torch.randn(5, 5).double()).Q
    lengths = torch.rand(8, 1).double() + 0.5
    moved = pkt_loss(lengths * student @ turn, teacher / lengths)
    torch.testing.assert_close(moved, pkt_loss(student, teacher), rtol=1e-5, atol=0)


def test_pkt_of_equal_features_is_zero_with_a_gradient_of_order_eps():
    student = torch.randn(8, 5, requires_grad=True)
    loss = pkt_loss(student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0.0
    assert float(student.grad.abs().max()) < 1e-6


def test_pkt_keeps_in_float32_the_digits_that_a_small_loss_needs():
    torch.manual_seed(0)
    teacher = torch.randn(16, 64)
    student = teacher + 1e-3 * torch.randn(16, 64)
    wide = float(pkt_loss(student.double(), teacher.double()))  # about 1e-9: 1e-7 of the rows' entries
    assert float(pkt_loss(student, teacher)) == pytest.approx(wide, rel=1e-4)


def test_pkt_of_zero_vectors_is_finite_and_gives_them_no_gradient():
    student = torch.randn(4, 5)
    student[1] = 0
    student.requires_grad_()
    loss = pkt_loss(student, torch.zeros(4, 5))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(student.grad[1], torch.zeros(5))
    assert float(student.grad[0].abs().max()) > 0


@pytest.mark.parametrize("batch", [0, 1])
def test_pkt_of_too_few_samples_is_a_connected_zero(batch):
    student = torch.randn(batch, 5, requires_grad=True)
    loss = pkt_loss(student, torch.randn(batch, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_pkt_refuses_batches_of_different_size():
    with pytest.raises(ValueError, match=r"one batch size, got student \(4, 3\) and teacher \(5, 3\)"):
        pkt_loss(torch.zeros(4, 3), torch.zeros(5, 3))
