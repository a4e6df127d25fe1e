import pytest
import torch

from understudy.gradients import conflict
from understudy.gradients.conflict import _dot_by_list, _dot_by_tensor, _squares_by_list


@pytest.fixture
def lists():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (4,), (), (7, 4), (7,)]
    return [[torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(2)]


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def test_numbers_are_those_of_the_flattened_vectors(lists):
    a, b = lists
    dot, norm_sq = conflict(a, b, main=b[:2])
    torch.testing.assert_close(dot, flat(a) @ flat(b))
    torch.testing.assert_close(norm_sq, flat(a) @ flat(a) + flat(b[:2]) @ flat(b[:2]))


def test_absent_gradients_are_zero(lists):
    a, b = lists
    dot, norm_sq = conflict([a[0], None, a[2], None, None], [None, b[1], b[2], None, None])
    torch.testing.assert_close(dot, a[2] * b[2])
    torch.testing.assert_close(norm_sq, flat([a[0], a[2]]).square().sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nothing_at_all_is_zero_of_the_working_precision(dtype):
    dot, norm_sq = conflict([None], [torch.ones(2, dtype=dtype)])
    assert (dot.item(), norm_sq.item()) == (0.0, 0.0)
    assert dot.dtype == norm_sq.dtype == torch.promote_types(dtype, torch.float32)
    assert [x.item() for x in conflict([], [])] == [0.0, 0.0]


def test_the_form_for_accelerators_gives_the_same_inner_product(lists):
    torch.testing.assert_close(_dot_by_list(*lists), _dot_by_tensor(*lists), rtol=1e-12, atol=1e-12)
    squares = _dot_by_tensor(lists[0], lists[0])
    torch.testing.assert_close(_squares_by_list(lists[0]), squares, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [_dot_by_list, _dot_by_tensor])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_both_forms_pass_non_finite_products_on(lists, form, value):
    lists[0][0].view(-1)[0], lists[1][0].view(-1)[0] = value, 1.0
    assert form(*lists).item() == value or form(*lists).isnan()


def test_half_precision_is_summed_in_float32():
    a = [torch.ones(10_000, dtype=torch.bfloat16)]
    dot, norm_sq = conflict(a, a)
    assert dot.dtype == torch.float32
    assert (dot.item(), norm_sq.item()) == (10_000.0, 10_000.0)


def test_float32_sums_of_many_entries_keep_four_digits():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3_000_000, generator=generator)
    _, norm_sq = conflict([a], [a])
    assert norm_sq.item() == pytest.approx(a.double().square().sum().item(), rel=1e-4)


def test_memory_format_does_not_matter(lists):
    a, b = lists
    last = [t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in a]
    torch.testing.assert_close(conflict(last, b), conflict(a, b))


def test_error_for_lists_of_unequal_length(lists):
    with pytest.raises(ValueError, match="one entry a parameter, got 5 and 4"):
        conflict(lists[0], lists[1][:4])
