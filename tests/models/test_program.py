"""Programs from files: the same logits as torch gives, and no code run, wherever it is hidden."""

import io
import json
import os
import pickle
import shutil
import sys
import zipfile

import pytest
import torch
from torch import nn
from torch.export import Dim

import understudy as us
from understudy.models import create_model
from understudy.models.program import load_program
from understudy.models.program_graph import OPERATORS


def save(module, path, size=32, channels=3, batch=True):
    shapes = ({0: Dim("batch")},) if batch else None
    example = torch.zeros(2, channels, size, size)
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=shapes, strict=False)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return create_model("cnn_tiny", num_classes=4).eval()


@pytest.fixture(scope="module")
def archive(net, tmp_path_factory):
    return save(net, tmp_path_factory.mktemp("program") / "net.pt2")


@pytest.fixture
def planted(tmp_path):
    """A file that exists if code was run."""
    return tmp_path / "planted"


class Payload:
    """A pickle that runs a command when it is opened."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def changed(archive, path, edit):
    """Writes a copy of an archive with every member as ``edit(name, content)`` returns it (``None`` leaves it out)."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = edit(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def json_changed(archive, path, member, edit):
    def edited(name, content):
        if name != member:
            return content
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return changed(archive, path, edited)


GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        load_program(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["cnn_tiny", "resnet8", "shufflenet_v1", "shufflenet_v2", "vgg8", "wrn_16_1"]
)
def test_logits_are_those_of_the_network_for_any_number_of_images(name, tmp_path):
    torch.manual_seed(0)
    net = create_model(name, num_classes=10).eval()
    loaded = load_program(save(net, tmp_path / "a.pt2"))
    for batch in (1, 3, 32):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), net(images), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "maxvit_t", "swin_t", "vit_b_16"])
def test_logits_are_those_of_torchvisions_networks(name, tmp_path):
    torch.manual_seed(0)
    net = create_model(f"torchvision/{name}", num_classes=10).eval()
    loaded = load_program(save(net, tmp_path / "a.pt2", size=224))
    images = torch.randn(3, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), net(images), rtol=1e-5, atol=1e-5)


def test_weights_are_frozen_counted_and_move_with_the_network(net, archive):
    loaded = load_program(archive)
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in net.parameters())
    assert not any(p.requires_grad for p in loaded.parameters())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert loaded.double()(images.double()).dtype == torch.float64


def test_intermediate_results_are_let_go_as_soon_as_nobody_reads_them(archive):
    steps = load_program(archive)._steps
    written = [name for step in steps for name in step.outputs]
    ended = [name for step in steps for name in step.ends]
    assert len(ended) == len(set(ended))
    assert set(written) - set(ended) == {written[-1]}


class SizesNet(nn.Module):
    """Computes with sizes, splits into lists and pairs, and makes tensors of its own."""

    def forward(self, images):
        n, c, h, w = images.shape
        parts = images.reshape(n * c, h, w).split(h // 2, dim=1)
        best, where = torch.stack(parts).flatten(1).view(len(parts) * n, -1).max(dim=1)
        ones = torch.ones(n, 2, device=images.device) * torch.arange(2, dtype=images.dtype)
        return ones + best.view(2, n).t() + where.view(2, n).t().to(torch.float32) / 7


def test_arithmetic_on_sizes_lists_and_new_tensors_are_followed(tmp_path):
    loaded, images = load_program(save(SizesNet(), tmp_path / "a.pt2")), torch.randn(5, 3, 32, 32)
    assert torch.equal(loaded(images), SizesNet()(images))


def test_a_program_is_a_teacher_of_logits_and_says_so_where_more_is_asked(archive):
    student, images = create_model("cnn_tiny", num_classes=4), torch.randn(6, 3, 32, 32)
    distiller = us.Distiller(student, load_program(archive), [{"name": "ce"}, {"name": "kd"}])
    out = distiller(images, torch.arange(6) % 4)
    distiller.backward(out)
    assert out.terms["kd"] > 0
    with pytest.raises(ValueError, match="must see 'feature' of the teacher"):
        us.Distiller(student, load_program(archive), [{"name": "dino"}])


def torch_pickle(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("dump", [torch_pickle, pickle.dumps])
def test_pickled_sample_images_with_code_in_them_are_refused_and_run_nothing(
    archive, tmp_path, planted, dump
):
    content = dump(((Payload(f"touch {planted}"),), {}))
    evil = changed(archive, tmp_path / "evil.pt2", lambda n, c: content if n.startswith("data/sample") else c)
    refused(evil, r"must hold no pickled code, got data/sample_inputs/model\.pt, which .*; nothing was run")
    assert not planted.exists()


def test_payload_of_the_refusal_test_is_live(archive, tmp_path, planted):
    content = torch_pickle(((Payload(f"touch {planted}"),), {}))
    torch.load(io.BytesIO(content), weights_only=False)
    assert planted.exists()


def test_a_weight_that_is_a_pickle_is_refused_and_runs_nothing(archive, tmp_path, planted):
    def edit(name, content):
        if name == "data/weights/weight_0":
            return torch_pickle(Payload(f"touch {planted}"))
        if name == WEIGHTS:
            document = json.loads(content)
            next(iter(document["config"].values()))["use_pickle"] = True
            return json.dumps(document).encode()
        return content

    refused(
        changed(archive, tmp_path / "evil.pt2", edit),
        "must keep its tensors raw, got 'stem.0.weight' pickled",
    )
    assert not planted.exists()


@pytest.mark.parametrize(
    "member",
    [
        "data/weights/model.pt", "data/constants/custom_obj_0", "data/constants/opaque_obj_0",
        "data/aotinductor/model/model.so", "code.pkl",
    ],
)  # fmt: skip
def test_members_that_are_no_part_of_a_plain_program_are_refused(archive, tmp_path, planted, member):
    path = shutil.copy(archive, tmp_path / "evil.pt2")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(
            f"{file.namelist()[0].partition('/')[0]}/{member}", pickle.dumps(Payload(f"touch {planted}"))
        )
    refused(path, f"must hold a graph and raw tensors only, got '{member}'; it was not opened")
    assert not planted.exists()


def test_code_in_the_strings_of_sizes_and_guards_is_not_evaluated(net, archive, tmp_path, planted):
    code = f"__import__('os').system('touch {planted}') or 3"

    def edit(document):
        document["guards_code"] = [code]
        for tensor in document["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    images = torch.randn(2, 3, 32, 32)
    loaded = load_program(json_changed(archive, tmp_path / "evil.pt2", GRAPH, edit))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), net(images))
    assert not planted.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "_operator.attrgetter",
        "torch.ops.aten.as_strided.default", "torch.ops.load_library", "builtins.eval", "#ns:op", "", None,
        "torch.ops.aten.relu.default.__class__", "torch.ops.aten.native_batch_norm.default",
    ],
)  # fmt: skip
def test_operators_that_are_not_on_the_list_are_refused_by_name(archive, tmp_path, target):
    def edit(document):
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    path = json_changed(archive, tmp_path / "evil.pt2", GRAPH, edit)
    refused(path, f"must be made of the operators of image classifiers, got '{target}'")


@pytest.mark.parametrize("kind", ["as_graph", "as_custom_obj", "as_operator", "as_strings"])
def test_arguments_that_are_no_data_are_refused(archive, tmp_path, kind):
    def edit(document):
        document["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {kind: "x"}

    refused(
        json_changed(archive, tmp_path / "evil.pt2", GRAPH, edit), f"tensors, numbers and words, got '{kind}'"
    )


def test_every_operator_on_the_list_is_one_of_aten_or_of_another_torch():
    missing = [name for name in sorted(OPERATORS) if not hasattr(torch.ops.aten, name)]
    assert missing == []


class Both(nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3)), images.sum(dim=(2, 3))


def test_a_network_that_gives_more_than_logits_is_refused(tmp_path):
    refused(
        save(Both(), tmp_path / "a.pt2"),
        "must map images to logits and nothing else, got 1 inputs and user_output,",
    )


def test_a_fixed_number_of_images_is_refused(net, tmp_path):
    refused(save(net, tmp_path / "a.pt2", batch=False), "must take any number of images, got 2 fixed")


EDITS = {
    "no config": lambda n, c: None if n == WEIGHTS else c,
    "no graph": lambda n, c: None if n == GRAPH else c,
    "no json": lambda n, c: b"{" if n == GRAPH else c,
    "a list": lambda n, c: b"[]" if n == GRAPH else c,
    "deep": lambda n, c: b"[" * 100_000 if n == GRAPH else c,
    "short weight": lambda n, c: c[:8] if n == "data/weights/weight_0" else c,
    "odd weight": lambda n, c: c[:7] if n == "data/weights/weight_0" else c,
    "no weight": lambda n, c: None if n == "data/weights/weight_0" else c,
    "other byte order": lambda n, c: b"big" if n == "byteorder" and sys.byteorder == "little" else c,
    "future schema": lambda n, c: c.replace(b'"major": 8', b'"major": 9') if n == GRAPH else c,
    "unknown name": lambda n, c: c.replace(b'"name": "relu_"', b'"name": "nobody"', 1) if n == GRAPH else c,
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_archive_that_is_not_whole_is_refused_in_one_line(archive, tmp_path, edit):
    refused(changed(archive, tmp_path / "bad.pt2", EDITS[edit]), "a (program|file) must")


@pytest.mark.parametrize(
    "meta",
    [
        {"sizes": [{"as_int": 2**40}]},
        {"storage_offset": {"as_int": 10**6}},
        {"strides": [{"as_int": -1}] * 4},
    ],
)
def test_a_weight_that_would_reach_beyond_its_bytes_is_refused(archive, tmp_path, meta):
    def edit(document):
        document["config"]["stem.0.weight"]["tensor_meta"] |= meta

    refused(json_changed(archive, tmp_path / "evil.pt2", WEIGHTS, edit), "something amiss")


def test_what_is_no_archive_of_torch_is_refused(archive, tmp_path):
    refused(tmp_path / "none.pt2", "a program must be a file")
    (tmp_path / "text.pt2").write_bytes(b"no archive")
    refused(tmp_path / "text.pt2", "something amiss")
    (tmp_path / "cut.pt2").write_bytes(archive.read_bytes()[:-300])
    refused(tmp_path / "cut.pt2", "a program must")  # the end that is found is that of the archive within
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt2")
    refused(tmp_path / "weights.pt2", "must hold a graph and raw tensors only")
    with (
        zipfile.ZipFile(archive) as old,
        zipfile.ZipFile(tmp_path / "small.pt2", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(tmp_path / "small.pt2", "one folder of distinct, uncompressed members")
