"""What processes tell each other: gathered rows, agreed errors, averaged gradients, wishes."""

import checks
import jobs
import torch
from torch import nn

from understudy.engine.distributed import OtherProcessError, Ranks, Share, Wishes
from understudy.engine.evaluate import Shard, answers
from understudy.engine.meters import Meters
from understudy.engine.reduction import GradientMean
from understudy.interface import Batch


def raised(function):
    try:
        function()
    except ValueError as error:
        return error
    return None


def check_rows_are_gathered_in_order_also_where_a_process_has_none(ranks):
    for counts in ((2, 2, 2), (3, 1, 2), (0, 1, 0)):
        whole = torch.arange(sum(counts) * 2.0).view(-1, 2)
        own = whole[Share(ranks, counts).rows]
        assert torch.equal(ranks.gather(own, counts), whole)
        assert torch.equal(ranks.gather(own.long(), counts), whole.long())


def check_processes_ask_each_other_for_their_counts(ranks):
    assert ranks.share(torch.zeros(ranks.rank + 2, 1)).counts == (2, 3, 4)


def check_the_gradient_through_a_gather_is_that_of_the_sum_over_processes(ranks):
    """A head after the gather, as in CC or CRD: averaged over the processes all gradients are the whole batch's."""
    counts, g = (2, 4, 3), torch.Generator().manual_seed(0)
    x = torch.randn(9, 3, generator=g, dtype=torch.float64)
    body, head = (torch.randn(3, 3, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    share = Share(ranks, counts)

    def loss(rows):
        return ((rows @ head).tanh() @ (rows @ head).tanh().T).pow(2).mean()

    expected = torch.autograd.grad(loss(x @ body), [body, head])
    own = torch.autograd.grad(loss(share.gather(x[share.rows] @ body)), [body, head])
    for mine, whole in zip(own, expected, strict=True):
        torch.testing.assert_close(ranks.total(mine) / ranks.world, whole)


def check_the_first_ones_values_reach_all_whatever_their_type(ranks):
    r = ranks.rank
    tensors = [
        torch.full((3,), r, dtype=torch.float64),
        torch.tensor(r == 0),
        torch.tensor(r),
        torch.full((2, 2), float(r)).T,
        nn.Parameter(torch.full((1,), float(r))),
        torch.zeros(0),
    ]
    ranks.spread(tensors)
    assert [t.sum().item() for t in tensors] == [0, 1, 0, 0, 0, 0]


def check_an_error_anywhere_stops_all_and_is_said_once(ranks):
    def fails_on(*wrong):
        def function():
            if ranks.rank in wrong:
                raise ValueError(f"no data on {len(wrong)}")
            return ranks.rank

        return function

    assert ranks.together(fails_on()) == ranks.rank
    lone = raised(lambda: ranks.together(fails_on(1)))
    assert isinstance(lone, OtherProcessError) == (ranks.rank != 1)
    assert "no data" in str(lone)
    alike = raised(lambda: ranks.together(fails_on(0, 1, 2)))
    assert isinstance(alike, OtherProcessError) == (ranks.rank != 0)
    assert isinstance(raised(lambda: ranks.first(fails_on(0))), OtherProcessError) == (ranks.rank != 0)


def check_what_the_first_process_finds_is_known_to_all(ranks):
    assert ranks.first(lambda: {"rank": ranks.rank, "state": torch.ones(2)})["rank"] == 0


def check_a_wish_of_one_is_heard_by_all_a_step_later(ranks):
    wishes = Wishes(ranks)
    heard = [wishes.heard(ranks.rank == 2 and step == 1, False) for step in range(4)]
    assert heard == [(False, False), (False, False), (True, False), (False, False)]


def check_a_parameter_that_one_process_skips_counts_as_zero_there(ranks):
    parameters = {name: nn.Parameter(torch.zeros(2)) for name in ("a", "b", "c")}
    mean = GradientMean(parameters, ranks)
    one = torch.full((2,), 3.0)
    own = [one, one if ranks.rank == 1 else None, None]
    label, guide = mean(own, [None, None, one], terms="both")
    assert [None if g is None else g.tolist() for g in label] == [[3, 3], [1, 1], None]
    assert [None if g is None else g.tolist() for g in guide] == [None, None, [3, 3]]
    again, _ = mean([one, None, None], [None, None, one], terms="both")  # skipped by all, this time
    assert again[1].tolist() == [0, 0]
    error = raised(lambda: mean([one, one, one], [None, None, None], terms="both"))
    assert "gradient for c" in str(error)


def check_gradients_of_several_types_keep_their_layout(ranks):
    parameters = {
        "maps": nn.Parameter(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)),
        "wide": nn.Parameter(torch.zeros(3, dtype=torch.float64)),
    }
    maps = torch.arange(48.0).view(4, 3, 2, 2) * (ranks.rank + 1)
    (means,) = GradientMean(parameters, ranks)([maps, torch.ones(3, dtype=torch.float64)], terms=())
    torch.testing.assert_close(means[0], 2 * torch.arange(48.0).view(4, 3, 2, 2))
    assert means[0].stride() == parameters["maps"].stride()
    assert means[1].dtype == torch.float64


def check_random_numbers_of_ones_own_differ_by_process_and_by_call(ranks):
    torch.manual_seed(5)
    draws = []
    for _ in range(2):
        with ranks.own_randomness(torch.device("cpu")):
            draws.append(torch.rand(()).item())
    common = torch.rand(()).item()
    torch.manual_seed(6)
    with ranks.own_randomness(torch.device("cpu")):
        assert torch.rand(()).item() not in draws
    torch.manual_seed(5)
    with ranks.own_randomness(torch.device("cpu")):
        assert torch.rand(()).item() == draws[0]  # a function of the seed, as a resumed step needs it
    everything = [d for found in ranks.exchange(draws) for d in found]
    assert len(set(everything)) == 2 * ranks.world
    assert len(set(ranks.exchange(common))) == 1
    torch.manual_seed(5)
    assert torch.rand(()).item() == common  # as if nobody had drawn


def check_a_wrapped_distiller_learns_what_it_would_by_itself(ranks):
    """DistributedDataParallel averages gradients; the losses are made so that this is right."""
    losses = [{"name": "ce"}, {"name": "dkd"}, {"name": "rkd"}, {"name": "dino"}]
    distiller, columns = jobs.distiller_of(losses, "none"), jobs.part(jobs.global_batch(11), ranks)
    jobs.step(distiller, jobs.global_batch(11))
    expected = [p.grad for p in distiller.parameters()]
    distiller.zero_grad()
    images, target, index = columns
    wrapped = nn.parallel.DistributedDataParallel(distiller)
    wrapped(images, target, index=index).loss.backward()
    for parameter, gradient in zip(distiller.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def check_sums_of_an_epoch_are_those_of_all_images(ranks):
    """Each loss stands for a third of the nine images; the processes hold two, three and four of them."""
    meters = Meters(["ce"], torch.device("cpu"), 5)
    n = ranks.rank + 2
    loss = torch.tensor(float(n))
    meters.add(loss, {"ce": loss}, torch.eye(5)[:n], torch.zeros(n, dtype=torch.int64), 3.0)
    meters.gather()
    if ranks.is_first:
        assert meters.summary() == {"train/loss": 3.0, "train/ce": 3.0, "train/acc1": 100 * 3 / 9}
    saved = Meters(["ce"], torch.device("cpu"), 5)
    saved.load_state_dict(ranks.first(meters.state_dict))
    saved.gather()
    assert not ranks.is_first or saved.summary() == meters.summary()


def check_uneven_and_empty_shards_are_measured_exactly(ranks):
    for sizes in ((4, 3, 3), (0, 1, 1), (0, 0, 1)):
        whole = torch.randn(sum(sizes), 5, generator=torch.Generator().manual_seed(0))
        target, rows = torch.arange(sum(sizes)), Share(ranks, sizes).rows
        batches = [
            Batch(x, y) for x, y in zip(whole[rows].split(2), target[rows].split(2), strict=True) if len(y)
        ]
        found = answers(lambda x: x * 2, Shard(batches, ranks, torch.device("cpu")))
        assert torch.equal(found.logits, 2 * whole)
        assert torch.equal(found.target, target)


if __name__ == "__main__":
    assert Ranks().world == 1  # not joined yet
    checks.run(dict(globals()))
