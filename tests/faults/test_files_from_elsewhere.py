"""Files from elsewhere: every common form of weights is read, no code in them is run, no path in them is followed."""

import argparse
import hashlib
import io
import json
import os
import pickle
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import understudy as us
from understudy.engine import checkpoint
from understudy.models.weights import read_weights


def png(number):
    """Returns a small picture, encoded."""
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (20 * number % 256, 90, 200)).save(file, "PNG")
    return file.getvalue()


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, planted):
        self.planted = str(planted)

    def __reduce__(self):
        return os.mkdir, (self.planted,)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


FORMS = {
    "model": lambda s: {"model": s},
    "state_dict": lambda s: {"state_dict": s},
    "net": lambda s: {"net": s, "acc": 95.1, "epoch": 199},
    "mdistiller, student": lambda s: {
        "epoch": 240,
        "model": prefixed(s, "module."),
        "optimizer": {},
        "best_acc": 76.1,
    },
    "RepDistiller, teacher": lambda s: {
        "opt": argparse.Namespace(lr=0.05),
        "model": s,
        "best_acc": torch.tensor(79.4),
    },
    "compiled, in data parallel": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
}


@pytest.mark.parametrize("form", FORMS)
def test_foreign_checkpoints_are_read(tmp_path, form):
    net = us.create_model("resnet8", num_classes=5)
    torch.save(FORMS[form](net.state_dict()), tmp_path / "a.pth")
    state = read_weights(tmp_path / "a.pth")
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("model", ["torchvision/resnet18", "timm/resnet10t"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_torchvision_timm_and_hugging_face_are_read(tmp_path, model, suffix):
    """Hugging Face's timm files are safetensors with metadata of their own."""
    if model.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed")
    net, path = us.create_model(model, num_classes=5), tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save(net.state_dict(), path)
    else:
        save_file(net.state_dict(), path, metadata={"format": "pt"})
    other = us.create_model(model, num_classes=5, weights=path)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())


def weights_with_code(path, planted):
    torch.save(
        {"model": us.create_model("cnn_small", 10, in_channels=1).state_dict(), "x": Payload(planted)}, path
    )


def program_with_code(path, planted):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data/sample_inputs/model.pt", pickle.dumps(Payload(planted)))
        archive.writestr("a/models/model.json", "{}")


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.pt", weights_with_code), ("a.safetensors", weights_with_code), ("a.pt2", program_with_code)],
)
@pytest.mark.parametrize("place", ["teacher", "student"])
def test_weights_that_hold_code_are_refused_and_nothing_runs(
    digits_config, cli, table, tmp_path, name, make, place
):
    planted = tmp_path / "planted"
    make(tmp_path / name, planted)
    file = {"model": "cnn_small", "weights": str(tmp_path / name)}
    if name.endswith("pt2"):
        file = {"model": str(tmp_path / name)}
    digits_config[place] = file
    (tmp_path / "c.yaml").write_text(json.dumps(digits_config))
    answer = cli("distill", tmp_path / "c.yaml", "-q")
    assert answer.status == 2
    assert answer.is_one_line
    assert not planted.exists()
    assert not (tmp_path / "run").exists()
    if (name, place) == ("a.pt2", "student"):
        table(
            "weights or a program that hold code, as teacher and as student",
            6,
            "refused, exit 2; nothing ran",
        )


@pytest.mark.parametrize("name", ["last", "previous"])
def test_a_checkpoint_that_holds_code_is_refused_and_nothing_runs(digits_config, cli, table, tmp_path, name):
    """With a digest that fits, too: whoever writes such a file can compute one."""
    us.distill(digits_config, quiet=True)
    run, planted = tmp_path / "run", tmp_path / "planted"
    (run / "result.json").unlink()
    archive = pickle.dumps({"format": 1, "epoch": 1, "x": Payload(planted)}, protocol=2)
    digest = hashlib.sha256(archive).hexdigest().encode()
    (run / "checkpoints" / f"{name}.pt").write_bytes(archive + checkpoint._MARK + digest)
    answer = cli("resume", run, "-q", *(["--previous"] if name == "previous" else []))
    assert answer.status == 2
    assert answer.is_one_line
    assert not planted.exists()
    if name == "previous":
        table("checkpoint that holds code, its digest right", 2, "refused, exit 2; nothing ran")


def test_the_payload_is_live(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "planted")))
    assert (tmp_path / "planted").exists()


def parquet(path, rows, names):
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    data = pa.table({"image": rows, "label": [0, 1] * (len(rows) // 2)})
    pq.write_table(data.replace_schema_metadata({"huggingface": json.dumps(features)}), path)


def parquet_config(tmp_path):
    job = {
        "data": {
            "name": "parquet",
            "train": str(tmp_path / "a.parquet"),
            "test": str(tmp_path / "b.parquet"),
        },
        "student": {"model": "cnn_tiny"},
        "train": {"epochs": 1, "batch_size": 4, "threads": 1, "device": "cpu"},
        "output": str(tmp_path / "deep" / "er" / "run"),
    }
    (tmp_path / "c.yaml").write_text(json.dumps(job))
    return tmp_path / "c.yaml"


def test_a_path_in_a_data_set_is_not_followed(cli, table, tmp_path):
    """The path beside an image's bytes is a name for messages; without bytes nothing is read in its place."""
    (tmp_path / "secret.png").write_bytes(png(0))
    for names in ("a", "b"):
        rows = [{"bytes": png(i), "path": "../../secret.png"} for i in range(7)]
        parquet(
            tmp_path / f"{names}.parquet",
            [*rows, {"bytes": None, "path": str(tmp_path / "secret.png")}],
            ["x", "y"],
        )
    answer = cli("train", parquet_config(tmp_path), "-q")
    assert answer.status == 2
    assert answer.is_one_line
    assert "row 7 must hold the bytes of an image" in answer.said
    table("path to another file in a parquet file", 1, "not followed; refused, exit 2")


def test_class_names_that_are_paths_or_code_stay_names(table, tmp_path):
    """They are shown, in the page escaped, and lead nowhere."""
    evil = ["../../../escaped", "<script>alert(1)</script>"]
    for i, name in enumerate("ab"):
        parquet(tmp_path / f"{name}.parquet", [{"bytes": png(i + j), "path": None} for j in range(8)], evil)
    config = parquet_config(tmp_path)
    before = {p for p in tmp_path.rglob("*") if "deep" not in p.parts}
    run = us.train(config, quiet=True)
    us.export(run.path, ("safetensors",), quiet=True)
    after = {p for p in tmp_path.rglob("*") if "deep" not in p.parts}
    assert after == before
    assert not list(tmp_path.parent.glob("escaped*"))
    page = (run.path / "report.html").read_text()
    assert "<script>alert(1)" not in page
    table("class names that are paths or HTML", 2, "shown, escaped; nothing outside the run folder")


@pytest.mark.parametrize("name", ["../../escaped", "/tmp", "a/../../b", ".."])
def test_an_arm_of_a_study_is_a_name(digits_config, tmp_path, name):
    plan = {"methods": [{"name": name, "losses": [{"name": "ce"}]}], "seeds": [0]}
    with pytest.raises(ValueError, match=r"a name without slashes"):
        us.study(digits_config | {"study": plan}, quiet=True)


@pytest.mark.parametrize("name", ["../other", "/etc"])
def test_a_study_page_reads_no_folder_outside(tmp_path, name):
    from understudy.report import write_study_report

    outside = tmp_path / "other"
    outside.mkdir()
    (outside / "metrics.jsonl").write_text('{"epoch": 1, "train/loss": 12345.678}\n')
    folder = tmp_path / "study"
    folder.mkdir()
    arms = [{"name": "a", "model": "m", "runs": [{"seed": 0, "path": name, "test/acc1": 1.0}]}]
    (folder / "study.json").write_text(
        json.dumps({"format": 1, "metric": "test/acc1", "arms": arms, "verdicts": []})
    )
    assert "12345" not in write_study_report(folder).read_text()
