"""The command line as a person meets it: verbs, one clear line for bad input, exit status."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

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
    refused(understudy("distill", config, "train.device=mps"), "train.device", "'mps'")
    refused(understudy("distill", config, "teacher.weights=no/such.safetensors"), "no/such.safetensors")


def test_folders_that_do_not_fit_are_one_line(understudy, config, tmp_path):
    refused(understudy("resume", tmp_path), "config.yaml")
    refused(understudy("evaluate", tmp_path), "finished run")
    refused(understudy("predict", tmp_path, "x.png"), "finished run")
    refused(understudy("report", tmp_path), "finished run or study")
    assert understudy("train", config, "train.epochs=1", "-q")[0] == 0
    refused(understudy("train", config, "train.epochs=1"), "finished run")
    refused(understudy("train", config, "train.epochs=2"), "train.epochs")
    refused(understudy("predict", tmp_path / "run", config), "cannot be read")


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
