"""Relational distillation against triple loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import rkd, rkd_loss


def smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def relations_by_loops(feature):
    f = feature.tolist()
    n, num = range(len(f)), len(f)
    minus = [[[a - b for a, b in zip(f[j], f[i], strict=True)] for j in n] for i in n]
    squared = [[sum(x * x for x in minus[i][j]) for j in n] for i in n]
    distance = [[math.sqrt(max(squared[i][j], 1e-12)) if i != j else 0.0 for j in n] for i in n]
    mean = sum(map(sum, distance)) / (num * (num - 1))
    unit = [[[x / math.sqrt(squared[i][j] or 1) for x in minus[i][j]] for j in n] for i in n]
    angle = [sum(a * b for a, b in zip(unit[i][j], unit[i][k], strict=True)) for i in n for j in n for k in n]
    return [d / mean for row in distance for d in row], angle


def rkd_by_loops(student, teacher, distance_weight, angle_weight):
    loss = 0.0
    relations = zip(relations_by_loops(student), relations_by_loops(teacher), strict=True)
    for weight, (s, t) in zip((distance_weight, angle_weight), relations, strict=True):
        loss += weight * sum(smooth_l1(a - b) for a, b in zip(s, t, strict=True)) / len(s)
    return loss


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_rkd_equals_loops(weights):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4).double(), 5 * torch.randn(6, 7).double()
    expected = rkd_by_loops(student, teacher, *weights)
    assert float(rkd_loss(student, teacher, *weights)) == pytest.approx(expected, rel=1e-10)


def test_rkd_equals_loops_with_duplicates_and_a_zero_row():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    student[1] = student[0]
    student[2] = 0
    teacher[3] = teacher[4]
    expected = rkd_by_loops(student, teacher, 25.0, 50.0)
    assert float(rkd_loss(student, teacher)) == pytest.approx(expected, rel=1e-8)


def test_rkd_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: rkd_loss(s, teacher), student)
    rkd_loss(student, teacher).backward()
    assert teacher.grad is None


def test_rkd_ignores_rotation_place_and_scale_of_either_side():
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 5).double(), torch.randn(8, 6).double()
    turn_s, turn_t = (torch.linalg.qr(torch.randn(d, d).double()).Q for d in (5, 6))
    moved = rkd_loss(3 * student @ turn_s + 1, teacher @ turn_t / 7 - 2)
    torch.testing.assert_close(moved, rkd_loss(student, teacher), rtol=1e-9, atol=1e-9)


def test_rkd_ignores_the_order_of_the_batch():
    torch.manual_seed(0)
    student, teacher, order = torch.randn(8, 5).double(), torch.randn(8, 6).double(), torch.randperm(8)
    torch.testing.assert_close(rkd_loss(student[order], teacher[order]), rkd_loss(student, teacher))


def test_rkd_of_equal_features_is_zero_with_zero_gradient():
    student = torch.randn(9, 5, requires_grad=True)
    loss = rkd_loss(student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_rkd_of_a_batch_of_one_repeated_sample_has_zero_gradient():
    student = torch.randn(1, 5).expand(4, 5).clone().requires_grad_()
    loss = rkd_loss(student, torch.randn(4, 5))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_rkd_of_nearly_equal_samples_keeps_its_digits_in_float32():
    torch.manual_seed(0)
    student = torch.randn(6, 8)
    student[1] = student[0] * (1 + 1e-4)
    teacher = torch.randn(6, 8)
    wide = rkd_loss(student.double(), teacher.double())
    assert float(rkd_loss(student, teacher)) == pytest.approx(float(wide), rel=1e-6)


def test_rkd_in_pieces_equals_rkd_at_once(monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(11, 4).double().requires_grad_(), torch.randn(11, 5).double()
    (at_once,) = torch.autograd.grad(loss := rkd_loss(student, teacher), student)
    monkeypatch.setattr(rkd, "WHOLE_BATCH", 6)  # pieces of 3, 3, 3 and 2 rows
    (in_pieces,) = torch.autograd.grad(pieced := rkd_loss(student, teacher), student)
    torch.testing.assert_close(pieced, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(in_pieces, at_once, rtol=1e-10, atol=1e-13)


def test_rkd_in_pieces_compiles_into_one_graph(monkeypatch):
    monkeypatch.setattr(rkd, "WHOLE_BATCH", 6)
    student, teacher = torch.randn(9, 4), torch.randn(9, 5)
    compiled = torch.compile(rkd_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(student, teacher), rkd_loss(student, teacher))


def test_rkd_needs_a_pair_of_vectors():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        rkd_loss(torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"2 dimensions .* student \(2, 3, 1, 1\)"):
        rkd_loss(torch.zeros(2, 3, 1, 1), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"teacher_feature must be floating, got torch\.int64"):
        rkd_loss(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64))


def test_two_samples_are_a_batch_of_one_relation_which_is_always_the_same():
    student, teacher = torch.tensor([[1.0, 2.0], [4.0, -3.0]]), torch.tensor([[0.0], [5.0]])
    assert rkd_loss(student, teacher).item() == pytest.approx(0, abs=1e-6)
