"""A run goes on with the images, teachers and settings it began with, or says that it does not."""

import os
import shutil
import sys
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import understudy as us
from understudy import job as jobs
from understudy.engine import loop
from understudy.engine.checkpoint import load_checkpoint, save_checkpoint
from understudy.inputs import weight_files


@pytest.fixture(autouse=True)
def _without_pages(monkeypatch):
    monkeypatch.setattr(jobs, "write_run_report", lambda folder: folder)


@pytest.fixture
def stopped(monkeypatch):
    """A function that starts a run and stops it in its second epoch."""

    def run(config, **overrides):
        step = loop._forward_backward

        def stops(job, *rest):
            step(job, *rest)
            if (job.epoch, job.step) == (1, 1):
                job.stop.set()

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_forward_backward", stops)
            with pytest.raises(us.InterruptedRunError):
                us.distill(config, quiet=True, **overrides)

    return run


@pytest.fixture
def taught(digits_config, tmp_path):
    """A config whose teacher lies in a file, and the weights of another one."""
    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(
            us.create_model("cnn_small", num_classes=10, in_channels=1).state_dict(),
            path := tmp_path / f"{seed}.pt",
        )
        files.append(path)
    digits_config["teacher"] |= {"weights": str(files[0]), "table": "off"}
    return digits_config, *files


def test_another_teacher_in_the_same_file_is_refused(taught, stopped, tmp_path):
    config, file, other = taught
    stopped(config)
    shutil.copy(file, tmp_path / "kept.pt")
    shutil.copy(other, file)
    with pytest.raises(ValueError, match=r"got other weights of teacher for .*resume .*--changed"):
        us.resume(tmp_path / "run", quiet=True)
    shutil.copy(tmp_path / "kept.pt", file)
    us.resume(tmp_path / "run", quiet=True)
    whole = us.distill(config, quiet=True, output=str(tmp_path / "whole"))
    ours, theirs = (load_file(p / "student.safetensors") for p in (tmp_path / "run", whole.path))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_says_what_it_began_with_even_if_the_file_is_another_one_when_it_goes_on(
    digits_config, stopped, tmp_path
):
    config, file = digits_config, tmp_path / "student.pt"
    net = us.create_model("cnn_tiny", num_classes=10, in_channels=1)
    torch.save(net.state_dict(), file)
    config["student"] |= {"weights": str(file)}
    began = weight_files(us.load_config(config))
    stopped(config)
    torch.save({name: 2 * tensor for name, tensor in net.state_dict().items()}, file)
    run = us.resume(tmp_path / "run", quiet=True)
    assert run.metrics["weights"] == began
    with pytest.raises(ValueError, match="student has been replaced since"):
        jobs.finished(us.load_config(config))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("change", ["pixels", "labels"])
def test_other_images_or_labels_are_refused(digits_config, stopped, tmp_path, resident, change):
    for number in range(24):
        for part in ("train", "test"):
            folder = tmp_path / "images" / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * number).save(folder / f"{number:02d}.png")
    data = {"name": "imagefolder", "channels": 1, "resident": resident, "workers": None if resident else 0}
    data |= {part: str(tmp_path / "images" / part) for part in ("train", "test")}
    digits_config |= {"data": data, "train": digits_config["train"] | {"batch_size": 12}}
    stopped(digits_config)
    images = tmp_path / "images" / "train"
    if change == "labels":
        (images / "a" / "00.png").rename(images / "b" / "00.png")
    else:
        Image.new("L", (8, 8), 255).save(images / "a" / "00.png")
    if change == "pixels" and not resident:  # which nobody could afford to read
        us.resume(tmp_path / "run", quiet=True)
        return
    with pytest.raises(ValueError, match="got other training images for"):
        us.resume(tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.batch_size", 64), ("train.epochs", 4), ("seed", 9), ("train.optimizer.lr", 0.01)],
)
def test_another_setting_is_refused_by_name_unless_that_is_wanted(
    digits_config, stopped, tmp_path, key, value
):
    stopped(digits_config, **{"teacher.table": "off"})
    file = tmp_path / "run" / "config.yaml"
    file.write_text(us.load_config(file, {key: value}).yaml())
    drawn = "weights of teacher, " if key == "seed" else ""  # there are none in a file
    with pytest.raises(ValueError, match=f"got other {drawn}{key} for") as error:
        us.resume(tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value)
    run = us.resume(tmp_path / "run", changed=True, quiet=True)
    assert f"from here on with other {drawn}{key}" in (run.path / "train.log").read_text()


def test_where_and_how_fast_may_change(digits_config, stopped, tmp_path):
    stopped(digits_config)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    file = tmp_path / "moved" / "config.yaml"
    freely = {
        "train.checkpoint_minutes": 1.0,
        "teacher.table": "off",
        "train.eval_batch_size": 7,
    }
    file.write_text(us.load_config(file, freely).yaml())
    assert us.resume(tmp_path / "moved", quiet=True).metrics["status"] == "finished"


def test_a_checkpoint_that_does_not_know_is_taken_up(digits_config, stopped, tmp_path):
    stopped(digits_config)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    assert state.pop("inputs")["digests"].keys() == {
        "training images",
        "held-out images",
        "weights of teacher",
    }
    save_checkpoint(last, state)
    us.resume(tmp_path / "run", quiet=True)


def test_a_killed_write_of_a_file_is_no_other_thing_in_the_folder(digits_config, tmp_path):
    left = tmp_path / "run" / ".environment.json.999999999.tmp"
    left.parent.mkdir()
    left.touch()
    us.distill(digits_config, quiet=True, **{"train.epochs": 1})
    assert not left.exists()


def test_a_finished_run_is_not_taken_for_one_under_another_teacher(taught, tmp_path):
    config, file, other = taught
    run = us.distill(config, quiet=True, **{"train.epochs": 1})
    again = us.load_config(config, {"train.epochs": 1})
    assert jobs.finished(again) == run.metrics
    kept = file.read_bytes()
    shutil.copy(other, file)
    with pytest.raises(
        ValueError, match=r"run must hold a run with the weights .* file of teacher has been replaced"
    ):
        jobs.finished(again)
    file.write_bytes(kept)
    os.utime(file, ns=(1, 1))  # a time of its own even where the file system counts in seconds
    assert jobs.finished(again) == run.metrics
    file.unlink()  # nothing to compare with
    assert jobs.finished(again) == run.metrics


def test_weights_in_the_home_folder_are_known_too(taught, tmp_path, monkeypatch):
    config, file, _ = taught
    named = weight_files(us.load_config(config))
    assert named.keys() == {"teacher"}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weight_files(us.load_config(config, {"teacher.weights": f"~/{file.name}"})) == named


@pytest.mark.parametrize("verb", [us.evaluate, us.predict, us.export])
def test_a_folder_of_several_runs_is_no_run(verb, tmp_path):
    for name in ("dhkd/seed-1", "dhkd/seed-0", "student-alone/seed-0", "teacher"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "student.safetensors").touch()
    more = (tmp_path / "image.png",) if verb is us.predict else ()
    with pytest.raises(ValueError, match=r"holds 4\. Name one of them: .*dhkd/seed-0, .*seed-1, .*, \.\.\.$"):
        verb(tmp_path, *more)


def test_a_table_that_cannot_be_reached_is_one_line_with_a_way_on(digits_config, stopped, tmp_path):
    stopped(digits_config, **{"teacher.table": str(tmp_path / "table")})
    file = tmp_path / "run" / "config.yaml"
    (tmp_path / "file").touch()
    file.write_text(us.load_config(file, {"teacher.table": str(tmp_path / "file" / "table")}).yaml())
    with pytest.raises(ValueError, match=r"table of teacher must be in a folder .* or to off"):
        us.resume(tmp_path / "run", quiet=True)
    file.write_text(us.load_config(file, {"teacher.table": "off"}).yaml())
    us.resume(tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("batch", "accumulate"), [(43, 1), (127, 4)]
)  # of 130 images one is left, or three for four parts
def test_a_batch_of_one_that_a_norm_cannot_take_is_refused_before_the_run(
    digits_config, tmp_path, batch, accumulate
):
    changes = {"data.limit": 130, "data.val": 0.0, "train.batch_size": batch, "train.accumulate": accumulate}
    hint = r"Set train\.drop_last=true, or choose another train\.batch_size"
    hint += ", or train.accumulate below 4$" if accumulate > 1 else "$"
    with pytest.raises(ValueError, match=rf"two images or more for cnn_tiny and its losses.*{hint}"):
        us.distill(digits_config, quiet=True, **changes)
    assert not (tmp_path / "run").exists()
    changes["train.epochs"] = 1
    losses = [{"name": "ce"}, {"name": "kd"}]  # nobody else minds
    us.distill(digits_config, quiet=True, losses=losses, output=str(tmp_path / "minded"), **changes)
    us.distill(digits_config, quiet=True, **changes, **{"train.drop_last": True})


def test_a_batch_of_one_is_refused_under_a_term_that_begins_later(digits_config, tmp_path):
    head = {"name": "dhkd", "head": "mlp", "weight": {"value": 1.0, "from_epoch": 2}}
    config = {**digits_config, "losses": [{"name": "ce"}, head]}
    changes = {"data.limit": 130, "data.val": 0.0, "train.batch_size": 43}
    with pytest.raises(ValueError, match=r"two images or more .* in step 4 of an epoch"):
        us.distill(config, quiet=True, **changes)
    us.distill(config, quiet=True, **changes, **{"train.epochs": 1})


@pytest.mark.parametrize("losses", [[{"name": "dino"}], [{"name": "ft", "paraphraser_epochs": 1}]])
def test_what_a_term_must_know_beforehand_does_not_stand_in_the_way(digits_config, losses):
    changes = {"data.limit": 65, "data.val": 0.0, "train.batch_size": 32, "train.epochs": 1}
    us.distill(
        {**digits_config, "student": {"model": "cnn_small"}, "losses": [{"name": "ce"}, *losses]},
        quiet=True,
        **changes,
    )


def test_a_method_of_ones_own_is_not_tried_beforehand(digits_config, tmp_path, monkeypatch):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Counted(us.Method):
        def loss(self, student, teacher, batch, heads):
            seen.append(len(batch.images))
            return student["logits"].square().mean()

    seen, changes = [], {"data.limit": 65, "data.val": 0.0, "train.batch_size": 32, "train.epochs": 1}
    monkeypatch.setattr(sys.modules["__main__"], "Counted", Counted, raising=False)
    losses = [{"name": "ce"}, {"name": "__main__:Counted"}]
    us.distill({**digits_config, "losses": losses}, quiet=True, **changes)
    assert seen == [32, 32, 1]
