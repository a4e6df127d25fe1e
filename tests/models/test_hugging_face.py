"""Image classifiers of transformers: from a folder, the hub only when asked."""

import json
import sys

import pytest
import torch

from understudy.models import create_model
from understudy.taps import describe

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def resnet_config(**changes):
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        num_labels=4,
        **changes,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved ResNet of 4 classes."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("hf") / "resnet"
    transformers.ResNetForImageClassification(resnet_config()).save_pretrained(path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_folder_gives_the_saved_network(folder):
    net = create_model(f"hf/{folder}", num_classes=4, pretrained=True).eval()
    theirs = transformers.ResNetForImageClassification.from_pretrained(folder).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(images), theirs(images).logits)


def test_without_pretrained_only_the_architecture_is_taken(folder):
    net = create_model(f"hf/{folder}", num_classes=7)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    saved = create_model(f"hf/{folder}", num_classes=4, pretrained=True)
    key = "model.resnet.embedder.embedder.convolution.weight"
    assert not torch.equal(net.state_dict()[key], saved.state_dict()[key])


def test_other_classes_start_a_new_head_on_the_saved_backbone(folder):
    net = create_model(f"hf/{folder}", num_classes=9, pretrained=True).eval()
    saved = create_model(f"hf/{folder}", num_classes=4, pretrained=True).state_dict()
    changed = [key for key, value in net.state_dict().items() if not torch.equal(value, saved[key])]
    assert changed == ["model.classifier.1.weight", "model.classifier.1.bias"]
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 9)


def test_grey_images(folder):
    assert create_model(f"hf/{folder}", num_classes=4, in_channels=1)(torch.zeros(2, 1, 32, 32)).shape == (
        2,
        4,
    )


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize(
    ("config", "size", "head", "stages"),
    [
        (resnet_config(), 64, "model.classifier.1", [(8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)]),
        (
            transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
            64,
            "model.classifier",
            [(8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)],
        ),
        (transformers.ViTConfig(intermediate_size=64, **SMALL), 32, "model.classifier", [(17, 32)] * 4),
        (transformers.Dinov2Config(**SMALL), 32, "model.classifier", [(17, 32)] * 4),
    ],
    ids=["resnet", "convnext", "vit", "dinov2"],
)
def test_head_feature_and_stages_are_found(tmp_path, config, size, head, stages):
    config.save_pretrained(tmp_path)
    found = describe(create_model(f"hf/{tmp_path}", num_classes=5), torch.zeros(2, 3, size, size))
    assert found.head == head
    assert [found.shapes[f"stage_{k}"] for k in range(1, found.num_stages + 1)] == stages


def test_a_hub_name_is_not_fetched_unless_asked(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(ValueError, match="Set pretrained: true to fetch it") as caught:
        create_model("hf/nobody/no-such-model-here", num_classes=5)
    assert "\n" not in str(caught.value)


def test_a_hub_name_while_offline_is_one_line(no_network):
    with pytest.raises(ValueError, match="Check the name and the network, or give a folder") as caught:
        create_model("hf/nobody/no-such-model-here", num_classes=5, pretrained=True)
    assert "\n" not in str(caught.value)


def test_what_is_no_classifier_is_refused(tmp_path):
    transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="must be an image classifier saved by save_pretrained"):
        create_model(f"hf/{tmp_path}", num_classes=5)


def test_code_in_the_folder_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n")
    about = {"model_type": "never-heard-of", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="must be an image classifier"):
        create_model(f"hf/{tmp_path}", num_classes=5)


def test_pickled_weights_are_not_read(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(
        transformers.ResNetForImageClassification(resnet_config()).state_dict(),
        tmp_path / "pytorch_model.bin",
    )
    with pytest.raises(ValueError, match="with safetensors"):
        create_model(f"hf/{tmp_path}", num_classes=4, pretrained=True)


def test_missing_weights_are_named(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    del state["resnet.embedder.embedder.convolution.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"got none for resnet\.embedder"):
        create_model(f"hf/{tmp_path}", num_classes=4, pretrained=True)


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"hf/\./nowhere must be a folder"):
        create_model("hf/./nowhere", num_classes=5)


def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[hf\]'"):
        create_model("hf/nobody/x", num_classes=5)
