"""Per-pixel losses against the loss of one pixel at a time."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from understudy import losses
from understudy.losses import pixel_loss
from understudy.losses.pixel import PIXEL_LOSSES

READ_TARGET = ("dkd", "nckd", "tckd")


def example(seed=0):
    torch.manual_seed(seed)
    student, teacher = torch.randn(2, 4, 3, 2).double(), torch.randn(2, 4, 3, 2).double()
    target = torch.randint(0, 4, (2, 3, 2))
    target[0, 1] = 255
    return student, teacher, target


@pytest.mark.parametrize("suffix", ["", "_loss"])
@pytest.mark.parametrize("name", sorted(PIXEL_LOSSES))
def test_pixel_loss_is_the_mean_of_the_loss_at_each_kept_pixel(name, suffix):
    student, teacher, target = example()
    function, values = getattr(losses, f"{name}_loss"), []
    for b in range(2):
        for h in range(3):
            for w in range(2):
                if target[b, h, w] != 255:
                    label = (target[b, h, w].view(1),) if name in READ_TARGET else ()
                    values.append(
                        float(function(student[b, :, h, w][None], teacher[b, :, h, w][None], *label))
                    )
    assert len(values) == 10
    got = pixel_loss(student, teacher, target, name + suffix)
    assert got.item() == pytest.approx(sum(values) / 10, rel=1e-10)


def test_pixel_loss_hands_its_parameters_on():
    student, teacher, target = example()
    rows = [x.permute(0, 2, 3, 1).reshape(12, 4) for x in (student, teacher)]
    got = pixel_loss(student, teacher, target, "kd", ignore_index=None, temperature=1.5)
    torch.testing.assert_close(got, losses.kd_loss(*rows, temperature=1.5))


def test_pixel_loss_gradient_equals_finite_differences_and_is_zero_at_ignored_pixels():
    student, teacher, target = example()
    student.requires_grad_()
    assert gradcheck(lambda s: pixel_loss(s, teacher, target, "dkd", beta=2.0), student)
    pixel_loss(student, teacher, target, "dkd").backward()
    assert torch.equal((student.grad != 0).any(dim=1), target != 255)


def test_pixel_loss_with_every_pixel_ignored_is_a_connected_zero():
    student, teacher, target = example()
    student.requires_grad_()
    loss = pixel_loss(student, teacher, torch.full_like(target, 255), "dkd")
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_pixel_loss_brings_teacher_and_target_to_the_resolution_of_the_student():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, 4), torch.randn(2, 4, 3, 5)
    target = torch.randint(0, 4, (2, 13, 9))
    resized = F.interpolate(teacher, size=(6, 4), mode="bilinear", align_corners=False)
    nearest = F.interpolate(target[:, None].float(), size=(6, 4), mode="nearest")[:, 0].long()
    got, expected = pixel_loss(student, teacher, target, "dkd"), pixel_loss(student, resized, nearest, "dkd")
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", sorted(PIXEL_LOSSES))
def test_pixel_loss_compiles_into_one_graph(name):
    student, teacher, target = example()
    torch._dynamo.reset()
    compiled = torch.compile(pixel_loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(student, teacher, target, name), pixel_loss(student, teacher, target, name)
    )


def test_pixel_loss_names_the_losses_it_knows():
    student, teacher, target = example()
    with pytest.raises(ValueError, match=r"loss must be one of binary_kl, .*got 'dkdd'. Did you mean 'dkd'"):
        pixel_loss(student, teacher, target, "dkdd")
    with pytest.raises(ValueError, match="Choose one of them"):
        pixel_loss(student, teacher, target, "rkd_relations")


def test_pixel_loss_refuses_shapes_that_are_no_label_maps():
    student, teacher, target = example()
    with pytest.raises(
        ValueError, match=r"with one B and C, got student \(2, 4, 3, 2\) and teacher \(2, 3, 3, 2\)"
    ):
        pixel_loss(student, teacher[:, :3], target, "kd")
    with pytest.raises(
        ValueError, match=r"target must be int64 of shape \(2, H, W\), got torch.int64 of shape \(12,\)"
    ):
        pixel_loss(student, teacher, target.flatten(), "kd")
    with pytest.raises(ValueError, match=r"got torch\.int32"):
        pixel_loss(student, teacher, target.int(), "kd")
    with pytest.raises(ValueError, match=r"target must lie in \[0, 4\), got 255"):
        pixel_loss(student, teacher, target, "dkd", ignore_index=None)
