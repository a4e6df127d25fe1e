import torch

import understudy as us
from understudy.losses import cc_loss


def build(**settings):
    torch.manual_seed(0)
    student, teacher = us.create_model("cnn_tiny", 10), us.create_model("resnet8", 10)
    return us.Distiller(student, teacher, [{"name": "cc", **settings}], example=torch.zeros(2, 3, 16, 16))


def test_both_features_get_a_trained_embedding_of_one_width():
    heads = build().heads["cc"]
    shapes = {name: tuple(layer.weight.shape) for name, layer in heads.items()}
    assert shapes == {"student": (128, 24), "teacher": (128, 64)}
    assert sum(p.numel() for p in heads.parameters()) == 128 * (24 + 64) + 2 * 128
    assert all(p.requires_grad for p in heads.parameters())
    assert build(width=7).heads["cc"]["student"].out_features == 7


def test_the_embeddings_are_linear_and_not_normalised():
    distiller = build(width=5)
    heads, method = distiller.heads["cc"], distiller.terms[0].method
    student, teacher = torch.randn(6, 24), torch.randn(6, 64)
    ours = student @ heads["student"].weight.T + heads["student"].bias
    theirs = teacher @ heads["teacher"].weight.T + heads["teacher"].bias
    loss = method.loss({"feature": student}, {"feature": teacher}, None, heads)
    torch.testing.assert_close(loss, cc_loss(ours, theirs))


def test_the_teachers_embedding_learns_but_not_its_feature():
    distiller = build(width=5)
    heads, method = distiller.heads["cc"], distiller.terms[0].method
    teacher = torch.randn(6, 64, requires_grad=True)
    method.loss({"feature": torch.randn(6, 24)}, {"feature": teacher}, None, heads).backward()
    assert heads["teacher"].weight.grad.any()
    assert teacher.grad is None
