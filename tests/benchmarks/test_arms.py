"""The arms of the benchmarks do the same work: same weights, same images, same views, same losses."""

import importlib
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.gradients import align_gradients

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS, IMAGES = 5, 96  # of 16: an epoch has six steps


class Enough(Exception):
    pass


@pytest.fixture
def arms(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("arms")


@pytest.fixture
def setting(arms, tmp_path):
    """Makes the setting of an arm on tiny networks."""
    synthetic = importlib.import_module("arms.synthetic")
    files = synthetic.write_weights(tmp_path, "resnet8", "resnet14")
    aux = load_file(files["aux"])
    save_file({name: -tensor for name, tensor in aux.items()}, files["aux"])  # now the heads pull apart

    def make(arm, steps=0, **overrides):
        config = synthetic.plain_config(files, "resnet8", "resnet14", threads=1, device="cpu")
        config["train"] |= {"batch_size": 16}
        return arms.Setting(
            arm=arm,
            config=config,
            overrides={"teacher.precision": "fp32", **overrides},
            images=IMAGES,
            aux=files["aux"],
            views="library",
            warm_steps=steps,
        )

    return make


def losses(arms, setting, steps=STEPS):
    """Runs an arm for some steps and returns each step's loss."""
    seen = []

    def tick(loss, images):
        seen.append(loss.double().item())
        assert images == setting.config["train"]["batch_size"]
        if len(seen) == steps:
            raise Enough

    with pytest.raises(Enough):
        arms.ARMS[setting.arm](setting, tick)
    return torch.tensor(seen)


@pytest.mark.parametrize("align", ["none", "released"])
def test_all_three_arms_give_the_same_losses(arms, setting, align):
    curves = {
        arm: losses(arms, setting(arm, **{"gradients.align": align}))
        for arm in ("released", "eager", "library")
    }
    # float32 in other orders: 1e-6 of a loss in the first steps, which SGD at lr 0.05 makes 2e-5 by the fifth
    torch.testing.assert_close(curves["eager"], curves["released"], rtol=2e-4, atol=0)
    torch.testing.assert_close(curves["library"], curves["released"], rtol=2e-4, atol=0)
    assert curves["library"].diff().abs().min() > 1e-2  # the steps differ by more than the arms


def test_alignment_has_something_to_do_in_these_losses(arms, setting):
    plain, aligned = (
        losses(arms, setting("released", **{"gradients.align": a})) for a in ("none", "released")
    )
    assert torch.equal(plain[0], aligned[0])
    assert not torch.equal(plain, aligned)


@pytest.mark.parametrize("sign", [-1.0, 1.0], ids=["conflict", "agreement"])
def test_both_projections_are_the_librarys(arms, sign):
    released, eager = (importlib.import_module(f"arms.{name}") for name in ("released", "eager"))
    torch.manual_seed(0)
    backbone, main, aux = parameters = [torch.nn.Parameter(torch.randn(4).abs()) for _ in range(3)]

    def both():
        return (backbone * main).sum(), sign * (backbone * aux).sum()

    eager.write_projected(parameters, *both())
    label, guide = both()
    a = torch.autograd.grad(label, parameters, retain_graph=True, allow_unused=True)
    b = torch.autograd.grad(guide, parameters, allow_unused=True)
    roles = {"p": "backbone", "m": "main", "v": "aux"}

    def named(gradients):
        return dict(zip(roles, gradients, strict=True))

    wanted, info = align_gradients(named(a), named(b), roles, "released")
    flat = [torch.cat([torch.zeros(4) if g is None else g for g in gradients]) for gradients in (a, b)]
    projected = released.Released.project(None, *flat)
    expected = torch.cat([wanted[name] for name in roles])
    torch.testing.assert_close(projected, expected)
    torch.testing.assert_close(torch.cat([p.grad for p in parameters]), expected)
    assert (info["lambda"] > 0.1) == (sign < 0)


def test_a_warm_arm_goes_over_its_first_steps_again_and_again(arms, setting):
    still = {
        "losses": [{"name": "ce"}],
        "teacher": None,
        "gradients.align": "none",
        "train.optimizer.lr": 1e-12,
    }
    found = losses(arms, setting("library", steps=2, **still), steps=6)
    torch.testing.assert_close(found[:2].repeat(3), found)
    assert found[0] != found[1]


def test_views_of_their_own_are_drawn_by_released_and_eager(arms, setting):
    from dataclasses import replace

    for arm in ("released", "eager"):
        torch.manual_seed(0)
        own = losses(arms, replace(setting(arm), views="own"))
        assert not torch.allclose(own, losses(arms, setting(arm)), rtol=1e-3)


def test_the_arms_of_the_data_path_and_of_the_evaluation_run(arms, setting):
    assert losses(arms, setting("augment")).isfinite().all()
    evaluated = losses(arms, setting("evaluate", **{"train.eval_batch_size": 16}))
    assert evaluated.isfinite().all()


def test_released_and_eager_refuse_what_they_cannot_do(arms, setting):
    with pytest.raises(ValueError, match="must have the terms ce and dhkd"):
        arms.ARMS["eager"](setting("eager", losses=[{"name": "ce"}, {"name": "kd"}]), lambda *_: None)
    with pytest.raises(ValueError, match="must align none or released, got feature"):
        arms.ARMS["released"](setting("released", **{"gradients.align": "feature"}), lambda *_: None)


def test_a_key_this_library_does_not_know_is_left_out_and_named(arms, setting):
    made = setting("library", **{"teacher.tabel": "off"})
    assert "teacher.tabel" in made.unknown()
    assert made.read().train.batch_size == 16


@pytest.mark.slow  # two processes
def test_a_worker_answers_for_every_block_and_ends_with_its_input(arms, setting):
    protocol = importlib.import_module("protocol")
    with protocol.Worker(setting("eager"), threads=1) as worker:
        first, second = worker.block(2), worker.block(3)
    assert (first.steps, second.steps, second.images) == (2, 3, 48)
    assert second.wall > 0
    assert second.cpu > 0
    assert second.rss > 2**20
    assert first.checksum + second.checksum == pytest.approx(
        float(losses(arms, setting("eager")).sum()), rel=1e-4
    )
    assert worker._process.returncode == 0
    with (
        protocol.Worker(arms.Setting(**{**asdict(setting("eager")), "aux": None}), threads=1) as worker,
        pytest.raises(protocol.ArmError, match="must have the terms ce and dhkd"),
    ):
        worker.block(1)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_the_bound_holds_the_convolutions_of_a_step_and_nothing_else(arms, setting, warm):
    from torch.utils.flop_counter import FlopCounterMode

    released, convolutions = (importlib.import_module(f"arms.{n}") for n in ("released", "convolutions"))
    loop = released.Released(setting("released"))
    batch, target = next(loop.batches())
    with FlopCounterMode(display=False) as whole:
        loop.step(batch, target)
    with FlopCounterMode(display=False) as teacher:
        loop.ask(batch)
    run = convolutions.step(setting("convolutions", steps=4 if warm else 0))
    with FlopCounterMode(display=False) as bound:
        run()

    def counted(counter):
        found = counter.get_flop_counts()["Global"]
        return {name: n for name, n in found.items() if "convolution" in str(name)}

    expected = counted(whole)
    if warm:
        expected[torch.ops.aten.convolution] -= counted(teacher)[torch.ops.aten.convolution]
    assert counted(bound) == expected
    assert bound.get_total_flops() == sum(expected.values())
