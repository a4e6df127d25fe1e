"""How maps of unequal size are made to fit."""

import pytest
import torch
from torch.nn import functional as F

from understudy.losses.shapes import check_same_batch, pool_larger, pool_to


@pytest.mark.parametrize("size", [(8, 6), (4, 3), (3, 2), (5, 4), (1, 1), (8, 3)])
def test_pool_to_equals_adaptive_pooling_whether_or_not_the_size_divides(size):
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    torch.testing.assert_close(pool_to(x, *size), F.adaptive_avg_pool2d(x, size))


def test_pool_to_its_own_size_is_the_map_itself():
    x = torch.randn(2, 3, 4, 4)
    assert pool_to(x, 4, 4) is x


def test_pool_larger_takes_the_smaller_of_each_side():
    first, second = pool_larger(torch.randn(2, 3, 8, 2), torch.randn(2, 5, 4, 6))
    assert first.shape == (2, 3, 4, 2)
    assert second.shape == (2, 5, 4, 2)


def test_check_same_batch_shows_both_shapes():
    check_same_batch(torch.zeros(2, 3), torch.zeros(2, 5, 4))
    with pytest.raises(
        ValueError, match=r"map must have 4 dimensions .* \(2, 3\) and teacher \(2, 3, 4, 4\)"
    ):
        check_same_batch(torch.zeros(2, 3), torch.zeros(2, 3, 4, 4), rank=4, what="map")
