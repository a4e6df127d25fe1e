import pytest
import torch

from understudy.losses import kd_loss, standardise_logits


@pytest.fixture
def logits():
    return 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2


def test_rows_are_z_scores(logits):
    scores = standardise_logits(logits)
    want = (logits - logits.mean(dim=1, keepdim=True)) / logits.std(dim=1, keepdim=True)
    torch.testing.assert_close(scores, want, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(scores.std(dim=1), torch.ones(5).double(), rtol=1e-6, atol=0)


def test_scale_and_shift_of_a_row_change_nothing(logits):
    factor = torch.tensor([[0.1], [1.0], [5.0], [20.0], [300.0]])
    torch.testing.assert_close(
        standardise_logits(factor * logits - 4), standardise_logits(logits), rtol=1e-5, atol=1e-6
    )


def test_gradient_equals_finite_differences_and_reaches_the_loss(logits):
    student = logits[:, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(standardise_logits, student)
    value = kd_loss(standardise_logits(student), standardise_logits(logits[:, 3:]))
    assert torch.autograd.grad(value, student)[0].abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("constant", [0.0, 0.1, -100.1])
def test_constant_rows_are_zero_without_gradient(constant, dtype):
    logits = torch.full((3, 7), constant, dtype=dtype, requires_grad=True)
    scores = standardise_logits(logits)
    assert scores.dtype == torch.float32
    assert (scores == 0).all()
    assert (torch.autograd.grad(scores[:, 0].sum(), logits)[0] == 0).all()


def test_large_gaps_and_a_single_class_stay_finite():
    wide = torch.tensor([[500.0, -500.0, 0.0]], dtype=torch.float16, requires_grad=True)
    assert torch.autograd.grad(standardise_logits(wide)[0, 0], wide)[0].isfinite().all()
    assert standardise_logits(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]


def test_compiles_as_one_graph(logits):
    torch._dynamo.reset()
    compiled = torch.compile(standardise_logits, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits), standardise_logits(logits))


def test_error_for_maps_and_for_integers():
    with pytest.raises(ValueError, match=r"must have shape \(B, C\), got \(2, 3, 4, 4\)"):
        standardise_logits(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="logits must be floating, got "):
        standardise_logits(torch.zeros(2, 3, dtype=torch.int64))
