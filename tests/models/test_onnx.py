"""Networks from ONNX files: the logits onnxruntime gives, and every refusal."""

import sys

import pytest
import torch

import understudy as us

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from understudy.inputs import weight_files  # noqa: E402
from understudy.models.onnx import load_onnx  # noqa: E402
from understudy.teacher.fingerprint import weights_digest  # noqa: E402


def linear(path, batch="batch", input_type=TensorProto.FLOAT, outputs=1, rank=4, classes=3):
    """Writes an ONNX file of one linear layer over the mean colour, and returns its weights."""
    weight = torch.arange(3.0 * classes).view(3, classes)
    typed = weight.double() if input_type == TensorProto.DOUBLE else weight
    shape = [batch, 3, "h", "w"][:rank]
    names = ["logits", "again"][:outputs]
    axes = torch.arange(2, rank)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
            *(helper.make_node("MatMul", ["mean", "weight"], [name]) for name in names),
        ],
        "net",
        [helper.make_tensor_value_info("images", input_type, shape)],
        [helper.make_tensor_value_info(name, input_type, [batch, classes]) for name in names],
        [numpy_helper.from_array(typed.numpy(), "weight"), numpy_helper.from_array(axes.numpy(), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return weight


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_logits_are_those_of_the_file_for_any_number_of_images(tmp_path, batch):
    weight = linear(tmp_path / "a.onnx")
    images = torch.randn(batch, 3, 8, 8)
    expected = images.mean(dim=(2, 3)) @ weight
    net = load_onnx(tmp_path / "a.onnx")
    torch.testing.assert_close(net(images), expected)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(channels_last), expected)
    torch.testing.assert_close(net(images.double()), expected)  # fed as float32


def test_files_are_told_apart_where_answers_are_kept_and_runs_go_on(tmp_path):
    linear(tmp_path / "a.onnx")
    linear(tmp_path / "b.onnx", batch="other")
    digests = {name: weights_digest(load_onnx(tmp_path / f"{name}.onnx")) for name in ("a", "b")}
    assert digests["a"] != digests["b"]
    assert weights_digest(load_onnx(tmp_path / "a.onnx")) == digests["a"]
    config = {"data": {"name": "digits"}, "student": {"model": "cnn_tiny"}}
    named = [
        weight_files(us.load_config(config | {"teacher": {"model": str(tmp_path / f"{name}.onnx")}}))[
            "teacher"
        ]
        for name in ("a", "b")
    ]
    assert named[0] != named[1]


def test_there_is_nothing_to_train_and_no_gradient(tmp_path):
    linear(tmp_path / "a.onnx")
    net, images = load_onnx(tmp_path / "a.onnx"), torch.randn(2, 3, 8, 8, requires_grad=True)
    assert list(net.parameters()) == []
    assert net.state_dict() == {}
    assert not net(images).requires_grad


def test_it_is_a_teacher_of_logits_and_says_so_where_more_is_asked(tmp_path):
    linear(tmp_path / "a.onnx")
    student, teacher = us.create_model("cnn_tiny", num_classes=3), load_onnx(tmp_path / "a.onnx")
    distiller = us.Distiller(student, teacher, [{"name": "ce"}, {"name": "kd"}])
    out = distiller(torch.randn(6, 3, 32, 32), torch.arange(6) % 3)
    distiller.backward(out)
    assert all(p.grad is not None for p in distiller.trainable_parameters())
    with pytest.raises(ValueError, match="must see 'feature' of the teacher"):
        us.Distiller(student, teacher, [{"name": "dino"}])


def test_images_the_file_was_not_made_for_are_refused_in_one_line(tmp_path):
    linear(tmp_path / "a.onnx")
    with pytest.raises(
        ValueError, match=r"must be given images it was made for, got \(2, 1, 8, 8\)"
    ) as caught:
        load_onnx(tmp_path / "a.onnx")(torch.randn(2, 1, 8, 8))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_classifier_are_refused(tmp_path):
    for kwargs, match in (
        ({"batch": 4}, "must take any number of images, got exactly 4"),
        (
            {"input_type": TensorProto.DOUBLE},
            r"must take one float tensor \(N, C, H, W\), got images: tensor\(double\)",
        ),
        ({"outputs": 2}, "must give one tensor of logits"),
        ({"rank": 3}, "must take one float tensor"),
    ):
        linear(tmp_path / "a.onnx", **kwargs)
        refused(tmp_path / "a.onnx", match)


def test_missing_damaged_and_unknown_files_are_refused(tmp_path):
    refused(tmp_path / "none.onnx", "must be a file, got .*none.onnx, which is none")
    for content in (b"", b"no model at all", bytes(range(256))):
        (tmp_path / "a.onnx").write_bytes(content)
        refused(tmp_path / "a.onnx", "must be an ONNX model that onnxruntime runs")
    model_of_an_unknown_operator(tmp_path / "a.onnx")
    refused(tmp_path / "a.onnx", "must be an ONNX model that onnxruntime runs, got: .*Secret")


def model_of_an_unknown_operator(path):
    node = helper.make_node("Secret", ["images"], ["logits"])
    value = helper.make_tensor_value_info
    shapes = [value("images", 1, ["n", 3, 8, 8])], [value("logits", 1, ["n", 3])]
    graph, opsets = helper.make_graph([node], "net", *shapes), [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def test_weights_in_another_file_are_not_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where onnxruntime would look for them
    linear(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.save(
        model, tmp_path / "b.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert (tmp_path / "weights.bin").exists()
    refused(tmp_path / "b.onnx", "weights in the same file")


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    linear(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # makes its import fail
    refused(
        tmp_path / "a.onnx",
        r"must have onnxruntime installed, got none\. Install the extra: pip install '\.\[onnx\]'",
    )
