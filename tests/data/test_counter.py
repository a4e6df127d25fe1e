"""The counter-based generator: against plain Python, its statistics, its indifference to how it is asked."""

import math

import pytest
import torch
from scipy import stats

from understudy.data.counter import Stream, integers, permutation, random_bits, step_seed, uniform

GAMMA = 0x9E3779B97F4A7C15


def plain_mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def plain_bits(seed, *counters):
    state = plain_mix(seed % 2**64)
    for counter in counters:
        state = plain_mix((state + (counter + 1) * GAMMA) % 2**64)
    return state


def unsigned(bits):
    return [b % 2**64 for b in bits.flatten().tolist()]


def p_value(counts):
    return stats.chisquare(counts.numpy()).pvalue


def test_outputs_for_seed_0_are_those_published_for_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [unsigned(random_bits(0, stream))[0] for stream in range(4)] == published


def test_bits_equal_arithmetic_in_unbounded_integers():
    for seed in (0, 1, 12345, 2**63, 2**64 - 1, -1):
        for epoch in (0, 7, 2**40):
            index = torch.tensor([0, 1, 2, 49_999, 2**62])
            expected = [plain_bits(seed, 1, epoch, i) for i in index.tolist()]
            assert unsigned(random_bits(seed, 1, epoch, index)) == expected


def test_values_never_change_between_versions():
    assert permutation(0, 0, 10).tolist() == [9, 4, 6, 3, 1, 0, 7, 8, 2, 5]
    assert integers(162, 0, Stream.VIEW, 0, torch.arange(8)).tolist() == [81, 94, 20, 108, 96, 85, 137, 67]
    assert step_seed(0, 0) == 7937402723831723292
    assert uniform(0, Stream.ORDER, 0, torch.arange(2)).tolist() == [0.13870941014555427, 0.9711020828012883]


def test_any_chunking_and_order_gives_the_same_values():
    index = torch.arange(1000)
    whole = random_bits(3, Stream.VIEW, 5, index)
    chunks = torch.cat([random_bits(3, Stream.VIEW, 5, chunk) for chunk in index.split(37)])
    one_by_one = torch.stack([random_bits(3, Stream.VIEW, 5, i) for i in range(1000)])
    assert torch.equal(whole, chunks)
    assert torch.equal(whole, one_by_one)
    assert torch.equal(whole.flip(0), random_bits(3, Stream.VIEW, 5, index.flip(0)))


def test_counters_broadcast():
    grid = random_bits(0, 0, torch.arange(3)[:, None], torch.arange(4))
    assert grid.shape == (3, 4)
    assert torch.equal(grid[2], random_bits(0, 0, 2, torch.arange(4)))


def test_torch_generators_are_not_touched():
    before = torch.random.get_rng_state()
    permutation(0, 0, 100)
    assert torch.equal(before, torch.random.get_rng_state())


def test_views_of_one_image_over_epochs_are_even():
    view = integers(162, 0, Stream.VIEW, torch.arange(200_000), torch.tensor(17))
    assert p_value(view.bincount(minlength=162)) > 1e-4


def test_views_of_all_images_in_one_epoch_are_even():
    view = integers(162, 1, Stream.VIEW, 3, torch.arange(200_000))
    assert p_value(view.bincount(minlength=162)) > 1e-4


def test_pairs_of_neighbouring_images_are_even():
    view = integers(20, 2, Stream.VIEW, 0, torch.arange(400_000)).view(-1, 2)
    assert p_value((view[:, 0] * 20 + view[:, 1]).bincount(minlength=400)) > 1e-4


def test_every_bit_is_set_half_of_the_time():
    n = 100_000
    bits = random_bits(4, Stream.ORDER, 0, torch.arange(n))
    ones = torch.stack([(bits >> b) & 1 for b in range(64)]).sum(dim=1)
    assert ((ones - n / 2).abs() / math.sqrt(n / 4)).max() < 4.5


@pytest.mark.parametrize("other", [(1, Stream.VIEW, 0), (0, Stream.ORDER, 0), (0, Stream.VIEW, 1)])
def test_seeds_streams_and_epochs_are_independent(other):
    n = 100_000
    index = torch.arange(n)
    first = integers(16, 0, Stream.VIEW, 0, index)
    second = integers(16, *other, index)
    assert p_value((first * 16 + second).bincount(minlength=256)) > 1e-4


def test_close_keys_share_half_of_their_bits():
    bits = random_bits(0, 0, torch.arange(1000))
    difference = torch.stack([((bits[1:] ^ bits[:-1]) >> b) & 1 for b in range(64)]).sum(dim=0).double()
    assert abs(float(difference.mean()) - 32) < 0.6  # 4 / sqrt(999) is one standard error: 0.13


def test_uniform_numbers_are_uniform_in_the_half_open_unit_interval():
    numbers = uniform(0, Stream.VIEW, torch.arange(100_000))
    assert numbers.dtype == torch.float64
    assert 0 <= float(numbers.min()) < 1e-3
    assert 1 - 1e-3 < float(numbers.max()) < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_visits_every_image_once(n):
    assert permutation(0, 0, n).sort().values.tolist() == list(range(n))


def test_permutations_of_three_are_even():
    counts = torch.zeros(27, dtype=torch.int64)
    for epoch in range(3000):
        a, b, c = permutation(0, epoch, 3).tolist()
        counts[a * 9 + b * 3 + c] += 1
    assert p_value(counts[counts > 0]) > 1e-4
    assert int((counts > 0).sum()) == 6


def test_step_seeds_are_distinct_and_fit_torch():
    seeds = {step_seed(0, step, rank) for step in range(500) for rank in range(2)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_a_counter_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"counter must be int64, got torch\.int32"):
        random_bits(0, 0, torch.arange(3, dtype=torch.int32))


@pytest.mark.parametrize("below", [0, -1, 2**31 + 1])
def test_a_range_that_cannot_be_drawn_from_is_refused(below):
    with pytest.raises(ValueError, match="below must be from 1 to 2"):
        integers(below, 0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_values_on_a_gpu_equal_those_on_the_cpu():
    index = torch.arange(10_000)
    on_gpu = random_bits(5, Stream.VIEW, 2, index.cuda())
    assert torch.equal(on_gpu.cpu(), random_bits(5, Stream.VIEW, 2, index))
    assert torch.equal(permutation(5, 2, 10_000, "cuda").cpu(), permutation(5, 2, 10_000))
