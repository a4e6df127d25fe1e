from itertools import pairwise

import pytest
import torch

from understudy.config import OptimizerConfig, ScheduleConfig
from understudy.engine.optim import laid_out, learning_rate, make_optimizer, prime, take_state


def rates(config, steps_per_epoch=10, epochs=10, base=1.0):
    return [learning_rate(config, base, s, steps_per_epoch, epochs) for s in range(steps_per_epoch * epochs)]


def test_milestone_150_means_that_epoch_151_is_the_first_with_the_new_rate():
    config = ScheduleConfig(name="multistep", milestones=[3, 6], gamma=0.1)
    values = rates(config)
    assert values[29] == 1.0
    assert values[30] == pytest.approx(0.1)
    assert values[60] == pytest.approx(0.01)


def test_multistep_agrees_with_torch():
    config = ScheduleConfig(name="multistep", milestones=[2, 5], gamma=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], 0.5)
    for epoch in range(8):
        assert learning_rate(config, 1.0, epoch * 4, 4, 8) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_cosine_agrees_with_torch_and_ends_at_its_final_rate():
    config = ScheduleConfig(name="cosine", final_lr=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0.1)
    for value in rates(config):
        assert value == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_by_equal_steps_to_the_full_rate():
    values = rates(ScheduleConfig(name="constant", warmup_epochs=1))
    steps = [b - a for a, b in pairwise(values[:10])]
    assert max(steps) == pytest.approx(min(steps))
    assert values[0] > 0
    assert values[10:] == [1.0] * 90


def test_onecycle_peaks_after_thirty_percent():
    values = rates(ScheduleConfig(name="onecycle"))
    assert max(values) == values[30] == 1.0
    assert values[29] < 1.0
    assert values[-1] < 0.01


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimiser_step_agrees_with_the_plain_one(name):
    torch.manual_seed(0)
    start, gradient = torch.randn(5), torch.randn(5)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=0.01, nesterov=name == "sgd")
    plain = {
        "sgd": lambda: torch.optim.SGD([theirs], 0.1, 0.9, weight_decay=0.01, nesterov=True, foreach=False),
        "adamw": lambda: torch.optim.AdamW([theirs], 0.1, weight_decay=0.01, foreach=False),
    }[name]()
    optimizer = make_optimizer(config, [ours])
    for _ in range(3):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        plain.step()
    torch.testing.assert_close(ours, theirs)


def two_parameters():
    torch.manual_seed(0)
    first, late = torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    late.data = late.data.to(memory_format=torch.channels_last)
    return [first, late]


def stepped(parameters, optimizer, steps, late_from):
    for step in range(steps):
        torch.manual_seed(step)
        first, late = (torch.randn(p.shape) for p in parameters)
        parameters[0].grad = first
        parameters[1].grad = laid_out(late, parameters[1]) if step >= late_from else None
        optimizer.step()
    return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_gradient_may_come_later_than_the_others(name):
    """As those of the heads of a term that starts in a later epoch."""
    config = OptimizerConfig(name=name, lr=0.1)
    ours, theirs = two_parameters(), two_parameters()
    optimizer = make_optimizer(config, ours)
    prime(optimizer)
    plain = (
        torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=5e-4)
        if name == "sgd"
        else torch.optim.AdamW(theirs, lr=0.1, weight_decay=5e-4)
    )
    for a, b in zip(stepped(ours, optimizer, 5, 2), stepped(theirs, plain, 5, 2), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_state_of_parameters_that_lay_otherwise_is_laid_as_these_do(name):
    config = OptimizerConfig(name=name, lr=0.1)
    whole = two_parameters()
    expected = stepped(whole, make_optimizer(config, whole), 4, 0)
    first = two_parameters()
    before = make_optimizer(config, first)
    stepped(first, before, 2, 0)
    state = before.state_dict()
    for entry in state["state"].values():  # as of parameters divided among processes
        for key, value in entry.items():
            entry[key] = value.contiguous()
    after = make_optimizer(config, first)
    take_state(after, state)
    for step in (2, 3):
        torch.manual_seed(step)
        for parameter in first:
            parameter.grad = laid_out(torch.randn(parameter.shape), parameter)
        after.step()
    for a, b in zip(first, expected, strict=True):
        torch.testing.assert_close(a.detach(), b)
