import copy

import pytest
import torch

import understudy as us
from understudy.engine.distiller import Distiller


def build(student="cnn_tiny", **settings):
    torch.manual_seed(0)
    losses = [{"name": "ce"}, {"name": "sifn", **settings}]
    return Distiller(us.create_model(student, 10), None, losses, example=torch.zeros(2, 3, 16, 16))


def batch():
    g = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 16, 16, generator=g), torch.arange(8)


def train(distiller, steps=1):
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        distiller.backward(distiller(*batch()))
        optimizer.step()


def norms(network, images):
    with us.Taps(us.describe(network, images[:2]), ["feature"]) as taps, torch.no_grad():
        return taps.collect(network(images))["feature"].norm(dim=1)


def test_by_default_the_norm_is_pulled_outwards_by_a_constant_step():
    distiller = build(step=3.0)
    assert list(distiller.heads["sifn"]) == []
    assert distiller(*batch()).terms["sifn"].item() == pytest.approx(9.0, rel=1e-5)
    distiller.eval()
    before = norms(distiller.student, batch()[0])
    train(distiller)
    assert (norms(distiller.student, batch()[0]) > before).all()


@pytest.mark.parametrize("student", ["cnn_tiny", "wrn_16_1", "vgg8", "mobilenet_v2"])
def test_the_snapshot_is_compared_with_as_a_checkpoint_is_used(student):
    distiller = build(student, previous="snapshot", step=0.5)
    earlier = copy.deepcopy(distiller.student).eval()
    train(distiller, 2)
    images, target = batch()
    distiller.student.eval()  # the heads stay in training mode, the snapshot in eval mode
    now, then = norms(distiller.student, images), norms(earlier, images)
    expected = (now - then - 0.5).square().mean()
    torch.testing.assert_close(distiller(images, target).terms["sifn"].detach(), expected)


def test_the_snapshot_moves_when_an_epoch_starts_and_not_before():
    distiller = build(previous="snapshot")
    first = copy.deepcopy(distiller.heads["sifn"]["snapshot"].state_dict())
    train(distiller, 2)
    kept = distiller.heads["sifn"]["snapshot"].state_dict()
    assert all(torch.equal(first[key], tensor) for key, tensor in kept.items())
    distiller.start_epoch()
    moved = {key.removeprefix("network."): tensor for key, tensor in kept.items()}  # views of the buffers
    student = distiller.student.state_dict()
    assert set(student) - set(moved) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(student[key], tensor) for key, tensor in moved.items())
    assert not torch.equal(first["network.stem.0.weight"], moved["stem.0.weight"])


def test_a_run_resumed_within_an_epoch_has_its_snapshot():
    distiller, resumed = build(previous="snapshot"), build(previous="snapshot")
    train(distiller, 2)
    distiller.start_epoch()
    train(distiller, 1)
    resumed.load_state_dict(distiller.state_dict())
    ours, theirs = distiller(*batch()), resumed(*batch())
    assert torch.equal(ours.terms["sifn"], theirs.terms["sifn"])


def test_the_snapshot_never_learns():
    distiller = build(previous="snapshot")
    snapshot = distiller.heads["sifn"]["snapshot"]
    assert distiller.train() is distiller
    assert not any(module.training for module in snapshot.modules())
    train(distiller)
    assert not any(p.requires_grad or p.grad is not None for p in snapshot.parameters())
    assert {id(p) for p in distiller.trainable_parameters()} == {
        id(p) for p in distiller.student.parameters()
    }


def test_the_student_it_was_copied_from_is_not_touched():
    distiller = build(previous="snapshot")
    assert isinstance(distiller.student.fc, torch.nn.Linear)
    assert all(p.requires_grad for p in distiller.student.parameters())
    assert distiller.student.training
