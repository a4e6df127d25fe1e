import pytest
import torch
from torch.nn import functional as F


def review(b, student, teacher, written_out, place="stage"):
    """The forward pass of the fusion blocks and the context loss, written out."""
    levels = [("feature", "feature")] + [(f"{place}_{k}", f"preact_{k}") for k in (3, 2, 1)]
    deeper, total = None, 0.0
    for block, (ours, theirs) in zip(b.heads["review"].blocks, levels, strict=True):
        x, t = student[ours], teacher[theirs]
        x, t = (v[:, :, None, None] if v.dim() == 2 else v for v in (x, t))
        x = written_out.conv_bn(x, *block.narrow)
        if deeper is not None:
            y = F.interpolate(deeper, size=x.shape[2:], mode="nearest")
            z = torch.einsum("oi,bihw->bohw", block.gate.weight[:, :, 0, 0], torch.cat((x, y), dim=1))
            z = 1 / (1 + torch.exp(-(z + block.gate.bias.view(1, -1, 1, 1))))
            x = x * z[:, 0:1] + y * z[:, 1:2]
        x = F.interpolate(x, size=t.shape[2:], mode="nearest")
        out, deeper = written_out.conv_bn(x, *block.out), x
        weights, parts = [1.0], [((out - t) ** 2).mean()]
        for size in (4, 2, 1):
            if size < t.shape[2]:
                weights.append(weights[-1] / 2)
                pooled = [F.adaptive_avg_pool2d(v, size) for v in (out, t)]
                parts.append(((pooled[0] - pooled[1]) ** 2).mean())
        total = total + sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights)
    return total


def test_the_published_pair_has_the_published_extra_parameters(real_pair):
    heads = real_pair("reviewkd").heads["reviewkd"]
    assert sum(p.numel() for p in heads.parameters()) == 1_808_774


def test_the_loss_is_the_context_loss_of_the_fused_maps(bench, written_out):
    b = bench("reviewkd")
    torch.testing.assert_close(b.term(), review(b, *b.shown(), written_out))


def test_the_student_can_be_read_before_its_activations(bench, written_out):
    b = bench("reviewkd", student_maps="preact")
    torch.testing.assert_close(b.term(), review(b, *b.shown(), written_out, "preact"))


def test_a_step_moves_student_and_fusion_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        label = written_out.ce(student["logits"], by_hand.target)
        return label + 0.5 * review(by_hand, student, teacher, written_out)

    by_engine, by_hand = bench("reviewkd", weight=0.5), bench("reviewkd", weight=0.5)
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("student", "bound", "expected"),
    [("cnn_tiny", 512, 24), ("cnn_tiny", 10, 10), ("mobilenet_v2", 512, 512), ("mobilenet_v2", 256, 256)],
)
def test_the_passed_channels_are_those_of_the_feature_up_to_the_bound(bench, student, bound, expected):
    b = bench("reviewkd", student=student, max_mid_channels=bound, size=32)
    assert {block.narrow[0].out_channels for block in b.heads["review"].blocks} == {expected}


def test_a_teacher_of_another_size_sets_the_size_of_each_level(bench, vit):
    b = bench("reviewkd", stages=((1, 2), (2, 3)))
    outputs = b.heads["review"](
        [torch.randn(2, c, h, h, dtype=torch.float64) for c, h in ((24, 1), (16, 8), (8, 16))],
        [(1, 1), (4, 4), (8, 8)],
    )
    assert [tuple(o.shape[1:]) for o in outputs] == [(64, 1, 1), (64, 4, 4), (32, 8, 8)]
    assert b.term() > 0
    assert bench("reviewkd", teacher=vit).term() > 0
