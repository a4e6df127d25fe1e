import math

import pytest
import torch

from understudy.losses import cosine_direction_loss, dino_loss

TARGET = torch.tensor([2, 0, 2, 1, 2, 0])


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(15, 8, generator=generator, dtype=torch.float64)
    return {
        "student_feature": draw[:6],
        "teacher_feature": draw[6:12],
        "class_means": draw[12:],
        "target": TARGET,
    }


@pytest.mark.parametrize("class_balanced", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_value_equals_the_loop_over_classes_and_samples(given, scale, class_balanced):
    student, teacher, means = (
        given[k].tolist() for k in ("student_feature", "teacher_feature", "class_means")
    )
    by_class = {}
    for f_s, f_t, y in zip(student, teacher, TARGET.tolist(), strict=True):
        along = sum(f * c for f, c in zip(f_s, means[y], strict=True)) / math.hypot(*means[y])
        by_class.setdefault(y, []).append(1 - along / max(math.hypot(*f_s), scale * math.hypot(*f_t)))
    if class_balanced:
        want = sum(sum(values) / len(values) for values in by_class.values()) / len(by_class)
    else:
        want = sum(sum(values) for values in by_class.values()) / 6
    got = dino_loss(**given, teacher_norm_scale=scale, class_balanced=class_balanced)
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_positive_factors_on_the_class_means_change_nothing(given):
    scaled = given | {"class_means": given["class_means"] * torch.tensor([[0.01], [1.0], [300.0]])}
    torch.testing.assert_close(dino_loss(**scaled), dino_loss(**given))


def test_the_norm_of_a_longer_student_is_free_and_differentiated(given):
    long = given | {"student_feature": (100 * given["student_feature"]).requires_grad_()}
    value = dino_loss(**long)
    torch.testing.assert_close(dino_loss(**given | {"student_feature": 7 * long["student_feature"]}), value)
    (gradient,) = torch.autograd.grad(value, long["student_feature"])
    inner = (gradient * long["student_feature"]).sum(dim=1)
    torch.testing.assert_close(inner, torch.zeros(6).double(), atol=1e-14, rtol=0)


def test_a_shorter_student_is_pulled_straight_along_its_class_mean(given):
    short = given | {"student_feature": (0.01 * given["student_feature"]).requires_grad_()}
    (gradient,) = torch.autograd.grad(dino_loss(**short), short["student_feature"])
    unit = given["class_means"] / given["class_means"].norm(dim=1, keepdim=True)
    want = -unit[TARGET] / given["teacher_feature"].norm(dim=1, keepdim=True) / 6
    torch.testing.assert_close(gradient, want)


def test_a_tie_of_norms_takes_the_whole_gradient_of_the_student(given):
    student = given["student_feature"].clone().requires_grad_()
    tie = dino_loss(**given | {"student_feature": student, "teacher_feature": -student.detach()})
    direction = cosine_direction_loss(student, given["class_means"], TARGET)
    for got, want in zip(
        torch.autograd.grad(tie, student), torch.autograd.grad(direction, student), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_it_is_zero_only_along_the_class_mean_and_long_enough(given):
    along = given["class_means"][TARGET]
    long = 1e3 * along / along.norm(dim=1, keepdim=True)
    assert abs(dino_loss(**given | {"student_feature": long}).item()) < 1e-12
    assert dino_loss(**given | {"student_feature": 1e-5 * long}).item() > 0.9
    assert dino_loss(**given | {"student_feature": given["teacher_feature"]}).item() > 0.1


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_degenerate_samples_give_one_without_gradient(given, scale):
    student = given["student_feature"].clone()
    student[0] = given["teacher_feature"][0] = 0.0  # no direction on either side
    given["class_means"][1] = 0.0  # a class without images (sample 3)
    student.requires_grad_()
    value = dino_loss(**given | {"student_feature": student}, teacher_norm_scale=scale)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient[[0, 3]].abs().max() == 0.0
    assert gradient[[1, 2, 4, 5]].abs().amax(dim=1).min() > 0


def test_a_zero_student_of_a_teacher_with_a_norm_is_pulled_along(given):
    student = torch.zeros_like(given["student_feature"], requires_grad=True)
    value = dino_loss(**given | {"student_feature": student})
    assert value.item() == 1.0
    assert torch.autograd.grad(value, student)[0].abs().amax(dim=1).min() > 0


def test_error_for_class_means_of_another_width(given):
    with pytest.raises(ValueError, match=r"got student_feature \(6, 8\) and class_means \(3, 5\)"):
        dino_loss(**given | {"class_means": given["class_means"][:, :5]})
    with pytest.raises(ValueError, match=r"student \(6, 8\) and teacher \(6, 5\)\. Put a projector"):
        dino_loss(**given | {"teacher_feature": given["teacher_feature"][:, :5]})


def test_a_feature_of_tiny_length_still_has_a_direction():
    feature, zero = torch.tensor([[0.0, 1e-10]], requires_grad=True), torch.zeros(1, 2)
    loss = dino_loss(feature, zero, torch.eye(2), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, feature)
    assert loss.item() == 1
    torch.testing.assert_close(gradient, torch.tensor([[-1e10, 0.0]]))
