import pytest
import torch

import understudy as us
from understudy.engine.distiller import Distiller


def test_the_published_pair_has_the_published_extra_parameters(real_pair):
    heads = real_pair("fitnet").heads["fitnet"]
    assert sum(p.numel() for p in heads.parameters()) == 16_768


def test_the_loss_is_the_mean_squared_difference_behind_the_regressor(bench, written_out):
    b = bench("fitnet")
    student, teacher = b.shown()
    conv, norm, _ = b.heads["stage_2_2"]
    regressed = written_out.conv_bn(student["stage_2"], conv, norm).clamp(min=0)
    torch.testing.assert_close(b.term(), ((regressed - teacher["stage_2"]) ** 2).mean())


def test_a_step_moves_student_and_regressor_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        conv, norm, _ = by_hand.heads["stage_2_2"]
        regressed = written_out.conv_bn(student["stage_2"], conv, norm).clamp(min=0)
        hint = ((regressed - teacher["stage_2"]) ** 2).mean()
        return written_out.ce(student["logits"], by_hand.target) + 3 * hint

    by_engine, by_hand = bench("fitnet", weight=3.0), bench("fitnet", weight=3.0)
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("stages", "expected"), [(None, ((2, 2),)), (((1, 1), (3, 3)), ((1, 1), (3, 3))), (((3, 2),), ((3, 2),))]
)
def test_the_second_pair_is_the_default_and_any_others_can_be_given(bench, stages, expected):
    b = bench("fitnet", stages=stages)
    assert b.method.stages == expected
    assert list(b.heads) == [f"stage_{s}_{t}" for s, t in expected]
    assert b.term() > 0


def test_a_smaller_student_in_an_odd_ratio_meets_a_pooled_teacher(bench):
    b = bench("fitnet", stages=((3, 1),))  # 4x4 under 16x16
    student, teacher = b.shown()
    regressed = b.heads["stage_3_1"](student["stage_3"])
    pooled = torch.nn.functional.avg_pool2d(teacher["stage_1"], 4)
    torch.testing.assert_close(b.term(), ((regressed - pooled) ** 2).mean())


def test_a_transformer_teaches_a_convolutional_network_and_is_taught(bench, vit):
    assert bench("fitnet", teacher=vit).term() > 0
    assert bench("fitnet", student=vit, teacher="cnn_small").term() > 0


def test_in_the_papers_first_stage_only_the_hinted_part_learns():
    """The schedule that the docstring gives for the two stages."""
    torch.manual_seed(0)
    student, teacher = (us.create_model(name, num_classes=5) for name in ("cnn_tiny", "cnn_small"))
    distiller = Distiller(
        student,
        teacher,
        [
            {"name": "fitnet", "weight": {"value": 100, "until_epoch": 40}},
            {"name": "ce", "weight": {"value": 0.1, "from_epoch": 41}},
            {"name": "kd", "weight": {"value": 0.9, "from_epoch": 41}},
        ],
    )
    images, target = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    distiller.backward(distiller(images, target, epoch=39))
    reached = {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None}
    assert reached == {"stem", "stage1", "stage2"}
    distiller.zero_grad()
    out = distiller(images, target, epoch=40)
    distiller.backward(out)
    assert set(out.terms) == {"ce", "kd"}
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in distiller.heads.parameters())
