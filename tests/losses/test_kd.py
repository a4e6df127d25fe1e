import math

import pytest
import torch
from torch.nn import functional as F

from understudy.losses import kd_loss


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 50.0])
def test_value_equals_the_sum_written_out_in_python(pair, temperature):
    total = 0.0
    for z_s, z_t in zip(*(side.tolist() for side in pair), strict=True):
        p_s, p_t = ([math.exp(z / temperature) for z in row] for row in (z_s, z_t))
        p_s, p_t = ([p / sum(row) for p in row] for row in (p_s, p_t))
        total += temperature**2 * sum(t * math.log(t / s) for s, t in zip(p_s, p_t, strict=True))
    assert kd_loss(*pair, temperature).item() == pytest.approx(total / 6, rel=1e-9)


def test_gradient_is_the_temperature_times_the_difference_of_probabilities(pair):
    student, teacher = pair[0].clone().requires_grad_(), pair[1]
    (gradient,) = torch.autograd.grad(kd_loss(student, teacher, 4.0), student)
    want = 4 * (F.softmax(student / 4, dim=1) - F.softmax(teacher / 4, dim=1)) / 6
    torch.testing.assert_close(gradient, want)


def test_high_temperatures_keep_three_digits_in_float32(pair):
    want = kd_loss(*pair, 100.0).item()
    assert kd_loss(*pair.float(), 100.0).item() == pytest.approx(want, rel=1e-3)
