import math

import pytest
import torch
from sklearn.metrics import accuracy_score

from understudy.metrics import mean_kl, top1_agreement


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    return student, student + torch.randn(60, 5, generator=generator, dtype=torch.float64)


def test_agreement_is_the_accuracy_against_the_teachers_answers(pair):
    student, teacher = pair
    want = accuracy_score(teacher.argmax(dim=1), student.argmax(dim=1))
    assert 0 < want < 1
    assert float(top1_agreement(student, teacher)) == pytest.approx(want, rel=1e-6)
    assert top1_agreement(student, teacher) == top1_agreement(teacher, student)


def test_divergence_equals_the_naive_loop_from_teacher_to_student(pair):
    student, teacher = pair
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        s_sum, t_sum = sum(map(math.exp, s)), sum(map(math.exp, t))
        for a, b in zip(s, t, strict=True):
            p, q = math.exp(b) / t_sum, math.exp(a) / s_sum
            total += p * math.log(p / q)
    assert float(mean_kl(student, teacher)) == pytest.approx(total / 60, rel=1e-12)
    assert not torch.isclose(mean_kl(student, teacher), mean_kl(teacher, student))


def test_a_network_agrees_with_itself(pair):
    student, _ = pair
    assert top1_agreement(student, student) == 1
    assert mean_kl(student, student) == 0


def test_a_shift_of_all_logits_changes_nothing(pair):
    student, teacher = pair
    assert top1_agreement(student + 3, teacher) == top1_agreement(student, teacher)
    torch.testing.assert_close(mean_kl(student + 3, teacher), mean_kl(student, teacher))


def test_divergence_keeps_no_graph(pair):
    student, teacher = pair
    assert not mean_kl(student.requires_grad_(), teacher).requires_grad


@pytest.mark.parametrize("measure", [mean_kl, top1_agreement])
def test_wrong_arguments_are_named(measure):
    with pytest.raises(ValueError, match=r"got student \(2, 3\) and teacher \(2, 4\)"):
        measure(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="student_logits must hold at least one sample"):
        measure(torch.zeros(0, 3), torch.zeros(0, 3))
