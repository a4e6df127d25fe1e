import numpy as np
import pytest
import torch

from understudy.analysis import class_logit_difference, correlation_difference


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return student, student + torch.randn(40, 5, generator=generator, dtype=torch.float64)


def test_correlations_equal_numpy(pair):
    student, teacher = pair
    want = np.abs(np.corrcoef(student, rowvar=False) - np.corrcoef(teacher, rowvar=False))
    np.testing.assert_allclose(correlation_difference(student, teacher), want, atol=1e-13)


def test_correlations_ignore_scale_and_shift_of_a_column(pair):
    student, teacher = pair
    moved = student * torch.tensor([0.1, 1, 2, 3, 400]) + torch.tensor([1e3, 0, -5, 2, 1])
    torch.testing.assert_close(
        correlation_difference(moved, teacher), correlation_difference(student, teacher), rtol=0, atol=1e-10
    )


def test_an_opposite_student_differs_by_nothing(pair):
    _, teacher = pair
    assert correlation_difference(-teacher, teacher).max() < 1e-14  # the sign cancels in every pair


def test_a_constant_column_correlates_0_with_everything(pair):
    student, teacher = pair
    student = student.clone()
    student[:, 2] = 0.1  # its mean over 40 samples is not exactly 0.1
    got = correlation_difference(student, teacher)
    want = np.abs(np.corrcoef(teacher, rowvar=False))
    np.testing.assert_allclose(got[2], want[2], atol=1e-13)
    assert float(got[2, 2]) == pytest.approx(1)
    assert got.isfinite().all()


def test_one_sample_has_no_correlation():
    assert correlation_difference(torch.ones(1, 3), torch.zeros(1, 3)).tolist() == [[0.0] * 3] * 3


def test_class_differences_equal_the_naive_loop(pair):
    student, teacher = pair
    target = torch.arange(40) % 5
    got = class_logit_difference(student, teacher, target)
    for label in range(5):
        rows = [i for i in range(40) if target[i] == label]
        for k in range(5):
            mean = sum(float(student[i, k] - teacher[i, k]) for i in rows) / len(rows)
            assert float(got[label, k]) == pytest.approx(0 if k == label else abs(mean), rel=1e-12)


def test_an_absent_class_has_a_row_of_0(pair):
    student, teacher = pair
    target = torch.arange(40) % 4
    got = class_logit_difference(student, teacher, target)
    assert got[4].tolist() == [0.0] * 5
    assert (got[:4, 4] > 0).all()


def test_the_two_pictures_are_not_the_same(pair):
    student, teacher = pair
    shifted = student + 3  # a shift changes the logits' differences and no correlation
    target = torch.arange(40) % 5
    torch.testing.assert_close(
        correlation_difference(shifted, teacher), correlation_difference(student, teacher), rtol=0, atol=1e-12
    )
    assert (
        class_logit_difference(shifted, teacher, target) - class_logit_difference(student, teacher, target)
    ).max() > 1


def test_wrong_arguments_are_named(pair):
    student, teacher = pair
    with pytest.raises(ValueError, match=r"got student \(40, 4\) and teacher \(40, 5\)"):
        correlation_difference(student[:, :4], teacher)
    with pytest.raises(ValueError, match="student_logits must hold at least one sample"):
        correlation_difference(student[:0], teacher[:0])
    with pytest.raises(ValueError, match=r"target must be int64 of shape \(40,\)"):
        class_logit_difference(student, teacher, torch.arange(39))
    with pytest.raises(ValueError, match=r"target must lie in \[0, 5\), got 39"):
        class_logit_difference(student, teacher, torch.arange(40))
