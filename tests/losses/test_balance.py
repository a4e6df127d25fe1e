import pytest
import torch

from understudy.losses.balance import batch_mean

LOSS = torch.tensor([1.0, 2.0, 3.0, 6.0])


def test_every_class_counts_the_same():
    target = torch.tensor([7, 7, 7, 2])
    assert batch_mean(LOSS, target, class_balanced=True).item() == pytest.approx((2 + 6) / 2)
    assert batch_mean(LOSS, target, class_balanced=False).item() == 3.0


def test_weight_of_a_sample_is_one_over_classes_present_times_samples_of_its_class():
    loss = LOSS.clone().requires_grad_()
    value = batch_mean(loss, torch.tensor([1, 0, 1, 1]), class_balanced=True)
    (weight,) = torch.autograd.grad(value, loss)
    torch.testing.assert_close(weight, torch.tensor([1 / 6, 1 / 2, 1 / 6, 1 / 6]))


@pytest.mark.parametrize("target", [torch.zeros(4, dtype=torch.int64), torch.arange(4)])
def test_one_class_or_all_different_is_the_plain_mean(target):
    torch.testing.assert_close(batch_mean(LOSS, target, True), LOSS.mean())


def test_empty_batch_is_zero():
    assert batch_mean(LOSS[:0], torch.zeros(0, dtype=torch.int64), True).item() == 0.0


def test_error_without_target():
    with pytest.raises(ValueError, match="class_balanced=True must have a target, got none"):
        batch_mean(LOSS, None, class_balanced=True)
