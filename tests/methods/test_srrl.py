import copy

import pytest
import torch
from torch import nn

import understudy as us
from understudy.engine.distiller import Distiller


def regression(b, student, teacher, written_out, feature_weight=1.0, logit_weight=1.0):
    conv, norm, _ = b.heads["transplant"].connect
    pooled = written_out.conv_bn(student["stage_last"], conv, norm).clamp(min=0).mean(dim=(2, 3))
    judge = b.distiller.setup.guide.module.fc
    logits = pooled @ judge.weight.T + judge.bias
    feature = ((pooled - teacher["stage_last"].mean(dim=(2, 3))) ** 2).mean()
    return feature_weight * feature + logit_weight * ((logits - teacher["logits"]) ** 2).mean()


@pytest.mark.parametrize("weights", [{}, {"feature_weight": 0.3, "logit_weight": 2.0}])
def test_the_loss_is_that_of_pooled_features_and_the_teachers_logits_of_them(bench, written_out, weights):
    b = bench("srrl", **weights)
    torch.testing.assert_close(b.term(), regression(b, *b.shown(), written_out, **weights))


def test_a_step_moves_student_and_connector_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        label = written_out.ce(student["logits"], by_hand.target)
        return label + regression(by_hand, student, teacher, written_out)

    by_engine, by_hand = bench("srrl"), bench("srrl")
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


def test_the_classifier_is_a_frozen_copy_saved_with_the_run(bench):
    b = bench("srrl")
    teacher = copy.deepcopy(b.distiller.setup.guide.module.fc)
    b.step()
    own = b.heads["transplant"].classifier
    assert own is not b.distiller.setup.guide.module.fc
    assert torch.equal(own.weight, teacher.weight)
    assert torch.equal(own.bias, teacher.bias)
    assert own.weight.grad is None
    assert "heads.srrl.transplant.classifier.weight" in b.distiller.state_dict()


def test_the_student_answers_with_its_own_head(bench):
    b = bench("srrl")
    net = b.distiller.deployable()
    assert type(net) is type(b.distiller.student)
    assert torch.equal(net.eval()(b.images), b.distiller.eval().predict(b.images))


def test_a_transformer_can_learn_from_it(bench, vit):
    assert bench("srrl", student=vit, teacher="cnn_small").term() > 0


class Deep(nn.Module):
    """A teacher with a hidden layer between pooling and classifier."""

    def __init__(self, hidden):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 5))

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["srrl", "simkd", "ijckd"])
def test_a_teacher_whose_classifier_reads_something_else_is_refused(name, bench, vit):
    for teacher, shape in ((Deep(16).double(), r"\(8, 16, 16\)"), (vit, r"\(17, 12\)")):
        with pytest.raises(ValueError, match=rf"^{name} must have a teacher .* of shape {shape}") as error:
            bench(name, teacher=teacher)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["srrl", "simkd", "ijckd"])
def test_a_teacher_of_other_classes_is_refused(name):
    student, teacher = us.create_model("cnn_tiny", 5), us.create_model("cnn_small", 7)
    with pytest.raises(ValueError, match=r"same classes, got .*5 and .*7"):
        Distiller(student, teacher, [{"name": name}])
