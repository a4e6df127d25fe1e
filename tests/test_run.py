"""Whole jobs: what a run leaves behind, and that stopping it anywhere changes nothing."""

import gc
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import understudy as us
from understudy import build as build_module
from understudy import run as jobs
from understudy.build import at_random, read_data, untrained
from understudy.config import TeacherConfig
from understudy.engine import loop, measure
from understudy.engine.distiller import Distiller
from understudy.engine.loop import Job
from understudy.exports import _judge
from understudy.exports import finished as finished_runs
from understudy.files import read_json_lines
from understudy.job import finished
from understudy.predict import load_predictor
from understudy.teacher.table import ViewTable


def weights(folder):
    return load_file(Path(folder) / "student.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_what_the_design_promises(digits_config):
    run = us.distill(digits_config, quiet=True)
    names = {p.name for p in run.path.iterdir()}
    assert {
        "config.yaml", "environment.json", "metrics.jsonl", "train.log", "result.json", "student.safetensors",
        "report.html", "checkpoints",
    } <= names  # fmt: skip
    lines = read_json_lines(run.path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for key in ("lr", "train/loss", "train/ce", "train/dhkd", "train/acc1", "val/acc1", "images_per_second"):
        assert key in lines[0], key
    assert ["test/acc1" in line for line in lines] == [False, False, True]
    result = json.loads((run.path / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["best"]["chosen_on"] == "val"
    assert result["teacher"]["agreement"] <= 100
    assert sum(map(sum, result["confusion"])) == 500
    assert run.metrics == result
    assert not run.student.training


def test_of_very_many_classes_no_matrix_is_kept(digits_config, monkeypatch):
    monkeypatch.setattr(measure, "MOST_CONFUSED", 9)
    run = us.distill(digits_config, quiet=True)
    result = json.loads((run.path / "result.json").read_text())
    assert "confusion" not in result
    assert result["measured"] == 500
    assert us.evaluate(run.path, quiet=True)["test/acc1"] == result["last"]["test/acc1"]
    page = (run.path / "report.html").read_text()
    assert "top-1" in page
    assert 'id="confusion"' not in page
    exported = us.export(run.path, ["safetensors"], quiet=True)
    assert "500 test images" in (exported.folder / "README.md").read_text()


def test_the_resolved_config_gives_the_same_run_again(digits_config, tmp_path):
    first = us.distill(digits_config, quiet=True)
    again = us.distill(first.path / "config.yaml", quiet=True, output=str(tmp_path / "again"))
    assert same(weights(first.path), weights(again.path))


def test_the_global_state_of_the_process_is_given_back(digits_config):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    us.distill(digits_config, quiet=True, **{"train.epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_run_that_has_ended_leaves_its_memory_at_once(digits_config, tmp_path):
    gc.collect()
    gc.disable()  # the next run of a study may come before it finds a cycle
    try:
        us.distill(digits_config, quiet=True, **{"train.epochs": 1, "teacher.table": str(tmp_path / "table")})
        assert not [type(o) for o in gc.get_objects() if type(o) in (Distiller, Job, ViewTable)]
    finally:
        gc.enable()


@pytest.mark.parametrize("stop_after", [1, 5, 7, 14])
def test_a_stopped_run_resumes_to_the_same_bits(digits_config, tmp_path, monkeypatch, stop_after):
    whole = us.distill(digits_config, quiet=True)
    folder = str(tmp_path / "stopped")
    steps, step = [0], loop._forward_backward

    def counted(job, *step_arguments):
        step(job, *step_arguments)
        steps[0] += 1
        if steps[0] == stop_after:
            job.stop.set()

    monkeypatch.setattr(loop, "_forward_backward", counted)
    with pytest.raises(us.InterruptedRunError):
        us.distill(digits_config, quiet=True, output=folder)
    monkeypatch.setattr(loop, "_forward_backward", step)
    resumed = us.resume(folder, quiet=True)
    assert same(weights(whole.path), weights(folder))
    ours, theirs = (read_json_lines(r.path / "metrics.jsonl") for r in (whole, resumed))
    for a, b in zip(ours, theirs, strict=True):
        del a["images_per_second"], b["images_per_second"]
        assert a == b


def test_a_run_of_one_step_an_epoch_stops_after_the_epoch(digits_config, tmp_path, monkeypatch):
    budget = {"train.batch_size": 500, "train.epochs": 4}
    whole = us.distill(digits_config, quiet=True, **budget)
    folder, step = str(tmp_path / "stopped"), loop._forward_backward

    def stops(job, *rest):
        step(job, *rest)
        if job.epoch == 1:
            job.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", stops)
        with pytest.raises(us.InterruptedRunError):
            us.distill(digits_config, quiet=True, output=folder, **budget)
    assert len(read_json_lines(Path(folder) / "metrics.jsonl")) == 2
    us.resume(folder, quiet=True)
    assert same(weights(whole.path), weights(folder))


def test_a_kept_checkpoint_is_not_lost_by_a_kill(digits_config, monkeypatch):
    config = digits_config | {"train": digits_config["train"] | {"epochs": 2, "keep_checkpoints": 1}}

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_keep_checkpoint", dies)
        with pytest.raises(KeyboardInterrupt):
            us.distill(config, quiet=True)
    run = us.distill(config, quiet=True)
    assert [epoch for epoch, _ in loop.kept_checkpoints(run.path)] == [1, 2]


def test_a_run_killed_before_its_first_checkpoint_starts_over(digits_config, tmp_path, monkeypatch):
    whole = us.distill(digits_config, quiet=True)
    folder = tmp_path / "killed"

    class KilledError(BaseException):
        pass

    def dies(job, *step_arguments):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", dies)
        with pytest.raises(KilledError):
            us.distill(digits_config, quiet=True, output=str(folder))
    us.distill(digits_config, quiet=True, output=str(folder))  # the same command again goes on
    assert same(weights(whole.path), weights(folder))


@pytest.mark.slow
def test_kill_minus_nine_at_random_moments_changes_nothing(digits_config, tmp_path):
    digits_config |= {"train": {**digits_config["train"], "epochs": 60}}
    digits_config["losses"].append({"name": "dino", "weight": 0.1})
    whole = us.distill(digits_config, quiet=True)
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(digits_config | {"output": str(tmp_path / "killed")}))
    rng, kills = random.Random(0), 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "understudy", "distill", str(config), "-q"],
            stderr=subprocess.PIPE,
            text=True,
        )
        metrics = tmp_path / "killed" / "metrics.jsonl"
        deadline, lines = time.monotonic() + 540, len(read_json_lines(metrics))
        while process.poll() is None and time.monotonic() < deadline:
            if len(read_json_lines(metrics)) >= lines + 3:  # it is training: kill it some steps later
                time.sleep(rng.random() * 0.1)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        _, errors = process.communicate()
        if process.returncode == 0 or (tmp_path / "killed" / "result.json").exists():
            break  # or the kill came after the end, while the page was drawn
        assert process.returncode == -signal.SIGKILL, errors
    else:
        us.resume(tmp_path / "killed", quiet=True)
    assert kills >= 3
    assert same(weights(whole.path), weights(tmp_path / "killed"))


def test_ctrl_c_leaves_a_resumable_run_and_exit_status_130(digits_config, tmp_path):
    digits_config |= {"train": {**digits_config["train"], "epochs": 200}}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(digits_config))
    process = subprocess.Popen(
        [sys.executable, "-m", "understudy", "distill", str(config)], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "understudy resume" in rest
    assert "Traceback" not in rest


def test_the_same_command_on_a_finished_run_or_with_another_config_is_refused(digits_config):
    us.distill(digits_config, quiet=True, **{"train.epochs": 1})
    with pytest.raises(ValueError, match="finished run"):
        us.distill(digits_config, quiet=True, **{"train.epochs": 1})
    with pytest.raises(ValueError, match=r"another value for train\.epochs"):
        us.distill(digits_config, quiet=True, **{"train.epochs": 2})
    with pytest.raises(ValueError, match="finished run"):
        us.resume(digits_config["output"])


def test_a_folder_with_other_things_is_left_alone(digits_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds other things"):
        us.distill(digits_config, quiet=True)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_wrong_job_leaves_nothing_behind(digits_config, tmp_path):
    with pytest.raises(ValueError, match="Did you mean"):
        us.distill(digits_config, quiet=True, **{"student.model": "cnn_tinny"})
    assert not (tmp_path / "run").exists()


def test_teacher_weights_of_the_wrong_shape_are_named(digits_config, tmp_path):
    other = us.train(
        {**digits_config, "teacher": None, "losses": [{"name": "ce"}]}, quiet=True, **{"train.epochs": 1}
    )
    with pytest.raises(ValueError, match="shape") as error:
        us.distill(digits_config, quiet=True, output=str(tmp_path / "b"), **{
            "teacher.weights": str(other.path / "student.safetensors")})  # fmt: skip
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(digits_config, monkeypatch):
    from understudy.methods.dhkd import DHKD

    calls, loss = [0], DHKD.loss

    def breaks(self, *args):
        calls[0] += 1
        return loss(self, *args) * (float("nan") if calls[0] == 8 else 1.0)

    monkeypatch.setattr(DHKD, "loss", breaks)
    with pytest.raises(us.DivergedError, match=r"infinity in dhkd in epoch 2.*last good state") as error:
        us.distill(digits_config, quiet=True)
    assert "\n" not in str(error.value)
    folder = Path(digits_config["output"])
    assert json.loads((folder / "result.json").read_text())["status"] == "diverged"
    assert torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["epoch"] == 1
    monkeypatch.setattr(DHKD, "loss", loss)
    assert us.resume(folder, quiet=True).metrics["status"] == "finished"


def test_train_uses_a_distillation_config_without_its_teacher(digits_config):
    run = us.train(digits_config, quiet=True, **{"train.epochs": 1})
    stored = us.load_config(run.path / "config.yaml")
    assert stored.teacher is None
    assert [t["name"] for t in stored.losses] == ["ce"]
    assert run.metrics["verb"] == "train"


def test_train_keeps_the_terms_of_labels_as_they_are(digits_config):
    digits_config["losses"] = [
        {"name": "ce", "label_smoothing": 0.1, "class_weights": "auto", "weight": 0.5},
        {"name": "kd"},
    ]
    (term,) = us.train(digits_config, quiet=True, **{"train.epochs": 1}).config.losses
    assert (term["name"], term["label_smoothing"], len(term["class_weights"])) == ("ce", 0.1, 10)
    assert term["weight"] == 1.0


def test_settings_without_effect_do_not_make_another_run(digits_config, tmp_path):
    digits_config["data"] |= {"workers": 4}  # digits are in memory
    digits_config["teacher"] |= {
        "table": str(tmp_path / "table")
    }  # of answers that nobody asks for in a step
    digits_config["losses"] = [{"name": "ce"}, {"name": "dino"}]
    us.distill(digits_config, quiet=True, **{"train.epochs": 1})
    again = us.load_config(digits_config, {"train.epochs": 1})
    assert finished(again) is not None
    with pytest.raises(ValueError, match=r"got another value for data\.limit\."):
        us.distill(digits_config, quiet=True, **{"train.epochs": 1, "data.limit": None})
    assert finished(us.load_config(again, {"data.limit": None})) is None


def test_the_best_epoch_is_measured_as_the_last_one_is(digits_config):
    """Both as they are shipped, in float32: where they are the same weights, the numbers are the same."""
    digits_config["train"] |= {"precision": "bf16", "epochs": 1, "ema": None}
    result = us.distill(digits_config, quiet=True).metrics
    assert result["best"]["epoch"] == result["last"]["epoch"]
    for name in ("test/acc1", "test/acc5"):
        assert result["best"][name] == result["last"][name]


def test_evaluate_measures_what_the_run_reported(digits_config):
    run = us.distill(digits_config, quiet=True)
    measured = us.evaluate(run.path, quiet=True)
    assert measured["test/acc1"] == run.metrics["last"]["test/acc1"]
    assert measured["agreement"] == run.metrics["teacher"]["agreement"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_term_with_heads_may_start_in_a_later_epoch(digits_config, optimizer):
    late = {"name": "dhkd", "weight": {"value": 1.0, "warmup_epochs": 2, "warmup_start": 0}}
    digits_config["losses"] = [{"name": "ce"}, late]
    digits_config["train"]["optimizer"] = {"name": optimizer, "lr": 0.01}
    run = us.distill(digits_config, quiet=True, **{"train.epochs": 3})
    lines = read_json_lines(run.path / "metrics.jsonl")
    assert ["train/dhkd" in line for line in lines] == [False, True, True]


def test_an_untrained_teacher_is_pointed_out(digits_config, capsys):
    us.distill(digits_config, **{"train.epochs": 1})
    assert "answers at random" in capsys.readouterr().out


def test_pretrained_weights_of_other_classes_are_no_weights():
    ours = read_data(us.load_config({"data": {"name": "digits"}, "student": {"model": "cnn_tiny"}}).data)
    resnet = {"model": "torchvision/resnet18", "pretrained": True}
    given = TeacherConfig(**resnet)
    assert untrained(given, ours)
    assert not untrained(given)
    said = at_random("teacher", "teacher", given, ours)
    assert "pretrained for 1,000 classes, the data have 10" in said
    assert not untrained(TeacherConfig(**resnet, classes={"map": [[3 * k] for k in range(10)]}), ours)
    assert not untrained(TeacherConfig(model="torchvision/resnet18", weights="w.safetensors"), ours)


def test_a_run_that_never_reaches_the_classifier_is_said_or_refused(digits_config, capsys, tmp_path):
    options = {"gradients.align": "none", "train.epochs": 1}
    us.distill(digits_config, losses=[{"name": "at"}], **options)
    assert "no term reaches the student's classifier" in capsys.readouterr().out
    losses = [{"name": "ce", "weight": 0.0}, {"name": "at"}]
    with pytest.raises(ValueError, match=r"must have a weight within train.epochs = 1, got 'ce' of weight 0"):
        us.distill(digits_config, quiet=True, losses=losses, output=str(tmp_path / "other"), **options)


def test_a_run_with_images_without_labels_is_analysed_and_exported(digits_config, monkeypatch, tmp_path):
    def some_unlabelled(config):
        data = read_data(config)
        targets = data.train.targets.clone()
        targets[::4] = -1
        return replace(data, train=replace(data.train, targets=targets))

    for module in (build_module, finished_runs):
        monkeypatch.setattr(module, "read_data", some_unlabelled)
    options = {"losses": [{"name": "kd"}], "gradients.align": "none", "train.epochs": 1}
    run = us.distill(digits_config, quiet=True, **options)
    assert us.export(run.path, ["int8"], quiet=True).files.keys() == {"int8"}
    name, images = _judge(replace(some_unlabelled(run.config.data), test=None, val=None))
    assert name == "train"
    assert images.targets.min() == 0
    found = us.analyze(run.path, ["collapse"], quiet=True)
    assert found


def test_accumulation_does_not_change_the_loss(digits_config, tmp_path):
    first = us.distill(digits_config, quiet=True, **{"train.epochs": 1})
    parts = us.distill(
        digits_config,
        quiet=True,
        output=str(tmp_path / "parts"),
        **{"train.epochs": 1, "train.accumulate": 2},
    )
    a, b = (read_json_lines(r.path / "metrics.jsonl")[0]["train/loss"] for r in (first, parts))
    assert a == pytest.approx(b, rel=0.2)  # batch statistics of half a batch differ; the scale must not


def test_bf16_and_clipping_run(digits_config):
    run = us.distill(
        digits_config, quiet=True, **{"train.epochs": 1, "train.precision": "bf16", "train.clip_norm": 1.0}
    )
    assert run.metrics["status"] == "finished"


@pytest.mark.long
@pytest.mark.timeout(3600)  # minutes on two quiet cores, many more where they are shared
def test_two_epochs_on_tin32_reach_eight_times_chance(data_root, tmp_path):
    config = {
        "data": {
            "name": "parquet",
            "train": str(data_root / "tin32-a" / "train.parquet"),
            "test": str(data_root / "tin32-a" / "test.parquet"),
        },
        "teacher": {"model": "wrn_16_2"},
        "student": {"model": "wrn_16_1"},
        "method": "dhkd",
        "train": {"epochs": 2, "schedule": {"name": "cosine"}, "threads": 2, "precision": "bf16"},
        "output": str(tmp_path / "run"),
    }
    alone = {"student.model": "wrn_16_2", "train.epochs": 1, "output": str(tmp_path / "teacher")}
    teacher = us.train(config, quiet=True, **alone)
    run = us.distill(config, quiet=True, **{"teacher.weights": str(teacher.path / "student.safetensors")})
    assert run.metrics["last"]["test/acc1"] >= 8.0


def test_a_teacher_assistant_chain_runs_link_by_link_and_goes_on_where_it_stopped(digits_config, monkeypatch):
    teacher = us.train({**digits_config, "output": digits_config["output"] + "-t", "student": {"model": "cnn_small"}},
                       quiet=True, **{"train.epochs": 1})  # fmt: skip
    chain = digits_config | {
        "teacher": {"model": "cnn_small", "weights": str(teacher.path / "student.safetensors")},
        "assistants": [{"model": "resnet8"}],
        "train": digits_config["train"] | {"epochs": 1},
    }
    begin, begun = jobs.begin, []

    def counted(verb, config, *rest, **how):
        begun.append((verb, config.teacher.model, config.student.model))
        if len(begun) == 2:
            raise us.InterruptedRunError
        return begin(verb, config, *rest, **how)

    monkeypatch.setattr(jobs, "begin", counted)
    with pytest.raises(us.InterruptedRunError):
        us.distill(chain, quiet=True)
    run = us.resume(chain["output"], quiet=True)
    assert begun == [("distill", "cnn_small", "resnet8")] + [("distill", "resnet8", "cnn_tiny")] * 2
    assert run.path.name == "2-cnn_tiny"


def test_generations_teach_each_other(digits_config):
    born_again = digits_config | {
        "teacher": None,
        "generations": 2,
        "train": digits_config["train"] | {"epochs": 1},
    }
    run = us.distill(born_again, quiet=True)
    first = us.load_config(run.path.parent / "1-cnn_tiny" / "config.yaml")
    assert first.teacher is None
    assert run.config.teacher.weights == str(run.path.parent / "1-cnn_tiny" / "student.safetensors")
    assert run.config.seed == digits_config["seed"]  # so that it pairs with other runs of this seed
    assert first.seed != run.config.seed  # or it would begin with its teacher's weights


@pytest.mark.parametrize("method", ["simkd", "ijckd"])
def test_a_model_with_the_teachers_classifier_is_measured_shipped_and_used_as_one(
    digits_config, tmp_path, method
):
    config = digits_config | {"losses": [{"name": method}], "gradients": {}}
    run = us.distill(config, quiet=True, **{"train.epochs": 1})
    assert run.metrics["parameters"] == sum(p.numel() for p in run.student.parameters())
    assert us.evaluate(run.path, quiet=True)["test/acc1"] == run.metrics["last"]["test/acc1"]
    predictor = load_predictor(run.path)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(predictor.module(images), run.student(images))


def test_a_checkpoint_that_does_not_fit_its_config_is_one_line(digits_config, tmp_path, monkeypatch):
    folder, step = tmp_path / "changed", loop._forward_backward

    def stops(job, *rest):
        step(job, *rest)
        job.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", stops)
        with pytest.raises(us.InterruptedRunError):
            us.distill(digits_config, quiet=True, output=str(folder))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("head: mlp", "head: linear"))
    with pytest.raises(ValueError, match=r"must go on with what it began with, got other losses for"):
        us.resume(folder, quiet=True)
    with pytest.raises(ValueError, match=r"last.pt must be of the run that config.yaml describes") as error:
        us.resume(folder, changed=True, quiet=True)
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on_to_the_same_bits(
    digits_config, tmp_path, monkeypatch
):
    whole = us.distill(digits_config, quiet=True)
    folder, steps, step = tmp_path / "damaged", [0], loop._forward_backward

    def counted(job, *step_arguments):
        step(job, *step_arguments)
        steps[0] += 1
        if steps[0] == 12:
            job.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", counted)
        with pytest.raises(us.InterruptedRunError):
            us.distill(digits_config, quiet=True, output=str(folder))
    last = folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"last\.pt must be whole.*--previous"):
        us.resume(folder, quiet=True)
    us.resume(folder, previous=True, quiet=True)
    assert same(weights(whole.path), weights(folder))
    (folder / "result.json").write_text('{"status": "finished"}')
    kept = last.read_bytes()
    with pytest.raises(ValueError, match="must not hold a finished run"):
        us.resume(folder, previous=True, quiet=True)
    assert last.read_bytes() == kept


def test_a_sigmoid_loss_on_the_shared_head_is_allowed_with_a_note(digits_config, capsys):
    shared = digits_config | {"losses": [{"name": "ce"}, {"name": "binary_kl"}]}
    run = us.distill(shared, **{"train.epochs": 1})
    assert run.metrics["status"] == "finished"
    assert "a head of its own" in capsys.readouterr().out
