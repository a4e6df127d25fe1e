"""The overview of a network's answers, and of a student's beside its teacher's."""

import math

import pytest
import torch

from understudy.metrics import likeness, mean_kl, per_class_accuracy, quality

TARGET = torch.tensor([0, 1, 2, 0, 1])
TEACHER = torch.eye(3)[[0, 1, 2, 1, 2]] * 4  # right, right, right, wrong, wrong
STUDENT = torch.eye(3)[[0, 2, 2, 1, 1]] * 2  # right, wrong, right, the same wrong, right


def test_likeness_counts_what_each_alone_gets_right():
    found = likeness(STUDENT, TEACHER, TARGET)
    assert found["agreement"] == pytest.approx(60)
    assert found["agreement_on_errors"] == pytest.approx(50)
    assert found["overtakes"] == pytest.approx(20)
    assert found["loses"] == pytest.approx(20)
    assert found["kl"] == float(mean_kl(STUDENT, TEACHER))


def test_overtakes_less_loses_is_the_gap_of_the_accuracies():
    torch.manual_seed(0)
    student, teacher, target = torch.randn(50, 4), torch.randn(50, 4), torch.arange(50) % 4
    found = likeness(student, teacher, target)
    gap = quality(student, target)["acc1"] - quality(teacher, target)["acc1"]
    assert found["overtakes"] - found["loses"] == pytest.approx(gap)


def test_quality_of_a_network_of_few_classes_has_a_top_5():
    found = quality(STUDENT, TARGET)
    assert found["acc1"] == pytest.approx(60)
    assert found["acc5"] == 100
    confidence = math.exp(2) / (math.exp(2) + 2)
    assert found["ece"] == pytest.approx(100 * abs(0.6 - confidence), rel=1e-5)


def test_a_teacher_without_errors_leaves_agreement_on_them_undefined():
    assert math.isnan(likeness(STUDENT, torch.eye(3)[TARGET], TARGET)["agreement_on_errors"])


def test_accuracy_by_class():
    found = per_class_accuracy(torch.cat([STUDENT, torch.zeros(5, 1)], dim=1), TARGET)
    assert found[:3].tolist() == [0.5, 0.5, 1.0]
    assert math.isnan(float(found[3]))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="at least one sample"):
        quality(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="shape"):
        likeness(STUDENT, TEACHER[:, :2], TARGET)
    with pytest.raises(ValueError, match="shape"):
        per_class_accuracy(STUDENT[0], TARGET)
