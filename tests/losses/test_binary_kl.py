import math

import pytest
import torch

from understudy.losses import binary_kl_loss, binary_kl_norm_loss, logit_mse_loss


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 30.0])
def test_binary_kl_equals_its_sum_of_bernoulli_divergences(pair, temperature):
    def sigma(z):
        return 1 / (1 + math.exp(-z / temperature))

    total = 0.0
    for z_s, z_t in zip(*(side.flatten().tolist() for side in pair), strict=True):
        s, t = sigma(z_s), sigma(z_t)
        total += t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))
    assert binary_kl_loss(*pair, temperature).item() == pytest.approx(temperature**2 * total / 6, rel=1e-9)


def test_binary_kl_gradient_is_the_temperature_times_the_difference_of_sigmoids(pair):
    student, teacher = pair[0].clone().requires_grad_(), pair[1]
    (gradient,) = torch.autograd.grad(binary_kl_loss(student, teacher, 3.0), student)
    torch.testing.assert_close(gradient, 3 * ((student / 3).sigmoid() - (teacher / 3).sigmoid()) / 6)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 30.0])
def test_norm_is_the_sum_of_log_cosh(pair, temperature):
    x = (pair[0] - pair[1]) / (2 * temperature)
    want = temperature**2 * x.cosh().log().sum() / 6
    torch.testing.assert_close(binary_kl_norm_loss(*pair, temperature), want, rtol=1e-12, atol=0)


def test_norm_gradient_is_half_the_temperature_times_tanh_and_so_bounded(pair):
    student, teacher = (100 * pair[0]).requires_grad_(), pair[1]
    (gradient,) = torch.autograd.grad(binary_kl_norm_loss(student, teacher, 2.0), student)
    torch.testing.assert_close(gradient, ((student - teacher) / 4).tanh() / 6)
    assert gradient.abs().max() <= 2 / (2 * 6)


@pytest.mark.parametrize("gap", [34.0, -37.0, 500.0, -500.0])
def test_norm_keeps_value_and_gradient_where_a_clamped_sigmoid_loses_them(gap):
    student = torch.tensor([[gap]], requires_grad=True)
    value = binary_kl_norm_loss(student, torch.zeros(1, 1), 2.0)
    assert value.item() == pytest.approx(4 * (abs(gap) / 4 - math.log(2)), rel=1e-6)
    assert torch.autograd.grad(value, student)[0].item() == pytest.approx(math.copysign(1.0, gap))


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-10])
def test_norm_keeps_all_digits_near_agreement(gap):
    student = torch.tensor([[gap]], requires_grad=True)
    value = binary_kl_norm_loss(student, torch.zeros(1, 1), 2.0)
    assert value.item() == pytest.approx(gap**2 / 8, rel=1e-6)
    assert torch.autograd.grad(value, student)[0].item() == pytest.approx(gap / 4, rel=1e-6)


def test_norm_lies_below_an_eighth_of_the_squared_distance_and_touches_it(pair):
    student, teacher = pair
    assert binary_kl_norm_loss(student, teacher) < 7 / 8 * logit_mse_loss(student, teacher)
    close = teacher + 1e-4 * student
    torch.testing.assert_close(
        binary_kl_norm_loss(close, teacher), 7 / 8 * logit_mse_loss(close, teacher), rtol=1e-6, atol=0
    )
