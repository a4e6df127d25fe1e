import pytest
import torch
from torch.nn import functional as F


def likelihood(b, student, teacher, pool=lambda x: x):
    total = 0.0
    for k in (1, 2, 3):
        head, x, t = b.heads[f"stage_{k}_{k}"], pool(student[f"stage_{k}"]), teacher[f"stage_{k}"]
        for at, weight in enumerate(head.mean[i].weight for i in (0, 2, 4)):
            x = torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x)
            x = x.clamp(min=0) if at < 2 else x
        variance = torch.log1p(torch.exp(head.log_scale)) + 1e-5
        variance = variance.view(1, -1, 1, 1)
        total = total + (((x - t) ** 2 / variance + torch.log(variance)) / 2).mean()
    return total


def test_the_published_pair_has_the_published_regressor_weights(real_pair):
    heads = real_pair("vid").heads["vid"]
    assert sum(p.numel() for n, p in heads.named_parameters() if "log_scale" not in n) == 258_048
    assert sum(p.numel() for n, p in heads.named_parameters() if "log_scale" in n) == 64 + 128 + 256


def test_the_loss_is_the_gaussian_likelihood_of_all_stages(bench):
    b = bench("vid")
    torch.testing.assert_close(b.term(), likelihood(b, *b.shown()))


def test_a_step_moves_student_regressors_and_variances_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        return written_out.ce(student["logits"], by_hand.target) + likelihood(by_hand, student, teacher)

    by_engine, by_hand = bench("vid"), bench("vid")
    before = by_engine.heads["stage_1_1"].log_scale.detach().clone()
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")
    assert not torch.equal(by_engine.heads["stage_1_1"].log_scale, before)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_the_variance_starts_at_five(bench, eps):
    heads = bench("vid", eps=eps).heads
    for head in heads.values():
        variance = F.softplus(head.log_scale.double()) + eps
        torch.testing.assert_close(variance, torch.full_like(variance, 5.0), rtol=1e-6, atol=0)


def test_the_larger_map_is_pooled_before_the_regressor(bench, vit):
    b = bench("vid", stages=((1, 2),))  # 16x16 under 8x8
    student, teacher = b.shown()
    head = b.heads["stage_1_2"]
    predicted = head.mean(F.avg_pool2d(student["stage_1"], 2))
    variance = (F.softplus(head.log_scale) + 1e-5).view(1, -1, 1, 1)
    expected = (((predicted - teacher["stage_2"]) ** 2 / variance + variance.log()) / 2).mean()
    torch.testing.assert_close(b.term(), expected)
    assert bench("vid", teacher=vit).term().isfinite()
