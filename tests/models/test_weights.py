"""Weights from files: every accepted form, every refusal, and no code run."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from understudy.models import create_model
from understudy.models.weights import load_weights, read_weights


@pytest.fixture
def net():
    torch.manual_seed(0)
    return create_model("cnn_tiny", num_classes=4)


def fresh():
    torch.manual_seed(1)
    return create_model("cnn_tiny", num_classes=4)


def assert_same(net, other):
    assert net.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


FORMS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 240, "optimizer": {"state": {}, "lr": 0.1}},
    "state_dict": lambda state: {"state_dict": state, "best_acc": torch.tensor(76.5)},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.3},
    "Lightning": lambda state: {"state_dict": prefixed(state, "model."), "hyper_parameters": {"lr": 0.1}},
    "data parallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled in data parallel": lambda state: prefixed(state, "module._orig_mod."),
    "data parallel, compiled": lambda state: prefixed(state, "_orig_mod.module."),
    "part compiled": lambda state: {
        key.replace("stage1.", "stage1._orig_mod."): v for key, v in state.items()
    },
    "with options": lambda state: {"opt": argparse.Namespace(lr=0.05, decay=[150, 180]), "model": state},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_loads_in_every_accepted_form(net, tmp_path, form, zipped):
    torch.save(FORMS[form](net.state_dict()), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    other = fresh()
    load_weights(other, tmp_path / "a.pt")
    assert_same(net, other)


def test_safetensors_load_by_create_model(net, tmp_path):
    safetensors.torch.save_file(net.state_dict(), tmp_path / "a.safetensors")
    other = create_model("cnn_tiny", num_classes=4, weights=tmp_path / "a.safetensors")
    assert_same(net, other)


def test_home_folder_may_be_written_as_tilde(net, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    assert read_weights("~/a.pt").keys() == net.state_dict().keys()


class Payload:
    """A pickle that runs a command when it is opened."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def torch_zip(value, path):
    torch.save(value, path)


def torch_legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def plain_pickle(value, path):
    Path(path).write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [torch_zip, torch_legacy, plain_pickle])
@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.safetensors"])
def test_pickle_that_would_run_code_is_refused_and_runs_nothing(net, tmp_path, save, name):
    planted = tmp_path / "planted"
    save({"model": net.state_dict(), "extra": Payload(f"touch {planted}")}, tmp_path / name)
    expected = "asks for .*system; nothing was run"
    if name == "a.safetensors":
        expected = "must be a whole safetensors file"
    elif save is plain_pickle:
        expected = r"must be a file of safetensors or torch\.save, got .* \(no checkpoint\)"
    with pytest.raises(ValueError, match=expected) as caught:
        load_weights(fresh(), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not planted.exists()


def test_payload_of_the_refusal_test_is_live(tmp_path):
    planted = tmp_path / "planted"
    pickle.loads(pickle.dumps(Payload(f"touch {planted}")))
    assert planted.exists()


def test_whole_pickled_network_is_refused(net, tmp_path):
    torch.save(net, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"asks for understudy\.models\.small\.CNN"):
        read_weights(tmp_path / "a.pt")


def refused(net, path, match):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(net, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_wrong_shape_names_the_first_tensor_both_shapes_and_the_rest(net, tmp_path):
    torch.save(create_model("cnn_tiny", num_classes=9).state_dict(), tmp_path / "a.pt")
    refused(
        net,
        tmp_path / "a.pt",
        r"fc\.weight with shape \(9, 24\) in the file and \(4, 24\) in the model and 1 other\.",
    )


def test_missing_tensor_is_named_with_the_shape_it_should_have(net, tmp_path):
    state = net.state_dict()
    del state["fc.bias"]
    torch.save(state, tmp_path / "a.pt")
    refused(
        fresh(), tmp_path / "a.pt", r"fc\.bias with shape none in the file and \(4,\) in the model\. Check"
    )


def test_unexpected_tensor_is_named_with_the_shape_it_has(net, tmp_path):
    torch.save({**net.state_dict(), "head.weight": torch.zeros(2, 3)}, tmp_path / "a.pt")
    refused(
        fresh(),
        tmp_path / "a.pt",
        r"head\.weight with shape \(2, 3\) in the file and none in the model\. Check",
    )


def test_other_network_is_refused_with_the_count_of_the_rest(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "a.pt")
    refused(
        create_model("resnet8", num_classes=4),
        tmp_path / "a.pt",
        r"conv1\.weight with shape none .* and \d+ others",
    )


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors", "."])
def test_missing_file_is_refused(net, tmp_path, name):
    refused(net, tmp_path / name, "weights must be a file, got .*, which is none")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(range(256)) * 40])
def test_file_of_something_else_is_refused(net, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(net, tmp_path / name, r"Copy or save it again")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_file_cut_short_is_refused(net, tmp_path, name):
    path = tmp_path / name
    if name == "a.pt":
        torch.save(net.state_dict(), path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    refused(net, path, r"Copy or save it again")


@pytest.mark.parametrize(
    "value", [[1, 2], {}, {"epoch": 3}, {"model": {"a": [1.0]}}, {0: torch.zeros(1)}, torch.zeros(2)]
)
def test_file_without_named_tensors_is_refused(net, tmp_path, value):
    torch.save(value, tmp_path / "a.pt")
    refused(net, tmp_path / "a.pt", "weights must be named tensors")


def test_loading_leaves_no_class_allowed_for_others(net, tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(net.state_dict(), tmp_path / "a.pt")
    read_weights(tmp_path / "a.pt")
    assert set(torch.serialization.get_safe_globals()) == before
