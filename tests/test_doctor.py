"""Doctor finds what is wrong before the first epoch."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import understudy as us
from understudy.cli import main
from understudy.data.loader import TrainLoader
from understudy.doctor import describe, doctor
from understudy.teacher.auto import expected_hits


def find(result, check):
    return next(f for f in result["findings"] if f["check"] == check)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A teacher of digits that was trained on levels from 0 to 255, in a file that does not say so."""
    folder = tmp_path_factory.mktemp("teacher")
    config = {
        "data": {"name": "digits", "mean": [0.0], "std": [1 / 255]},
        "student": {"model": "cnn_tiny"},
        "train": {"epochs": 15, "device": "cpu", "threads": 1, "optimizer": {"lr": 0.02}},
        "output": str(folder / "run"),
    }
    us.train(config, quiet=True)
    save_file(load_file(folder / "run" / "student.safetensors"), folder / "bare.safetensors")
    return folder


def config_of(digits_config, path, **changes):
    return {**digits_config, "teacher": {"model": "cnn_tiny", "weights": str(path), **changes}}


def test_a_batch_is_cut_as_the_run_cuts_it(digits_config, weights, monkeypatch):
    seen = []
    forward = us.Distiller.forward

    def counted(distiller, images, *rest, **options):
        seen.append(len(images))
        return forward(distiller, images, *rest, **options)

    monkeypatch.setattr(us.Distiller, "forward", counted)
    config = config_of(digits_config, weights / "run" / "student.safetensors")
    config["train"] = config["train"] | {"batch_size": 64, "accumulate": 4}
    assert find(doctor(config, quiet=True), "losses")["status"] == "ok"
    assert max(seen) == 16


def test_several_seeds_and_views_that_never_come_again_are_weighed(digits_config, weights):
    config = config_of(digits_config, weights / "run" / "student.safetensors")
    one = doctor(config, quiet=True)
    several = doctor({**config, "train": config["train"] | {"seeds": [0, 1, 2]}}, quiet=True)
    assert find(several, "memory")["figures"]["needed"] > find(one, "memory")["figures"]["needed"]
    endless = {**config, "data": config["data"] | {"augment": {"name": "resized_crop"}}}
    table = find(doctor(endless, quiet=True), "table")
    assert table["figures"] == {"possible": False}
    assert "no view comes again" in table["text"]


def test_a_sound_config_has_nothing_to_mend_and_leaves_nothing(digits_config, weights, monkeypatch):
    seconds = iter((0.001, 0.004, 0.01))  # data, teacher, step: no judgement of a busy machine
    monkeypatch.setattr(sys.modules["understudy.doctor"], "_timed", lambda _, run: (run(), next(seconds))[1])
    result = doctor(config_of(digits_config, weights / "run" / "student.safetensors"), quiet=True)
    assert result["status"] == "ok"
    teacher = find(result, "teacher")["figures"]
    assert teacher["accuracy"] > 80
    assert teacher["chance"] == 10
    assert not Path(digits_config["output"]).exists()
    assert {f["check"] for f in result["findings"]} >= {"data", "taps", "memory", "losses", "speed", "table"}
    assert len(describe(result).splitlines()) <= 24


def test_a_teacher_in_the_wrong_normalisation_is_told_the_right_one(digits_config, weights):
    result = doctor(config_of(digits_config, weights / "bare.safetensors"), quiet=True)
    found = find(result, "teacher")
    right = found["figures"]["normalisation"]
    assert found["status"] == "warning"
    assert right["name"] == "none, 0 to 255"
    assert right["accuracy"] > 80
    mended = config_of(digits_config, weights / "bare.safetensors", mean=right["mean"], std=right["std"])
    assert find(doctor(mended, quiet=True), "teacher")["figures"]["accuracy"] == pytest.approx(
        right["accuracy"]
    )


def test_classes_in_another_order_are_recognised(digits_config, weights, tmp_path):
    state = load_file(weights / "bare.safetensors")
    for key in ("fc.weight", "fc.bias"):
        state[key] = state[key].roll(3, dims=0).contiguous()
    save_file(state, tmp_path / "rolled.safetensors")
    given = config_of(digits_config, tmp_path / "rolled.safetensors", mean=[0.0], std=[1 / 255])
    found = find(doctor(given, quiet=True, **{"data.limit": None}), "teacher")
    assert found["status"] == "warning"
    assert found["figures"]["reordered"] > 80
    assert "another order" in found["text"]


def test_two_classes_that_changed_places_are_noticed(digits_config, weights, tmp_path):
    """What is far above chance may still be far below what the teacher can."""
    state = load_file(weights / "bare.safetensors")
    for key in ("fc.weight", "fc.bias"):
        state[key] = state[key][[1, 0, *range(2, 10)]].contiguous()
    save_file(state, tmp_path / "swapped.safetensors")
    given = config_of(digits_config, tmp_path / "swapped.safetensors", mean=[0.0], std=[1 / 255])
    found = find(doctor(given, quiet=True, **{"data.limit": None}), "teacher")
    assert found["status"] == "warning"
    assert 50 < found["figures"]["accuracy"] < found["figures"]["reordered"] - 10


def test_a_teacher_of_no_use_is_said_to_be_so(digits_config):
    found = find(doctor(digits_config, quiet=True), "teacher")
    assert (found["status"], "it knows nothing" in found["text"]) == ("warning", True)


def test_a_teacher_of_nan_is_an_error_and_ends_the_examination(digits_config, weights, tmp_path):
    state = load_file(weights / "bare.safetensors")
    state["fc.bias"][2] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    result = doctor(config_of(digits_config, tmp_path / "nan.safetensors"), quiet=True)
    assert result["status"] == "error"
    assert "NaN or infinite for 100% of images" in result["findings"][-1]["text"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.taps": {"stage_1": "nowhere"}}, r"taps\.stage_1 must be a module of CNN, got 'nowhere'"),
        ({"teacher.classes": {"map": {"1": 2}, "count": 20}}, "must name every class of the data"),
        ({"train.optimzer": 1}, "unknown key 'train.optimzer'"),
        ({"data.name": "nowhere"}, "must be one of"),
    ],
)
def test_what_ends_a_run_is_the_same_line_here(digits_config, changes, message):
    result = doctor(digits_config, quiet=True, **changes)
    assert result["status"] == "error"
    assert [f["check"] for f in result["findings"]] == ["config"]
    with pytest.raises(ValueError, match=message):
        us.distill(digits_config, quiet=True, **changes)
    with pytest.raises(ValueError, match=message):
        raise ValueError(result["findings"][0]["text"])


def test_too_little_memory_is_an_error_before_a_whole_batch_is_run(digits_config, monkeypatch):
    monkeypatch.setattr(sys.modules["understudy.doctor"], "available", lambda device: 2**17)
    result = doctor(digits_config, quiet=True)
    assert (result["status"], result["findings"][-1]["check"]) == ("error", "memory")
    assert "Raise train.accumulate or lower train.batch_size" in result["findings"][-1]["text"]


def test_the_memory_of_a_step_is_that_of_its_images():
    config = {"data": {"name": "digits"}, "student": {"model": "cnn_small"}, "train": {"device": "cpu"}}
    needed = [
        find(doctor(config, quiet=True, **{"train.batch_size": n}), "memory")["figures"]["needed"]
        for n in (64, 128)
    ]
    a_batch = needed[1] - needed[0]
    an_image = find(doctor(config, quiet=True), "memory")["figures"]["activations_an_image"]
    assert a_batch == pytest.approx(64 * an_image, rel=0.01)
    assert an_image > 4 * 8 * 8 * 16  # at least one full map of 16 channels is kept


def test_a_slow_loader_is_a_warning(digits_config, monkeypatch):
    import time

    epoch = TrainLoader._batches

    def slow(self, *arguments):
        for batch in epoch(self, *arguments):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(TrainLoader, "_batches", slow)
    found = find(doctor(digits_config, quiet=True), "speed")
    assert (found["status"], "Loading is slow" in found["text"]) == ("warning", True)


def test_uneven_classes_and_missing_ones_are_warned_of(tmp_path, digits_config):
    from PIL import Image

    for name, count in (("a", 20), ("b", 1)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), i).save(tmp_path / "set" / name / f"{i}.png")
    data = {"name": "imagefolder", "train": str(tmp_path / "set"), "channels": 1}
    found = find(doctor({**digits_config, "data": data}, quiet=True), "data")
    assert (found["status"], "classes of 1 to 20 images" in found["text"]) == ("warning", True)


def test_the_verb_prints_json_and_ends_with_2_on_errors(digits_config, tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(digits_config))
    for extra, status in (([], 0), (["student.model=resnet9"], 2)):
        monkeypatch.setattr("sys.argv", ["understudy", "doctor", str(tmp_path / "c.yaml"), *extra, "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        assert (end.value.code or 0) == status
        assert (json.loads(capsys.readouterr().out)["status"] == "error") == (status == 2)


def test_no_answer_comes_again_where_views_are_endless():
    assert expected_hits(240, 2**62) == pytest.approx(0, abs=1e-9)
    assert expected_hits(10, 1) == 0.9
    exact = 1 - 162 * (1 - (161 / 162) ** 240) / 240
    assert expected_hits(240, 162) == pytest.approx(exact, rel=1e-12)
    assert not torch.isnan(torch.tensor(expected_hits(1, 3)))
