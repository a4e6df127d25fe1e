import copy
import math

import pytest
import torch
from torch import nn

import understudy as us
from understudy.heads import MarginConnector
from understudy.losses import ofd_margin
from understudy.models import known_roles
from understudy.taps import Taps, describe


def overhaul(b, student, teacher, written_out):
    total = 0.0
    for k in (1, 2, 3):
        head, t = b.heads[f"stage_{k}_{k}"], teacher[f"preact_{k}"]
        s = written_out.conv_bn(student[f"preact_{k}"], *head.connect)
        norm = b.distiller.setup.guide.module.get_submodule(f"stage{k}.1")
        margin = torch.tensor(
            [mean_below_zero(w.item(), m.item()) for w, m in zip(norm.weight, norm.bias, strict=True)],
            dtype=torch.float64,
        )
        goal = torch.maximum(t, margin.view(1, -1, 1, 1))
        matters = (s > goal) | (t > 0)
        total = total + 2.0 ** (k - 3) * ((s - goal) ** 2 * matters).sum() / len(t)
    return total


def mean_below_zero(scale, mean):
    """E[x | x < 0] of a normal variable, as the paper writes it."""
    z = mean / abs(scale)
    chance = 0.5 * (1 - math.erf(z / math.sqrt(2)))
    if chance <= 0.001:
        return -3 * abs(scale)
    return mean - abs(scale) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / chance


def test_the_published_pair_has_the_published_extra_parameters(real_pair):
    heads = real_pair("ofd").heads["ofd"]
    assert sum(p.numel() for p in heads.parameters()) == 86_912


def test_the_loss_is_the_partial_distance_with_halving_stages(bench, written_out):
    b = bench("ofd")
    expected = overhaul(b, *b.shown(), written_out)
    torch.testing.assert_close(b.term(), expected)


def test_a_step_moves_student_and_connectors_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        label = written_out.ce(student["logits"], by_hand.target)
        return label + 1e-3 * overhaul(by_hand, student, teacher, written_out)

    by_engine, by_hand = bench("ofd", weight=1e-3), bench("ofd", weight=1e-3)
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


def test_margins_are_buffers_of_the_run_and_not_trained(bench):
    b = bench("ofd")
    state = b.distiller.state_dict()
    norm = b.distiller.setup.guide.module.stage2[1]
    assert torch.equal(state["heads.ofd.stage_2_2.margin"], ofd_margin(norm.weight, norm.bias))
    assert not any("margin" in name for name, _ in b.distiller.named_parameters())
    assert not any("margin" in name for name in b.distiller.deployable().state_dict())


def test_a_larger_teacher_map_is_pooled_to_the_students(bench):
    b = bench("ofd", stages=((2, 1),))
    student, teacher = b.shown()
    head = b.heads["stage_2_1"]
    goal = torch.maximum(nn.functional.avg_pool2d(teacher["preact_1"], 2), head.margin.view(1, -1, 1, 1))
    pooled = nn.functional.avg_pool2d(teacher["preact_1"], 2)
    s = head(student["preact_2"])
    expected = ((s - goal) ** 2 * ((s > goal) | (pooled > 0))).sum() / 6
    torch.testing.assert_close(b.term(), expected)


def test_a_teacher_without_batch_norms_is_refused_by_name(bench, vit):
    with pytest.raises(ValueError, match=r"ofd takes its margins.*norm_2: PATH") as error:
        bench("ofd", teacher=vit)
    assert "\n" not in str(error.value)


def test_a_batch_norm_without_scale_gives_no_margin():
    with pytest.raises(ValueError, match="affine=False"):
        MarginConnector(3, nn.BatchNorm2d(4, affine=False))


def by_the_batch(b):
    """What the teacher shows with its batch norms in training mode, read by a copy."""
    module = copy.deepcopy(b.distiller.setup.teacher.module)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.train()
    network = describe(module, b.images, known=known_roles(module))
    with Taps(network, [*network.shapes]) as taps, torch.no_grad():
        return taps.collect(module(b.images))


def test_the_teachers_batch_norms_may_take_the_statistics_of_the_batch(bench, written_out):
    b = bench("ofd", teacher_bn="batch")
    before = {n: t.clone() for n, t in b.distiller.setup.teacher.module.state_dict().items()}
    got = b.term()
    expected = overhaul(b, b.shown()[0], by_the_batch(b), written_out)
    torch.testing.assert_close(got, expected)
    assert abs(float((got - bench("ofd").term()).detach())) > 1e-2
    after = b.distiller.setup.teacher.module.state_dict()
    assert all(torch.equal(tensor, after[n]) for n, tensor in before.items())
    assert not any(m.training for m in b.distiller.setup.teacher.module.modules())


def test_all_terms_then_see_the_same_answers_but_measurements_do_not(bench):
    b = bench("ofd", teacher_bn="batch")
    losses = [{"name": "ce"}, {"name": "ofd", "teacher_bn": "batch"}, {"name": "logit_mse"}]
    distiller = us.Distiller(
        b.distiller.student, b.distiller.setup.teacher.module, losses, example=b.images
    ).double()
    out = distiller(b.images, b.target)
    theirs = by_the_batch(b)["logits"]
    torch.testing.assert_close(out.teacher_logits, theirs)
    torch.testing.assert_close(out.terms["logit_mse"], (out.logits - theirs).square().mean())
    torch.testing.assert_close(distiller.guides.predict(b.images), b.shown()[1]["logits"].float())


def test_a_run_says_that_nothing_is_folded_and_keeps_no_table(digits_config):
    losses = [{"name": "ce"}, {"name": "ofd", "weight": 1e-3, "teacher_bn": "batch"}]
    run = us.distill({**digits_config, "losses": losses}, quiet=True, **{"train.epochs": 1})
    assert "its batch norms take the statistics of each batch" in (run.path / "train.log").read_text()
    with pytest.raises(
        ValueError, match="table must be off where the teacher's batch norms take the statistics"
    ):
        us.distill(
            {**digits_config, "losses": losses, "output": str(run.path) + "-2"},
            quiet=True,
            **{"teacher.table": "memory"},
        )
