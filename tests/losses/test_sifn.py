import pytest
import torch

from understudy.losses import sifn_loss


def test_value_compares_norms_only():
    student = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    previous = torch.tensor([[0.0, 2.0], [5.0, 12.0]])
    assert sifn_loss(student, previous, step=1.0).item() == ((5 - 2 - 1) ** 2 + (1 - 13 - 1) ** 2) / 2


def test_against_itself_it_is_a_constant_pull_outwards():
    student = torch.tensor([[3.0, 4.0], [0.0, -2.0]], requires_grad=True)
    value = sifn_loss(student, student, step=0.5)
    assert value.item() == 0.25
    (gradient,) = torch.autograd.grad(value, student)
    want = -2 * 0.5 * student.detach() / student.detach().norm(dim=1, keepdim=True) / 2
    torch.testing.assert_close(gradient, want)


def test_a_zero_feature_passes_no_gradient():
    student = torch.zeros(2, 3, requires_grad=True)
    assert (torch.autograd.grad(sifn_loss(student, student), student)[0] == 0).all()


def test_error_names_the_previous_feature():
    with pytest.raises(
        ValueError, match=r"student and previous feature .* got student \(2, 3\) and previous \(2, 4\)"
    ):
        sifn_loss(torch.zeros(2, 3), torch.zeros(2, 4))
