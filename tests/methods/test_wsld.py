import torch

from understudy.interface import Batch
from understudy.losses import wsld_loss
from understudy.methods.wsld import WSLD


def test_temperature_and_labels_reach_the_loss():
    student, teacher, target = torch.randn(6, 5), torch.randn(6, 5), torch.arange(6) % 5
    batch = Batch(torch.zeros(0), target)
    loss = WSLD(temperature=3.0).loss({"logits": student}, {"logits": teacher}, batch, None)
    assert torch.equal(loss, wsld_loss(student, teacher, target, temperature=3.0))


def test_a_sample_the_student_knows_better_than_the_teacher_hardly_counts():
    batch = Batch(torch.zeros(0), torch.tensor([0]))
    sure, unsure = torch.tensor([[8.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    ahead = WSLD().loss({"logits": sure}, {"logits": unsure}, batch, None)
    behind = WSLD().loss({"logits": unsure}, {"logits": sure}, batch, None)
    assert ahead < 0.01 * behind
