"""Divergence: seen without asking the device in every step, and what each policy does about it."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import understudy as us
from understudy.config import DivergenceConfig, load_config
from understudy.engine import divergence, loop
from understudy.engine.divergence import CHECK_EVERY, Watch
from understudy.engine.meters import Meters
from understudy.files import read_json_lines


class NoHostRead(TorchDispatchMode):
    """Fails where the host asks the device for a number."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def spoil(monkeypatch):
    """A function that makes some steps bad: ``where(job)`` says which, ``how(job)`` spoils the gradient."""
    step = loop._forward_backward

    def patch(where, how=lambda job: job.distiller.trainable_parameters()[0].grad.fill_(float("nan"))):
        def spoiled(job, *rest):
            step(job, *rest)
            if where(job):
                how(job)

        monkeypatch.setattr(loop, "_forward_backward", spoiled)

    return patch


def at(epoch, *steps):
    return lambda job: (job.epoch, job.step) in {(epoch, step) for step in steps}


def config(base, policy, **changes):
    return base | {"train": base["train"] | {"divergence": {"policy": policy, **changes}}}


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def weights(folder):
    return load_file(folder / "student.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def flat(value, name=""):
    """Every tensor and number in nested containers, by its place."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{name}/{i}").items()}
    return {name: value.clone() if isinstance(value, torch.Tensor) else value}


def assert_unchanged(before, after):
    assert before.keys() == after.keys()
    for name, value in before.items():
        ok = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert ok, name


def test_a_policy_may_be_given_alone_and_its_numbers_are_checked(digits_config):
    alone = load_config(digits_config, {"train.divergence": "skip"})
    assert alone.train.divergence == DivergenceConfig(policy="skip")
    assert load_config(alone.model_dump(mode="json")).train.divergence.policy == "skip"
    with pytest.raises(ValueError, match="'stop', 'skip' or 'rewind'"):
        load_config(digits_config, {"train.divergence": "hope"})
    with pytest.raises(ValueError, match=r"train\.divergence\.lr_factor"):
        load_config(digits_config, {"train.divergence": {"lr_factor": 1.0}})


def test_a_gradient_that_is_not_finite_stops_the_run_before_a_checkpoint_holds_it(digits_config, spoil):
    """The losses of that step are fine; the weights would be lost, and the checkpoint of the epoch with them."""
    spoil(at(1, 4))  # the last step of an epoch
    with pytest.raises(us.DivergedError, match=r"gradient must stay finite.* in epoch 2, step 5\.") as error:
        us.distill(digits_config, quiet=True)
    folder = digits_config["output"]
    assert "\n" not in str(error.value)
    state = us.engine.checkpoint.load_checkpoint(loop.Path(folder) / "checkpoints" / "last.pt")
    assert state["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    result = result_of(loop.Path(folder))
    assert result["status"] == "diverged"
    (event,) = result["divergence"]["events"]
    assert event == {"epoch": 2, "step": 5, "what": "NaN or infinity in the gradient", "did": "stopped"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("bad", [(0, 0), (1, 2)])
def test_a_step_left_out_leaves_everything_as_it_was(digits_config, spoil, monkeypatch, optimizer, bad):
    """Weights, momentum and step, moving average, running statistics, CRD's memory and constants, sums of the epoch."""
    digits_config["losses"] += [{"name": "crd", "weight": 0.1, "negatives": 16}]
    digits_config["train"]["optimizer"] = {"name": optimizer, "lr": 0.01}
    spoil(at(*bad))
    begin, states = Watch.begin, []

    def noted(watch, meters, average):
        states.append(flat([watch._model.state_dict(), optimizer_of(), average.average, meters.state_dict()]))
        begin(watch, meters, average)

    jobs = []
    make = loop.Job.__post_init__
    monkeypatch.setattr(loop.Job, "__post_init__", lambda job: (make(job), jobs.append(job))[0])
    optimizer_of = lambda: {k: dict(v) for k, v in enumerate(jobs[0].optimizer.state.values())}  # noqa: E731
    monkeypatch.setattr(Watch, "begin", noted)
    run = us.distill(config(digits_config, "skip"), quiet=True)
    number = 5 * bad[0] + bad[1]
    before, after = states[number], states[number + 1]
    if optimizer == "sgd" or number:  # AdamW makes its state in the first step, zeros
        assert_unchanged(before, after)
    else:
        fresh = {name: value for name, value in after.items() if name not in before}
        assert all(not torch.as_tensor(value).any() for value in fresh.values())
        assert_unchanged(before, {name: after[name] for name in before})
    assert any("num_batches_tracked" in name for name in before)
    assert any("normalizer" in name for name in before)
    later = states[number + 2]
    moved = [not torch.equal(after[n], later[n]) for n in before if "/student." in n and n.endswith("weight")]
    assert moved
    assert all(moved)
    assert run.metrics["divergence"]["events"] == [
        {
            "epoch": bad[0] + 1,
            "step": bad[1] + 1,
            "what": "NaN or infinity in the gradient",
            "did": "skipped",
            "steps": 1,
        }
    ]
    lines = read_json_lines(run.path / "metrics.jsonl")
    assert [line.get("train/skipped") for line in lines] == [1 if e == bad[0] else None for e in range(3)]
    assert all(line["train/loss"] > 0 for line in lines)
    assert "left out 1 steps: NaN or infinity in the gradient" in (run.path / "train.log").read_text()


def test_no_policy_asks_the_device_in_a_step(digits_config, monkeypatch):
    for name in ("begin", "judge", "end"):
        method = getattr(Watch, name)

        def watched(self, *args, method=method):
            with NoHostRead() if self.steps_seen else nullcontext():
                method(self, *args)
            self.steps_seen += method.__name__ == "end"

        monkeypatch.setattr(Watch, name, watched)
    monkeypatch.setattr(Watch, "steps_seen", 0, raising=False)
    for policy in ("stop", "skip", "rewind"):
        output = digits_config["output"] + policy
        us.distill(config(digits_config, policy), quiet=True, output=output, **{"train.epochs": 1})
    with NoHostRead(), pytest.raises(AssertionError):
        torch.ones(()).item()


def test_nothing_changes_where_nothing_goes_wrong(digits_config, tmp_path):
    runs = [
        us.distill(config(digits_config, policy), quiet=True, output=str(tmp_path / policy))
        for policy in ("stop", "skip", "rewind")
    ]
    assert same(weights(runs[0].path), weights(runs[1].path))
    assert same(weights(runs[0].path), weights(runs[2].path))
    assert runs[2].metrics["divergence"] == {"policy": "rewind", "events": []}


def test_too_many_steps_to_leave_out_end_the_run(digits_config, spoil):
    spoil(lambda job: job.epoch == 1)
    with pytest.raises(us.DivergedError, match="one of more than 2 steps to leave out in this epoch"):
        us.distill(config(digits_config, "skip", skips=2), quiet=True)


def test_a_run_goes_back_to_its_last_good_epoch_with_a_lower_rate(digits_config, spoil, tmp_path):
    digits_config["train"]["schedule"] = {"name": "constant"}
    spoil(lambda job: at(1, 2)(job) and job.watch.lr_scale == 1.0)
    run = us.distill(config(digits_config, "rewind", lr_factor=0.25), quiet=True)
    lines = read_json_lines(run.path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["lr"] for line in lines] == [0.05, 0.0125, 0.0125]
    (event,) = run.metrics["divergence"]["events"]
    assert (event["did"], event["epoch"], event["step"], event["lr_scale"]) == ("rewound", 2, 3, 0.25)
    assert "back to the end of epoch 1, learning rate × 0.25" in (run.path / "train.log").read_text()
    assert "the run went back to its last good epoch" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("stop_after", [3, 6, 9])
def test_a_run_that_went_back_resumes_to_the_same_bits(
    digits_config, spoil, tmp_path, monkeypatch, stop_after
):
    """Stopped before, within and after the epoch that is done twice."""
    given = config(digits_config, "rewind")
    spoil(lambda job: at(1, 3)(job) and job.watch.lr_scale == 1.0)
    whole = us.distill(given, quiet=True)
    steps, spoiled, folder = [0], loop._forward_backward, str(tmp_path / "stopped")

    def counted(job, *rest):
        spoiled(job, *rest)
        steps[0] += 1
        if steps[0] == stop_after:
            job.stop.set()

    monkeypatch.setattr(loop, "_forward_backward", counted)
    with pytest.raises(us.InterruptedRunError):
        us.distill(given, quiet=True, output=folder)
    resumed = us.resume(folder, quiet=True)
    assert same(weights(whole.path), weights(resumed.path))
    assert whole.metrics["divergence"] == resumed.metrics["divergence"]


def test_a_run_that_diverges_in_its_first_epoch_goes_back_to_its_beginning_and_ends_at_the_bound(
    digits_config, spoil
):
    spoil(at(0, 1))
    with pytest.raises(us.DivergedError, match=r"epoch 1, step 2 after going back 2 times\. Lower"):
        us.distill(config(digits_config, "rewind", rewinds=2), quiet=True)
    events = result_of(loop.Path(digits_config["output"]))["divergence"]["events"]
    assert [event["did"] for event in events] == ["rewound", "rewound", "stopped"]
    assert [event.get("lr_scale") for event in events] == [0.5, 0.25, None]


@pytest.fixture
def watch():
    """A watch in an epoch of two terms, of weights 1 and 0.5, and a function that adds steps."""
    watch = Watch(DivergenceConfig(explosion=10.0), torch.nn.Linear(1, 1), "Try less", torch.device("cpu"))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter])

    def steps(*losses, weight=0.5):
        meters = Meters(["ce", "kd"], torch.device("cpu"), 2)
        for ce, kd in losses:
            watch.begin(meters, None)
            terms = {"ce": torch.tensor(ce), "kd": torch.tensor(weight * kd)}
            meters.add(sum(terms.values()), terms, torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
            parameter.grad = torch.ones(1)
            watch.judge(meters, 4, optimizer, parameter.grad.norm())
            watch.end()

    watch.start_epoch({"ce": 1.0, "kd": 0.5})
    return watch, steps


def test_an_explosion_is_named_with_its_step(watch):
    watch, steps = watch
    steps(*[(1.0, 2.0)] * 30)
    assert watch.look(0, 30, last=True) is None
    watch.start_epoch({"ce": 1.0, "kd": 0.5})
    steps((1.0, 2.0), (1.0, 19.0), (9.0, 21.0), (99.0, 99.0))
    finding = watch.look(1, 4)
    assert (finding.epoch, finding.step) == (2, 3)
    assert finding.what == "kd at 10.5 (limit 10)"


def test_a_weight_that_grows_is_no_explosion_and_a_small_loss_never_is(watch):
    watch, steps = watch
    steps(*[(1e-6, 2.0)] * 30)
    assert watch.look(0, 30, last=True) is None
    watch.start_epoch({"ce": 1.0, "kd": 50.0})
    steps(*[(0.9, 2.0)] * 30, weight=50.0)
    assert watch.look(1, 30) is None


def test_a_term_is_not_judged_before_it_has_settled(watch):
    watch, steps = watch
    steps((0.1, 0.1))
    assert watch.look(0, 1, last=True) is None
    watch.start_epoch({"ce": 1.0, "kd": 0.5})
    steps((50.0, 50.0))
    assert watch.look(1, 1) is None
    steps((1e9, 50.0))
    assert watch.look(1, 2).what == "ce at 1e+09 (limit 1e+08)"


def test_looks_between_the_regular_ones_change_nothing(watch):
    watch, steps = watch
    for step in range(1, CHECK_EVERY):
        steps((1.0, 2.0))
        assert watch.look(0, step) is None
        assert watch._peaks == {}
    saved = watch.state_dict()
    assert len(saved["rows"]) == CHECK_EVERY - 1
    other = Watch(DivergenceConfig(), torch.nn.Linear(1, 1), "", torch.device("cpu"))
    other.load_state_dict(saved)
    assert len(other.state_dict()["rows"]) == CHECK_EVERY - 1
    steps((1.0, 2.0))
    assert watch.look(0, CHECK_EVERY) is None
    assert watch._peaks == {"ce": [1.0, CHECK_EVERY], "kd": [2.0, CHECK_EVERY]}


@pytest.mark.parametrize("policy", ["stop", "skip", "rewind"])
def test_weights_that_overflow_in_the_very_last_step_are_no_result(digits_config, policy):
    changes = {"train.optimizer.lr": 1e300, "data.limit": 32, "data.val": 0.0, "train.epochs": 1}
    with pytest.raises(us.DivergedError, match=r"weights must stay finite, got NaN or infinity in student\."):
        us.distill(config(digits_config, policy), quiet=True, **changes)
    assert result_of(Path(digits_config["output"]))["status"] == "diverged"


def test_predictions_of_one_class_over_three_epochs_stop_the_run(digits_config, monkeypatch):
    digits_config["data"]["limit"], digits_config["train"]["epochs"] = 400, 4
    add = Meters.add

    def constant(self, loss, terms, logits, target, weight=None):
        add(self, loss, terms, torch.zeros_like(logits), target, weight)

    monkeypatch.setattr(Meters, "add", constant)
    with pytest.raises(
        us.DivergedError, match=r"collapse to one class, got class 0 .* 3 epochs in epoch 3\."
    ):
        us.distill(digits_config, quiet=True)
    off = us.distill(
        digits_config,
        quiet=True,
        output=digits_config["output"] + "-off",
        **{"train.divergence.collapse_epochs": None},
    )
    assert off.metrics["status"] == "finished"


def test_the_known_cause_is_named():
    assert "dhkd" in divergence.hint(["ce", "binary_kl"])
    assert "lr" in divergence.hint(["ce", "dhkd"])
    assert "lr" in divergence.hint(["binary_kl"])
