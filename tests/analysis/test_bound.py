import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from understudy.analysis import ijckd_bound


def problem(seed=0, batch=6, num_classes=4, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, batch, num_classes, generator=generator, dtype=torch.float64)
    return (*logits, torch.randint(num_classes, (batch,), generator=generator))


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 8),
    num_classes=st.integers(1, 10),
    scale=st.floats(0, 200),
)
def test_the_students_error_never_exceeds_the_bound(seed, batch, num_classes, scale):
    result = ijckd_bound(*problem(seed, batch, num_classes, scale))
    assert float(result["student_error"]) <= float(result["bound"]) + 1e-12
    assert all(
        0 <= float(result[key]) <= 2 + 1e-12 for key in ("student_error", "teacher_error", "delta1", "delta2")
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_every_side_of_the_triangle_obeys(seed):
    student, cross, teacher, target = problem(seed)
    there = ijckd_bound(student, cross, teacher, target)
    back = ijckd_bound(teacher, cross, student, target)  # the roles exchanged: the deltas change places
    torch.testing.assert_close(there["delta1"], back["delta2"])
    assert float(back["student_error"]) <= float(back["bound"]) + 1e-12


def test_the_bound_is_the_sum_of_its_three_terms():
    for space in ("probability", "logit"):
        result = ijckd_bound(*problem(), space=space)
        assert result["bound"] == result["teacher_error"] + result["delta1"] + result["delta2"]


def test_delta1_is_0_when_the_student_has_the_teachers_head():
    student, _, teacher, target = problem()
    result = ijckd_bound(student, student, teacher, target)
    assert result["delta1"] == 0
    assert result["delta2"] > 0


def test_the_bound_is_tight_for_a_student_equal_to_its_teacher():
    _, _, teacher, target = problem()
    result = ijckd_bound(teacher, teacher, teacher, target)
    assert result["student_error"] == result["bound"] == result["teacher_error"]


def test_logit_space_is_cross_entropy_and_mean_squared_differences():
    student, cross, teacher, target = problem()
    result = ijckd_bound(student, cross, teacher, target, space="logit")
    for key, want in {
        "student_error": F.cross_entropy(student, target),
        "teacher_error": F.cross_entropy(teacher, target),
        "delta1": ((student - cross) ** 2).sum() / student.numel(),
        "delta2": ((cross - teacher) ** 2).sum() / student.numel(),
    }.items():
        torch.testing.assert_close(result[key], want)


def test_logit_space_guarantees_nothing():
    student = torch.tensor([[0.0, 0.5]])
    cross, teacher = torch.tensor([[0.25, 0.25]]), torch.tensor([[0.5, 0.0]])
    result = ijckd_bound(student, cross, teacher, torch.tensor([0]), space="logit")
    assert result["student_error"] > result["bound"]


def test_wrong_arguments_are_named():
    student, cross, teacher, target = problem()
    with pytest.raises(ValueError, match=r"got student \(6, 4\) and teacher \(6, 3\)"):
        ijckd_bound(student, cross, teacher[:, :3], target)
    with pytest.raises(ValueError, match=r"got cross \(5, 4\) and teacher \(6, 4\)"):
        ijckd_bound(student, cross[:5], teacher, target)
    with pytest.raises(ValueError, match="target must be int64"):
        ijckd_bound(student, cross, teacher, target.float())
    with pytest.raises(ValueError, match="space must be 'probability' or 'logit', got 'logits'"):
        ijckd_bound(student, cross, teacher, target, space="logits")
    with pytest.raises(ValueError, match="student_logits must hold at least one sample"):
        ijckd_bound(student[:0], cross[:0], teacher[:0], target[:0])
