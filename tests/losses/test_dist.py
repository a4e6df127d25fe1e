import numpy as np
import pytest
import torch

from understudy.losses import dist_loss


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)


def test_value_is_one_minus_the_correlations_of_numpy(pair):
    u, v = (torch.softmax(side / 2, dim=1).numpy() for side in pair)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(u, v, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(u.T, v.T, strict=True)])
    want = 4 * (2 * (1 - rows) + 0.5 * (1 - columns))
    assert dist_loss(*pair, beta=2.0, gamma=0.5, temperature=2.0).item() == pytest.approx(want, rel=1e-5)


def test_eps_stands_beside_the_product_of_norms(pair):
    # Equal sides: r = n / (n + eps) with n the squared centred norm; at T = 1000 it is of the size of eps.
    u = torch.softmax(pair[0] / 1000, dim=1)
    n_rows, n_columns = u.var(dim=1, correction=0) * 5, u.var(dim=0, correction=0) * 6
    want = 1000**2 * ((1e-8 / (n_rows + 1e-8)).mean() + (1e-8 / (n_columns + 1e-8)).mean())
    torch.testing.assert_close(dist_loss(pair[0], pair[0], temperature=1000.0), want, rtol=1e-6, atol=0)
    assert want > 100


def test_column_term_of_a_single_sample_is_constant_without_gradient(pair):
    student, teacher = pair[0, :1].clone().requires_grad_(), pair[1, :1]
    value = dist_loss(student, teacher, beta=0.0, gamma=3.0, temperature=2.0)
    assert value.item() == 3 * 2**2
    assert (torch.autograd.grad(value, student)[0] == 0).all()


def test_with_two_classes_the_row_term_has_no_gradient(pair):
    student, teacher = pair[0, :, :2].clone().requires_grad_(), pair[1, :, :2]
    (gradient,) = torch.autograd.grad(dist_loss(student, teacher, gamma=0.0), student)
    assert gradient.abs().max() < 1e-4  # up to eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_that_says_the_same_of_everything_gets_no_gradient(pair, dtype):
    student = torch.full((6, 5), 0.3, dtype=dtype, requires_grad=True)
    value = dist_loss(student, pair[1].to(dtype), temperature=4.0)
    assert value.item() == pytest.approx(2 * 4**2, rel=0.1)
    assert (torch.autograd.grad(value, student)[0] == 0).all()
