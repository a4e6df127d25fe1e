"""A finished run -> files that answer as it does, and figures that are true of them."""

import json
import os
import shutil
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import understudy as us
from understudy.data import load
from understudy.data.normalisation import normalise
from understudy.exports import FILES, FORMATS, export
from understudy.exports.int8 import calibration_set
from understudy.models.onnx import load_onnx
from understudy.models.program import load_program


@pytest.fixture(scope="module")
def exported(digits_run):
    return export(digits_run.path, quiet=True)


@pytest.fixture(scope="module")
def images(digits_run):
    """All 500 test images, normalised."""
    data = load("digits")
    return normalise(data.test.images, torch.tensor(data.mean), torch.tensor(data.std))


@pytest.fixture
def copy_of_run(digits_run, tmp_path):
    """A run folder that a test may spoil."""
    return Path(shutil.copytree(digits_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("export")))


def logits(module, images):
    with torch.no_grad():
        return module(images)


def test_everything_asked_for_is_written_into_the_run_and_nothing_else(digits_run, exported):
    assert exported.folder == digits_run.path / "export"
    written = {path.name for path in exported.folder.iterdir()}
    assert written == {*FILES.values(), "export.json", "README.md"}
    assert exported.files == {kind: exported.folder / name for kind, name in FILES.items()}
    assert json.loads((exported.folder / "export.json").read_text()) == exported.report


def test_onnx_answers_as_pytorch_on_every_test_image_and_the_report_says_how_nearly(
    digits_run, exported, images
):
    ours = logits(digits_run.student, images)
    theirs = load_onnx(exported.files["onnx"])(images)
    figures = exported.report["onnx"]
    assert figures["images"] == len(images) == 500
    assert figures["split"] == "test"
    direct = float((ours - theirs).abs().max())  # in other batches: rounding, and rounded otherwise
    assert direct / 10 <= figures["max_difference"] <= 10 * direct + 1e-6
    assert figures["max_difference"] < 1e-4
    assert figures["agreement"] == 100.0
    assert figures["acc1"] == digits_run.metrics["last"]["test/acc1"]


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("kind", ["pt2", "onnx", "int8"])
def test_any_number_of_images_at_once_gives_each_the_same_logits(exported, images, kind, batch):
    network = (load_program if kind == "pt2" else load_onnx)(exported.files[kind])
    alone = torch.cat([logits(network, image[None]) for image in images[:batch]])
    torch.testing.assert_close(logits(network, images[:batch]), alone, rtol=1e-4, atol=1e-4)


def test_the_program_is_read_by_torch_itself_too(digits_run, exported, images):
    program = torch.export.load(exported.files["pt2"]).module()
    torch.testing.assert_close(logits(program, images), logits(digits_run.student, images))


def test_the_weights_are_the_runs_own_and_predict_takes_them(digits_run, exported):
    assert (
        exported.files["safetensors"].read_bytes() == (digits_run.path / "student.safetensors").read_bytes()
    )
    assert us.create_model(
        "cnn_tiny", 10, in_channels=1, weights=exported.files["safetensors"]
    )  # nothing but the student's tensors


@pytest.mark.parametrize("kind", ["onnx", "int8"])
def test_onnx_states_its_opset_and_what_it_is(digits_run, exported, kind):
    model = onnx.load(exported.files[kind])
    assert [(o.domain, o.version) for o in model.opset_import if o.domain == ""] == [("", 18)]
    about = {item.key: item.value for item in model.metadata_props}
    with safe_open(digits_run.path / "student.safetensors", framework="pt") as file:
        assert about == {
            key: json.dumps(json.loads(v)) if key != "model" else v for key, v in file.metadata().items()
        }
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert images.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_files_say_nothing_of_the_machine_they_were_made_on(exported):
    for path in exported.files.values():
        content = path.read_bytes()
        for folder in (str(Path(us.__file__).parent), str(Path(torch.__file__).parent), str(exported.folder)):
            assert folder.encode() not in content, path.name


def test_int8_keeps_the_accuracy_and_shrinks_the_file(exported):
    figures = exported.report["int8"]
    assert figures["acc1_before"] == exported.report["onnx"]["acc1"]
    assert figures["acc1_after"] >= figures["acc1_before"] - 2.0
    assert figures["bytes"] < 0.7 * exported.report["onnx"]["bytes"]
    assert figures["calibration"] == {"split": "train", "images": 512}


def test_int8_accuracy_is_that_of_the_file(exported, images):
    right = load_onnx(exported.files["int8"])(images).argmax(1) == load("digits").test.targets
    assert exported.report["int8"]["acc1_after"] == pytest.approx(100 * right.float().mean().item())


def test_int8_weights_are_quantised_per_channel_and_activations_with_them(exported):
    model = onnx.load(exported.files["int8"])
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    scales = {tuple(t.dims) for t in model.graph.initializer if t.name.endswith("weight_scale")}
    assert len(weights) == 5  # four convolutions and the head
    assert all(len(dims) == 1 and dims[0] > 1 for dims in scales)
    kinds = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" in kinds
    assert "DequantizeLinear" in kinds


def test_calibration_images_come_from_train_alone(exported):
    data = load("digits")
    chosen = calibration_set(data.train)
    assert torch.equal(chosen.images, data.train.images[chosen.index])
    assert chosen.targets.bincount().min() >= 48  # every class in proportion


def test_table_has_all_rows_with_both_batch_sizes(digits_run, exported):
    table = exported.report["table"]
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == ["teacher", "student", "student-int8"]
    for row in rows.values():
        assert set(row["ms"]) == {"1", "32"}
        assert 0 < row["ms"]["1"] < row["ms"]["32"] < 1000
    assert rows["teacher"]["test_acc1"] == digits_run.metrics["teacher"]["test/acc1"]
    assert rows["student"]["parameters"] == 5618
    assert rows["student"]["bytes"] == exported.files["onnx"].stat().st_size
    assert rows["student-int8"]["bytes"] == exported.files["int8"].stat().st_size
    assert table["threads"] == 1


def test_the_card_holds_the_figures_the_classes_and_how_to_load_each_file(digits_run, exported):
    card = (exported.folder / "README.md").read_text()
    last = digits_run.metrics["last"]
    for text in (
        f"Test top-1 {last['test/acc1']:.2f}%", "on 500 test images", "Distilled from `cnn_small` (26,394 parameters)",
        "## Licence", "| student-int8 |", *FILES.values(),
    ):  # fmt: skip
        assert text in card, text


def test_only_what_is_asked_for_is_made_and_needs_no_data(copy_of_run, tmp_path):
    config = yaml.safe_load((copy_of_run / "config.yaml").read_text())
    config["data"] |= {"name": "imagefolder", "train": str(tmp_path / "gone")}
    (copy_of_run / "config.yaml").write_text(yaml.safe_dump(config))
    done = export(copy_of_run, ["safetensors", "pt2"], tmp_path / "out", quiet=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "model.pt2", "export.json", "README.md"}
    assert "table" not in done.report
    assert not (copy_of_run / "export").exists()
    with pytest.raises(ValueError, match="gone"):
        export(copy_of_run, "onnx", tmp_path / "out", quiet=True)


def test_a_teacher_that_is_gone_costs_its_row_and_no_more(copy_of_run, tmp_path):
    config = yaml.safe_load((copy_of_run / "config.yaml").read_text())
    config["teacher"]["weights"] = str(tmp_path / "gone.safetensors")
    (copy_of_run / "config.yaml").write_text(yaml.safe_dump(config))
    done = export(copy_of_run, ["onnx"], quiet=True)
    assert [row["name"] for row in done.report["table"]["rows"]] == ["student"]
    assert "gone.safetensors" in done.report["notes"][0]


def test_a_run_that_is_not_finished_is_refused_in_one_line(copy_of_run):
    result = json.loads((copy_of_run / "result.json").read_text())
    for status in ("unfinished", "diverged"):
        (copy_of_run / "result.json").write_text(json.dumps(result | {"status": status}))
        refused(
            copy_of_run, match=f"must be given a finished run, got .* which is {status}. .*understudy resume"
        )
    (copy_of_run / "result.json").unlink()
    refused(copy_of_run, match="which is unfinished")
    assert not (copy_of_run / "export").exists()


def refused(run, match, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        export(run, **{"formats": FORMATS, "quiet": True, **kwargs})
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    refused(tmp_path, match=r"must be given a run folder, got .* without a config.yaml")


def test_wrong_formats_and_places_are_refused(digits_run, tmp_path):
    refused(digits_run.path, formats=["onxn"], match="Did you mean 'onnx'")
    refused(digits_run.path, formats=[], match="must name at least one")
    (tmp_path / "file").touch()
    refused(digits_run.path, out=tmp_path / "file", match="out must be a folder")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_one_line_says_what_to_install_and_nothing_is_written(
    digits_run, tmp_path, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    refused(
        digits_run.path, out=tmp_path / "out", match=rf"must have {package} installed, got none.*'\.\[onnx\]'"
    )
    assert not (tmp_path / "out").exists()
    export(digits_run.path, ["safetensors", "pt2"], tmp_path / "out", quiet=True)


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """Trains one of the odd networks for an epoch."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def run(name, **data):
        config = {
            "data": {"name": "digits", "limit": 40, **data},
            "student": {"model": f"odd_networks:{name}"},
            "train": {"epochs": 1, "batch_size": 2, "eval_batch_size": 2, "device": "cpu", "threads": 1},
            "output": str(tmp_path / "other"),
        }
        return us.train(config, quiet=True).path

    return run


def test_an_operator_that_onnx_lacks_is_named(run_of):
    run = run_of("Bessel")
    refused(run, match=r"odd_networks:Bessel must be made of operators that ONNX has, got \w+::bessel_j0\.")
    assert (run / "export" / "model.pt2").exists()
    assert not (run / "export" / "model.onnx").exists()


@pytest.mark.parametrize(("name", "why"), [("Fixed", "batch"), ("Branching", "data-dependent")])
def test_a_network_that_torch_cannot_follow_is_refused_in_one_line(run_of, name, why, capfd):
    refused(
        run_of(name), match=rf"odd_networks:{name} must be a network that torch\.export can follow.*{why}"
    )


def test_a_file_that_answers_otherwise_is_not_written(digits_run, tmp_path, monkeypatch):
    import understudy.exports.onnx as module

    monkeypatch.setattr(module, "TOLERANCE", 0.0)
    refused(
        digits_run.path,
        out=tmp_path,
        formats=["onnx"],
        match="must give the logits of PyTorch, got a difference",
    )
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_files_of_somebodys_are_not_replaced(copy_of_run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"which has a {name} of its own"):
        export(copy_of_run, ["safetensors"], tmp_path, quiet=True)
    assert (tmp_path / name).read_text() == "mine"
    done = export(copy_of_run, ["safetensors"], tmp_path / "new", quiet=True)
    assert export(copy_of_run, ["safetensors"], tmp_path / "new", quiet=True).report == done.report


def test_a_failing_disk_leaves_the_earlier_file_whole(copy_of_run, monkeypatch):
    first = export(copy_of_run, ["pt2"], quiet=True).files["pt2"]
    before = first.read_bytes()

    def fails(program, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch.export, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        export(copy_of_run, ["pt2"], quiet=True)
    assert first.read_bytes() == before
    assert {p.name for p in first.parent.iterdir()} == {"model.pt2", "export.json", "README.md"}


HOSTILE = ["\"'`<b>", "```\n# Heading", "cat 猫\u202e", "{file}", "| a | b |", os.fsdecode(b"no utf-8 \xff")]


def test_hostile_class_names_survive_in_metadata_and_stay_in_their_place_in_the_card(tmp_path):
    for number, name in enumerate(HOSTILE):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(4):
            pixels = torch.full((8, 8), 40 * number + i, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{i}.png")
    config = {
        "data": {"name": "imagefolder", "train": str(tmp_path / "train")},
        "student": {"model": "cnn_tiny"},
        "train": {"epochs": 1, "batch_size": 8, "device": "cpu", "threads": 1},
        "output": str(tmp_path / "run"),
    }
    done = export(us.train(config, quiet=True).path, quiet=True)
    for kind in ("onnx", "int8"):
        about = onnxruntime.InferenceSession(done.files[kind]).get_modelmeta().custom_metadata_map
        assert json.loads(about["classes"]) == sorted(HOSTILE)
    card = (done.folder / "README.md").read_text()
    block = card.partition("## Classes\n\n```json\n")[2].partition("\n```\n")[0]
    assert json.loads(block) == sorted(HOSTILE)
    assert "\n# Heading" not in card
    assert done.report["onnx"]["split"] == "train"  # there are neither test nor held-out images
    assert [row["test_acc1"] for row in done.report["table"]["rows"]] == [None, None]


def test_a_student_with_its_teachers_classifier_is_exported_whole(digits_run, tmp_path, images):
    changes = {
        "losses": [{"name": "simkd"}],
        "data.limit": 100,
        "train.epochs": 1,
        "output": str(tmp_path / "simkd"),
    }
    run = us.distill(digits_run.config, quiet=True, **changes)
    done = export(run.path, ["safetensors", "pt2", "onnx"], quiet=True)
    torch.testing.assert_close(logits(load_program(done.files["pt2"]), images), logits(run.student, images))
    assert done.report["onnx"]["acc1"] == run.metrics["last"]["test/acc1"]
    assert "us.predict" not in (done.folder / "README.md").read_text()


def test_an_export_says_what_it_found_and_can_be_told_to_be_quiet(digits_run, tmp_path, capsys):
    export(digits_run.path, ["onnx"], tmp_path)
    said = capsys.readouterr().out
    for text in (
        "model.onnx",
        "opset 18; on 500 test images",
        "same class on 100.00%",
        "teacher",
        "README.md",
    ):
        assert text in said
    export(digits_run.path, ["safetensors"], tmp_path, quiet=True)
    assert capsys.readouterr().out == ""
