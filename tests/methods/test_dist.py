import torch

from understudy.losses import dist_loss
from understudy.methods.dist import DIST


def test_the_settings_reach_the_loss():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    method = DIST(beta=0.5, gamma=3.0, temperature=2.0)
    loss = method.loss({"logits": student}, {"logits": teacher}, None, None)
    assert torch.equal(loss, dist_loss(student, teacher, beta=0.5, gamma=3.0, temperature=2.0))


def test_beta_weighs_rows_and_gamma_columns():
    student = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    teacher = student.roll(1, dims=0)
    columns = DIST(beta=0.0).loss({"logits": student}, {"logits": teacher}, None, None)
    one_image = DIST(gamma=0.0).loss({"logits": student[:1]}, {"logits": student[:1]}, None, None)
    assert columns > 0.1
    assert one_image < 1e-3  # a row correlates with itself; the columns of one image do not count
