import pytest
import torch
from torch import nn

import understudy as us
from understudy.engine.distiller import Distiller


def boundaries(student, teacher, margin):
    """The hinge of the paper, element by element, stage k of n times 2^(k-n), with the authors' factor."""
    total = 0.0
    for k, (s, t) in enumerate(zip(student, teacher, strict=True), start=1):
        silent = torch.where((t <= 0) & (s > -margin), (s + margin) ** 2, 0.0)
        active = torch.where((t > 0) & (s <= margin), (s - margin) ** 2, 0.0)
        total = total + 2.0 ** (k - len(student)) * 0.003 * (silent + active).sum() / len(s)
    return total


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_the_loss_is_the_hinge_on_connected_pre_activations(bench, written_out, margin):
    b = bench("ab", margin=margin)
    student, teacher = b.shown()
    ours = [written_out.conv_bn(student[f"preact_{k}"], *b.heads[f"stage_{k}_{k}"]) for k in (1, 2, 3)]
    expected = boundaries(ours, [teacher[f"preact_{k}"] for k in (1, 2, 3)], margin)
    torch.testing.assert_close(b.term(), expected)


def test_a_step_moves_student_and_connectors_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        heads = by_hand.heads
        ours = [written_out.conv_bn(student[f"preact_{k}"], *heads[f"stage_{k}_{k}"]) for k in (1, 2, 3)]
        label = written_out.ce(student["logits"], by_hand.target)
        return label + boundaries(ours, [teacher[f"preact_{k}"] for k in (1, 2, 3)], 1.0)

    by_engine, by_hand = bench("ab"), bench("ab")
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


def test_equal_shapes_need_no_connector(bench):
    b = bench("ab", teacher="cnn_tiny")
    assert all(type(head) is nn.Identity for head in b.heads.values())
    student, teacher = b.shown()
    expected = boundaries(*([side[f"preact_{k}"] for k in (1, 2, 3)] for side in (student, teacher)), 1.0)
    torch.testing.assert_close(b.term(), expected)


def test_connectors_end_without_a_relu(bench):
    assert [type(m) for m in bench("ab").heads["stage_1_1"]] == [nn.Conv2d, nn.BatchNorm2d]


def test_other_sizes_and_transformers_fit(bench, vit):
    assert bench("ab", stages=((3, 1), (3, 2))).term().isfinite()
    assert bench("ab", teacher=vit).term().isfinite()
    assert bench("ab", student=vit, teacher="cnn_small").term().isfinite()


def test_alone_it_teaches_backbone_and_connectors_until_labels_take_over():
    """The schedule that the docstring gives."""
    torch.manual_seed(0)
    student, teacher = (us.create_model(name, num_classes=5) for name in ("cnn_tiny", "cnn_small"))
    losses = [
        {"name": "ab", "weight": {"value": 1, "until_epoch": 30}},
        {"name": "ce", "weight": {"value": 1, "from_epoch": 31}},
    ]
    distiller = Distiller(student, teacher, losses)
    images, target = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    distiller.backward(distiller(images, target, epoch=29))
    without = {name for name, p in distiller.named_parameters() if p.grad is None}
    # the last stage's activation and what follows see no loss
    assert without == {"student.fc.weight", "student.fc.bias"}
    assert set(distiller(images, target, epoch=30).terms) == {"ce"}
