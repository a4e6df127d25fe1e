import pytest
import torch
from torch import nn
from torch.nn import functional as F


def channelwise(ours, theirs, temperature):
    p, q = (torch.softmax(x.flatten(2) / temperature, dim=2) for x in (theirs, ours))
    return temperature**2 * (p * (p.log() - q.log())).sum() / (p.shape[0] * p.shape[1])


@pytest.mark.parametrize("temperature", [4.0, 1.0])
def test_the_loss_is_the_divergence_over_space_behind_the_projector(bench, temperature):
    b = bench("cwd", temperature=temperature)
    student, teacher = b.shown()
    conv = b.heads["project"]
    ours = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], student["stage_last"]) + conv.bias.view(
        1, -1, 1, 1
    )
    torch.testing.assert_close(b.term(), channelwise(ours, teacher["stage_last"], temperature))


def test_a_step_moves_student_and_projector_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        ours = F.conv2d(student["stage_last"], *by_hand.heads["project"].parameters())
        return written_out.ce(student["logits"], by_hand.target) + channelwise(ours, teacher["stage_last"], 4)

    by_engine, by_hand = bench("cwd"), bench("cwd")
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


def test_equal_channels_need_no_projector(bench):
    assert type(bench("cwd", teacher="cnn_tiny").heads["project"]) is nn.Identity


def test_the_larger_map_is_pooled_and_transformers_fit(bench, vit):
    b = bench("cwd", teacher="vgg8", size=32)  # 8x8 under 4x4
    student, teacher = b.shown()
    ours = b.heads["project"](F.adaptive_avg_pool2d(student["stage_last"], teacher["stage_last"].shape[2]))
    torch.testing.assert_close(b.term(), channelwise(ours, teacher["stage_last"], 4.0))
    assert bench("cwd", teacher=vit).term() > 0


def test_maps_of_one_pixel_have_nothing_to_say(bench):
    with pytest.raises(ValueError, match="cwd must compare maps of two pixels or more"):
        bench("cwd", size=4)
