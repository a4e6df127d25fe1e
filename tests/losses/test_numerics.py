"""Unit vectors at and near zero."""

import torch

from understudy.losses.numerics import unit


def test_unit_scales_to_length_one_and_leaves_zero_at_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-15, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [1e-3, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unit(x), expected)


def test_unit_gives_the_zero_vector_no_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    unit(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_unit_works_along_any_dimension():
    x = torch.randn(2, 3, 4)
    norms = torch.linalg.vector_norm(unit(x, dim=1), dim=1)
    torch.testing.assert_close(norms, torch.ones(2, 4))


def test_unit_passes_a_nan_on():
    assert unit(torch.tensor([torch.nan, 1.0])).isnan().any()
