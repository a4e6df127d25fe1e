import pytest
import torch
from torch import nn

from understudy.heads import hint_regressor

SIZES = [
    ((32, 32), (16, 16), nn.Conv2d, (3, 3)),
    ((8, 8), (16, 16), nn.ConvTranspose2d, (4, 4)),
    ((8, 8), (8, 8), nn.Conv2d, (1, 1)),
    ((14, 14), (8, 8), nn.Conv2d, (7, 7)),
    ((7, 9), (4, 8), nn.Conv2d, (4, 2)),
]


@pytest.mark.parametrize(("student", "teacher", "kind", "kernel"), SIZES)
def test_it_leads_from_the_students_size_to_the_teachers(student, teacher, kind, kernel):
    regressor = hint_regressor((3, *student), (5, *teacher))
    assert isinstance(regressor[0], kind)
    assert regressor[0].kernel_size == kernel
    assert regressor[0].bias is not None
    assert regressor(torch.randn(2, 3, *student)).shape == (2, 5, *teacher)


@pytest.mark.parametrize(("student", "teacher"), [((5, 5), (8, 8)), ((4, 16), (8, 8))])
def test_a_smaller_student_in_another_ratio_keeps_its_size(student, teacher):
    regressor = hint_regressor((3, *student), (5, *teacher))
    assert regressor(torch.randn(2, 3, *student)).shape == (2, 5, *student)


def test_its_output_is_rectified_only_if_asked():
    x = torch.randn(4, 3, 8, 8)
    assert (hint_regressor((3, 8, 8), (5, 8, 8))(x) >= 0).all()
    assert (hint_regressor((3, 8, 8), (5, 8, 8), relu=False)(x) < 0).any()
