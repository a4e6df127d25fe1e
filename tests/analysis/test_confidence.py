import pytest
import torch

from understudy.analysis import suggest_dkd_beta, target_gap

PUBLISHED = {"resnet56": (5.36, 2), "resnet110": (6.73, 2), "wrn_40_2": (7.24, 6), "vgg13": (8.25, 6)} | {
    "resnet32x4": (8.40, 8),
    "ResNet50": (8.53, 8),
}


def test_gap_equals_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(6, (50,), generator=generator)
    rows = zip(logits.tolist(), target.tolist(), strict=True)
    gaps = [row[y] - max(z for k, z in enumerate(row) if k != y) for row, y in rows]
    assert float(target_gap(logits, target)) == pytest.approx(sum(gaps) / 50, rel=1e-12)


def test_a_shift_of_all_logits_changes_nothing():
    logits, target = torch.tensor([[4.0, 1.0], [0.0, 0.5]]), torch.tensor([0, 0])
    assert target_gap(logits, target) == target_gap(logits + 8, target) == 1.25


def test_logits_are_left_as_they_were():
    logits = torch.tensor([[4.0, 1.0]], dtype=torch.float64)
    target_gap(logits, torch.tensor([0]))
    assert logits.tolist() == [[4.0, 1.0]]


def test_a_nan_propagates():
    assert target_gap(torch.tensor([[1.0, float("nan")]]), torch.tensor([0])).isnan()


@pytest.mark.parametrize("teacher", PUBLISHED)
def test_suggestion_is_the_published_beta_of_every_published_gap(teacher):
    gap, beta = PUBLISHED[teacher]
    assert suggest_dkd_beta(gap) == beta
    assert suggest_dkd_beta(torch.tensor(gap)) == beta


@pytest.mark.parametrize(("gap", "beta"), [(-3.0, 2), (6.99, 2), (7.0, 6), (8.29, 6), (8.3, 8), (50.0, 8)])
def test_limits_belong_to_the_larger_beta(gap, beta):
    assert suggest_dkd_beta(gap) == beta


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="teacher_logits must hold at least one sample"):
        target_gap(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        target_gap(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"teacher_logits must have shape \(B, C\), got \(3,\)"):
        target_gap(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="gap must be a number, got nan"):
        suggest_dkd_beta(float("nan"))
