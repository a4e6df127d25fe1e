"""The command line as a person meets it: verbs, one clear line for bad input, exit status."""

import io
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import understudy as us
from understudy.cli import COMMANDS, main


@pytest.fixture
def understudy(monkeypatch, capsys):
    """Runs the command line in this process; returns (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def config(tmp_path, digits_config):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(digits_config))
    return path


def png(value=0, size=8):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path, images, labels):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(images)], struct)
    pq.write_table(pa.table({"image": column, "label": pa.array(labels, pa.int64())}), path)
    return path


def parquet_config(tmp_path, images, labels):
    train = parquet(tmp_path / "train.parquet", images, labels)
    test = parquet(tmp_path / "test.parquet", [png(9), png(200)], [0, 1])
    path = tmp_path / "p.yaml"
    values = {
        "data": {"name": "parquet", "train": str(train), "test": str(test)},
        "student": {"model": "cnn_tiny"},
        "train": {"epochs": 1, "batch_size": 4},
        "output": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_every_verb_explains_itself(understudy):
    status, out, _ = understudy("--help")
    assert status == 0
    for verb in COMMANDS:
        assert verb in out
        assert understudy(verb, "--help")[0] == 0


def test_train_distill_evaluate_predict_and_report_in_a_row(understudy, config, tmp_path):
    assert understudy("train", config, "student.model=cnn_small", f"output={tmp_path}/teacher", "-q")[0] == 0
    weights = tmp_path / "teacher" / "student.safetensors"
    status, out, err = understudy("distill", config, f"teacher.weights={weights}")
    assert (status, err) == (0, "")
    assert out.count("epoch") >= 3
    assert "test top-1" in out
    status, out, _ = understudy("evaluate", tmp_path / "run")
    assert status == 0
    assert "agreement" in out
    image = tmp_path / "one.png"
    Image.fromarray(np.zeros((20, 14), dtype=np.uint8)).save(image)
    status, out, _ = understudy("predict", tmp_path / "run", image, "--json", "--top", "2")
    answer = json.loads(out)
    assert len(answer["classes"]) == 2
    assert 0 < answer["probabilities"][1] <= answer["probabilities"][0] <= 1
    assert understudy("report", tmp_path / "run", "--alone", tmp_path / "teacher")[0] == 0


@pytest.mark.parametrize("what", ["methods", "presets", "models", "data"])
def test_list_names_everything_there_is(understudy, what):
    from understudy import DATASETS, METHODS, MODELS, PRESETS

    status, out, _ = understudy("list", what)
    assert status == 0
    text = out.replace("\n", "")
    expected = {"methods": METHODS, "presets": PRESETS, "models": MODELS, "data": DATASETS}[what]
    assert all(name in text for name in expected)


def test_init_writes_a_config_that_is_valid(understudy, tmp_path):
    path = tmp_path / "mine.yaml"
    status, _, _ = understudy(
        "init", path, "--data", "digits", "--teacher", "cnn_small", "--student", "cnn_tiny"
    )
    assert status == 0
    assert "understudy distill" in path.read_text()
    status, _, err = understudy("init", path)
    assert status == 2
    assert "must not overwrite" in err


def refused(result, *words):
    status, _, err = result
    assert status == 2, err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


def test_wrong_names_and_keys_are_one_line_with_the_nearest(understudy, config):
    refused(understudy("distill", config, "train.epoch=3"), "epochs")
    refused(understudy("distill", config, "student.model=resnet8x5"), "resnet8x4")
    refused(understudy("distill", config, "losses=[{name: dhkdd}]"), "dhkd")
    refused(understudy("distill", config, "data.name=cifar"), "cifar10")
    refused(understudy("distill", config, "method=kd"), "both")
    refused(understudy("list", "modells"), "models")
    refused(understudy("distill", "nothing.yaml"), "nothing.yaml", "init")
    refused(understudy("distill", config, "teacher=null"), "teacher")
    refused(understudy("distill", config, "train.device=cuda:99"), "train.device")
    refused(
        understudy("distill", config, "train.device=gpu"),
        "got 'gpu' (no kind of device)",
        "Use auto, cpu, cuda",
    )
    refused(understudy("distill", config, "train.device=mps"), "train.device", "'mps'")
    refused(understudy("distill", config, "teacher.weights=no/such.safetensors"), "no/such.safetensors")


def test_the_environment_asks_for_the_traceback_of_an_error_of_one_line(understudy, config, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_TRACEBACK", "1")
    status, _, said = understudy("distill", config, "data.name=cifar")
    assert status == 2
    assert said.startswith("Traceback (most recent call last)")
    assert "cifar10" in said.splitlines()[-1]
    monkeypatch.setenv("UNDERSTUDY_TRACEBACK", "0")
    refused(understudy("distill", config, "data.name=cifar"), "cifar10")


@pytest.mark.parametrize(
    "words",
    [
        ("study", "c.yaml", "workers=2"),
        ("tune", "c.yaml", "auto=true"),
        ("evaluate", "run", "corruptions=true"),
        ("analyze", "run", "out=here"),
        ("train", "c.yaml", "quiet=true"),
        ("table", "fill", "c.yaml", "quiet=true"),
    ],
)
def test_an_option_without_its_dashes_is_one_line(understudy, words):
    refused(understudy(*words), words[-1].partition("=")[0] + "= must be a key of the config", "dashes")


def test_a_run_that_was_stopped_has_a_page(understudy, config, tmp_path):
    assert understudy("train", config, "train.epochs=1", "-q")[0] == 0
    (tmp_path / "run" / "result.json").unlink()
    status, out, _ = understudy("report", tmp_path / "run")
    assert status == 0
    assert "Not finished" in Path(out.strip()).read_text()


def test_random_weights_are_pointed_out_when_they_are_measured(understudy, config):
    status, out, _ = understudy("evaluate", config)
    assert status == 0
    assert "note: student has no weights and answers at random; set student.weights" in out
    assert "note: teacher has no weights" in out


def test_folders_that_do_not_fit_are_one_line(understudy, config, tmp_path):
    refused(understudy("resume", tmp_path), "config.yaml")
    refused(understudy("evaluate", tmp_path), "finished run")
    refused(understudy("predict", tmp_path, "x.png"), "finished run")
    refused(understudy("report", tmp_path), "a run or a study")
    assert understudy("train", config, "train.epochs=1", "-q")[0] == 0
    refused(understudy("train", config, "train.epochs=1"), "finished run")
    refused(understudy("train", config, "train.epochs=2"), "train.epochs")
    refused(understudy("predict", tmp_path / "run", config), "cannot be read")
    refused(understudy("train", config, f"output={config}/run"), "Not a directory", "Check the path")


def test_predict_takes_folders_and_names_what_is_wrong_with_one(understudy, config, tmp_path):
    assert understudy("train", config, "train.epochs=1", "-q")[0] == 0
    run, photos = tmp_path / "run", tmp_path / "my photos"
    refused(understudy("predict", run, tmp_path / "none.png"), "none.png", "cannot be read")
    (photos / "2024" / ".trash").mkdir(parents=True)
    refused(understudy("predict", run, photos), "my photos", "which has none")
    for name in ("b.PNG", "a.png", "2024/c.jpg", "2024/.trash/d.png"):
        Image.new("RGB", (9, 8)).save(photos / name)
    (photos / "notes.txt").write_text("no image")
    status, out, _ = understudy("predict", run, photos, "--json")
    assert status == 0
    named = [Path(json.loads(line)["path"]).relative_to(photos) for line in out.splitlines()]
    assert [str(path) for path in named] == ["2024/c.jpg", "a.png", "b.PNG"]
    assert [a.path for a in us.predict(run, [photos / "a.png"])] == [str(photos / "a.png")]


def test_a_study_is_answered_with_one_of_its_runs(understudy, tmp_path):
    (tmp_path / "kd" / "seed-0").mkdir(parents=True)
    (tmp_path / "kd" / "seed-0" / "student.safetensors").touch()
    (tmp_path / "study.json").touch()
    refused(understudy("predict", tmp_path, "a.png"), "Name one of them", f"{tmp_path}/kd/seed-0")


def test_class_counts_that_differ_under_a_logit_method_are_named(understudy, config, tmp_path, monkeypatch):
    (tmp_path / "mymodels.py").write_text(
        "import understudy\ndef seven(num_classes, in_channels=1):\n"
        "    return understudy.create_model('cnn_small', 7, in_channels=in_channels)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    refused(understudy("distill", config, "teacher.model=mymodels:seven"), "10 and 7")


def test_a_corrupt_image_is_named_and_nothing_is_half_written(understudy, tmp_path):
    path = parquet_config(tmp_path, [png(1), png(2)[:40], png(3), png(4)], [0, 1, 0, 1])
    refused(understudy("train", path), "train.parquet", "1.png")
    assert not (tmp_path / "run").exists()


def test_a_label_out_of_range_is_named(understudy, tmp_path):
    refused(understudy("train", parquet_config(tmp_path, [png(1), png(2)], [0, -3])), "-3")


def test_an_empty_data_set_is_refused(understudy, tmp_path):
    refused(understudy("train", parquet_config(tmp_path, [], [])), "train.parquet")


@pytest.fixture
def folder(tmp_path):
    """Images as people have them, a folder a class, and a config that trains on them for an epoch."""
    for part, label in product(("train", "test"), ("cat", "dog")):
        (tmp_path / "images" / part / label).mkdir(parents=True)
        for k in range(4):
            (tmp_path / "images" / part / label / f"{k}.png").write_bytes(png(40 * k, size=16))
    config = {
        "data": {"name": "imagefolder", "train": "images/train", "test": "images/test"},
        "student": {"model": "cnn_tiny"},
        "train": {"epochs": 1, "batch_size": 4, "device": "cpu", "threads": 1},
        "output": "run",
    }
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "images"


@pytest.fixture
def at_folder(understudy, folder, monkeypatch):
    """Runs a verb on that config, where it lies."""
    monkeypatch.chdir(folder.parent)
    return lambda verb, *changes: understudy(verb, "f.yaml", *changes)


def nothing_is_begun(folder):
    return not (folder.parent / "run").exists()


def test_a_folder_without_classes_or_with_one_is_refused(at_folder, folder):
    (folder / "empty").mkdir()
    refused(at_folder("train", "data.train=images/empty"), "images/empty", "one folder a class")
    (folder / "only" / "cat").mkdir(parents=True)
    (folder / "only" / "cat" / "a.png").write_bytes(png())
    refused(at_folder("train", "data.train=images/only", "data.test=null"), "two classes or more", "'cat'")
    assert nothing_is_begun(folder)


@pytest.mark.parametrize("name", ["moving.png", "moving.webp"])
def test_an_animated_image_is_named(at_folder, folder, name):
    frames = [Image.new("RGB", (16, 16), (k, 0, 0)) for k in (0, 255)]
    frames[0].save(folder / "train" / "dog" / name, save_all=True, append_images=frames[1:])
    refused(at_folder("train"), name, "an animation of 2 frames")
    assert nothing_is_begun(folder)


@pytest.mark.parametrize("content", [b"", b"no image", png(size=16)[:40]])
def test_an_unreadable_image_is_named(at_folder, folder, content):
    (folder / "train" / "dog" / "broken.png").write_bytes(content)
    refused(at_folder("train"), "broken.png")
    assert nothing_is_begun(folder)


def test_16_bit_and_grey_images_work(at_folder, folder):
    Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16)).save(folder / "train" / "cat" / "deep.png")
    Image.new("L", (16, 16), 90).save(folder / "test" / "dog" / "grey.png")
    status, _, err = at_folder("train", "-q")
    assert (status, err) == (0, "")
    deep, grey = folder / "train" / "cat" / "deep.png", folder / "test" / "dog" / "grey.png"
    status, out, err = at_folder("evaluate", "student.weights=run/student.safetensors", "--json")
    assert (status, err) == (0, "")
    assert deep.exists()
    assert grey.exists()
    assert 0 <= json.loads(out)["test/acc1"] <= 100


def test_a_class_that_the_map_forgets_is_named(at_folder, folder):
    teacher = "teacher={model: cnn_small, classes: {map: {cat: [0, 3]}, count: 5}}"
    refused(at_folder("distill", teacher, "method=kd"), "teacher.classes.map", "'dog'")
    assert nothing_is_begun(folder)


@pytest.mark.parametrize(
    ("package", "changes", "words"),
    [
        ("transformers", ["student={model: hf/nobody/no-such, pretrained: true}"], ["hf/nobody/no-such"]),
        ("timm", ["student={model: timm/resnet18, pretrained: true}"], ["timm/resnet18"]),
        ("datasets", ["data={name: hf, root: nobody/no-such, download: true}"], ["nobody/no-such"]),
        (
            "torchvision",
            ["student={model: torchvision/resnet18, pretrained: true}"],
            ["torchvision/resnet18"],
        ),
    ],
)
def test_a_hub_name_while_offline_is_one_line(
    at_folder, folder, monkeypatch, tmp_path, package, changes, words
):
    pytest.importorskip(package, reason=f"{package} is not installed")

    def offline(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.socket.connect", offline)
    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    if package != "torchvision":
        monkeypatch.setattr(
            "huggingface_hub.constants.HF_HUB_OFFLINE", True
        )  # or its client tries for half a minute
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    refused(at_folder("train", *changes), *words)
    assert nothing_is_begun(folder)


def test_an_onnx_teacher_under_a_feature_method_is_refused(at_folder, folder):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra onnx)")
    assert at_folder("train", "-q")[0] == 0
    export = Path("run/export/model.onnx")
    us.export("run", ["onnx"], quiet=True)
    teacher = f"teacher={{model: {export}}}"
    message = at_folder("distill", teacher, "losses=[{name: ce}, {name: fitnet}]", "output=other")
    refused(message, "fitnet", "OnnxNetwork, which shows its logits only")
    assert not Path("other").exists()
    assert at_folder("distill", teacher, "method=kd", "output=other", "-q")[0] == 0


def test_an_operator_that_onnx_lacks_is_named_on_export(understudy, at_folder, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra onnx)")
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "exports"))
    assert at_folder("train", "student.model=odd_networks:Bessel", "data.image_size=8", "-q")[0] == 0
    refused(understudy("export", "run", "--to", "onnx", "-q"), "bessel_j0", "operators that ONNX has")


def test_a_full_disk_is_one_line_and_keeps_the_last_good_checkpoint(
    understudy, config, tmp_path, monkeypatch
):
    from understudy.engine import loop

    save, calls = loop.save_checkpoint, []

    def full(path, state):
        calls.append(Path(path).name)
        if calls.count("last.pt") == 2 and calls[-1] == "last.pt":
            raise OSError(28, "No space left on device")
        save(path, state)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    refused(understudy("distill", config, "-q"), "No space left")
    monkeypatch.setattr(loop, "save_checkpoint", save)
    assert understudy("resume", tmp_path / "run", "-q")[0] == 0


def test_a_factory_in_the_current_folder_is_found(tmp_path):
    (tmp_path / "my_nets.py").write_text(
        "import understudy as us\ndef tiny(num_classes, in_channels):\n"
        "    return us.create_model('cnn_tiny', num_classes, in_channels=in_channels)\n"
    )
    given = [
        "train.epochs=1",
        "data.limit=64",
        "train.device=cpu",
        "student.model=my_nets:tiny",
        "output=run",
    ]
    (tmp_path / "c.yaml").write_text("data: {name: digits}\nstudent: {model: cnn_tiny}\n")
    command = [sys.executable, "-P", "-c", "from understudy.cli import main; main()"]
    if sys.version_info < (3, 11):
        command.remove("-P")
    done = subprocess.run(
        [*command, "train", "c.yaml", *given], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
