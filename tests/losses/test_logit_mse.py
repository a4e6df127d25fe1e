import torch

from understudy.losses import logit_mse_loss


def test_value_is_the_mean_over_all_elements_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [4.0, 1.0]])
    assert logit_mse_loss(student, teacher).item() == (1 + 4 + 16 + 1) / 4
    assert logit_mse_loss(student, teacher, reduction="none").tolist() == [2.5, 8.5]


def test_gradient_is_twice_the_difference_over_all_elements():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(logit_mse_loss(student, teacher), student)
    torch.testing.assert_close(gradient, 2 * (student.detach() - teacher) / 15)
