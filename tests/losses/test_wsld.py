import math

import pytest
import torch
from torch.nn import functional as F

from understudy.losses import wsld_loss

TARGET = torch.tensor([0, 2, 1, 4])


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)


def test_value_and_gradient_are_those_of_the_weighted_soft_cross_entropy(pair):
    student, teacher = pair[0].clone().requires_grad_(), pair[1]
    ratio = F.cross_entropy(student, TARGET, reduction="none") / F.cross_entropy(
        teacher, TARGET, reduction="none"
    )
    weight = (1 - torch.exp(-ratio)).detach()
    soft = F.cross_entropy(student / 3, F.softmax(teacher / 3, dim=1), reduction="none")
    value, want = wsld_loss(student, teacher, TARGET, 3.0), 9 * (weight * soft).mean()
    torch.testing.assert_close(value, want, rtol=1e-6, atol=0)
    for got, expected in zip(
        torch.autograd.grad(value, student), torch.autograd.grad(want, student), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_equal_networks_give_the_weighted_entropy(pair):
    p = F.softmax(pair[0] / 2, dim=1)
    entropy = -(p * p.log()).sum(dim=1)
    want = 4 * (1 - math.exp(-1)) * entropy.mean()
    torch.testing.assert_close(wsld_loss(pair[0], pair[0], TARGET), want, rtol=1e-6, atol=0)


def test_a_sample_the_student_already_knows_hardly_counts():
    student = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    each = wsld_loss(student, torch.zeros(2, 2), torch.tensor([0, 0]), reduction="none")
    assert each[0].item() == 0.0
    assert each[1].item() == pytest.approx(4 * 50.0, rel=1e-3)
