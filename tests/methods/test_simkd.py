import pytest
import torch
from torch import nn
from torch.nn import functional as F


def connect(b, student, written_out):
    layers = list(b.heads["transplant"].connect)
    x = student["stage_last"]
    for conv, norm in zip(layers[::3], layers[1::3], strict=True):
        x = written_out.conv_bn(x, conv, norm).clamp(min=0)
    return x


def test_the_loss_is_the_difference_of_the_connected_map_and_the_teachers(bench, written_out):
    b = bench("simkd")
    student, teacher = b.shown()
    connected = connect(b, student, written_out)
    out = b.distiller(b.images, b.target)
    torch.testing.assert_close(out.terms["simkd"], ((connected - teacher["stage_last"]) ** 2).mean())
    classifier = b.distiller.setup.guide.module.fc
    logits = connected.mean(dim=(2, 3)) @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(out.logits, logits)


def test_a_step_moves_student_and_connector_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        connected = connect(by_hand, student, written_out)
        classifier = by_hand.distiller.setup.guide.module.fc
        logits = connected.mean(dim=(2, 3)) @ classifier.weight.T + classifier.bias
        hint = ((connected - teacher["stage_last"]) ** 2).mean()
        return written_out.ce(logits, by_hand.target) + hint

    by_engine, by_hand = bench("simkd"), bench("simkd")
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")
    assert int(by_engine.heads["transplant"].connect[1].num_batches_tracked) == 1


def test_the_larger_map_is_pooled(bench):
    b = bench("simkd", teacher="vgg8", size=32)
    student, teacher = b.shown()
    connected = b.heads["transplant"].connect(student["stage_last"])
    pooled = F.avg_pool2d(connected, connected.shape[2] // teacher["stage_last"].shape[2])
    torch.testing.assert_close(b.term(), ((pooled - teacher["stage_last"]) ** 2).mean())


class Normed(nn.Module):
    """A teacher with a norm of equal width between pooling and classifier."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.norm(self.body(x).mean(dim=(2, 3))))


def test_preparing_finds_a_layer_between_the_teachers_map_and_its_classifier(bench):
    with pytest.raises(ValueError, match="must read its pooled last map") as error:
        bench("simkd", teacher=Normed().double()).prepare()
    assert "\n" not in str(error.value)


def test_preparing_passes_an_ordinary_teacher_once_and_for_all_its_checkpoints(bench):
    b, fresh = bench("simkd"), bench("simkd")
    assert b.distiller.needs_prepare
    b.prepare()
    assert not b.distiller.needs_prepare
    fresh.distiller.load_state_dict(b.distiller.state_dict())
    assert not fresh.distiller.needs_prepare


def test_a_transformer_can_learn_from_it(bench, vit):
    assert bench("simkd", student=vit, teacher="cnn_small").term() > 0
