import torch

from understudy.engine.ema import MovingAverage


def test_the_average_follows_the_formula_and_copies_counters():
    module = torch.nn.BatchNorm1d(2)
    average = MovingAverage(module.state_dict, 0.9)
    expected = module.weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            module.weight += step + 1
            module.num_batches_tracked += 1
        average.update()
        expected = 0.9 * expected + 0.1 * module.weight.detach()
    torch.testing.assert_close(average.state_dict()["weight"], expected)
    assert int(average.state_dict()["num_batches_tracked"]) == 3


def test_applied_lends_the_average_and_gives_the_weights_back():
    module = torch.nn.Linear(2, 2)
    average = MovingAverage(module.state_dict, 0.5)
    with torch.no_grad():
        module.weight.fill_(7.0)
    with average.applied():
        assert not torch.equal(module.weight, torch.full((2, 2), 7.0))
    assert torch.equal(module.weight, torch.full((2, 2), 7.0))
