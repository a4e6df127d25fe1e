"""Networks for pixels: names, taps, sizes of maps, dilation, other numbers of classes."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from understudy.models import FullSize, create_model, family, known_roles, segmenter_names
from understudy.models.published import published
from understudy.models.segmentation import TORCHVISION
from understudy.taps import Taps, describe

SIZE = (64, 96)
STRIDES = {
    "deeplabv3_resnet18": 8, "deeplabv3_resnet34": 8, "fcn_base": 4, "fcn_resnet18": 8, "fcn_resnet34": 8,
    "fcn_small": 4, "fcn_tiny": 4, "torchvision/deeplabv3_mobilenet_v3_large": 16, "torchvision/fcn_resnet50": 8,
    "torchvision/lraspp_mobilenet_v3_large": 8,
}  # fmt: skip


def test_every_name_is_tested():
    assert set(segmenter_names()) == {name for name in STRIDES if "/" not in name}
    assert {name.partition("/")[2] for name in STRIDES if "/" in name} < TORCHVISION


@pytest.mark.parametrize("name", STRIDES)
def test_the_roles_are_where_they_should_be(name):
    net = create_model(name, num_classes=5).eval()
    images = torch.rand(2, 3, *SIZE)
    network = describe(net, images, known=known_roles(net))
    assert network.dense
    assert network.num_classes == 5
    assert network.shapes["logits"][1:] == (SIZE[0] // STRIDES[name], SIZE[1] // STRIDES[name])
    assert network.shapes["feature"] == (network.head_layer.in_channels, *network.shapes["logits"][1:])
    widths = [network.shapes[f"stage_{k}"][1] for k in range(network.num_stages + 1)]
    assert widths == sorted(widths, reverse=True)
    assert network.num_stages == (3 if name in ("fcn_base", "fcn_small", "fcn_tiny") else 4)
    with Taps(network, network.shapes) as taps, torch.no_grad():
        shown = taps.collect(net(images))
    own = F.conv2d(shown["feature"], network.head_layer.weight, network.head_layer.bias)
    if "lraspp" not in name:  # which adds a second classifier's answer
        torch.testing.assert_close(own, shown["logits"])
    with pytest.raises(ValueError, match="must end in a linear layer"):
        _ = network.classifier


def test_torchvision_answers_the_same():
    theirs = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4
    )
    ours = create_model("torchvision/lraspp_mobilenet_v3_large", num_classes=4)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(FullSize(ours.eval())(images), theirs.eval()(images)["out"])


def test_a_dilated_resnet_is_the_plain_one_without_its_strides():
    net = create_model("fcn_resnet18", num_classes=3)
    plain = torchvision.models.resnet18()
    backbone = dict(net.backbone.named_parameters())
    assert {name: p.shape for name, p in plain.named_parameters() if not name.startswith("fc.")} == {
        name: p.shape for name, p in backbone.items()
    }
    found = [(m.dilation[0], m.stride[0]) for m in net.backbone.layer4.modules() if isinstance(m, nn.Conv2d)]
    assert found == [(2, 1), (4, 1), (1, 1), (4, 1), (4, 1)]


def test_pretrained_classifiers_start_anew_for_other_classes(monkeypatch):
    name = "lraspp_mobilenet_v3_large"
    builder = torchvision.models.get_model_builder(name)

    def without_a_download(weights=None, progress=True, **options):
        return builder(weights=None, weights_backbone=None, num_classes=21, **options)

    monkeypatch.setattr(torchvision.models, "get_model_builder", lambda _: without_a_download)
    for classes in (21, 6):
        net = create_model(f"torchvision/{name}", num_classes=classes, pretrained=True).eval()
        assert net(torch.rand(1, 3, *SIZE)).shape[1] == classes


def test_published_weights_say_their_normalisation_and_classes_but_no_size():
    known = published("torchvision/lraspp_mobilenet_v3_large", pretrained=True)
    assert (known.num_classes, known.image_size) == (21, None)
    assert known.mean == (0.485, 0.456, 0.406)


def test_families_are_those_of_the_backbones():
    assert family(create_model("fcn_resnet18", num_classes=2)) == "resnet"
    assert family(create_model("torchvision/deeplabv3_mobilenet_v3_large", num_classes=2)) == "mobilenet"


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("fcn_resnet18", {"in_channels": 1}, "must get images with 3 channels"),
        ("torchvision/fcn_resnet50", {"in_channels": 1}, "must get images with 3 channels"),
        ("fcn_tiny", {"pretrained": True}, "pretrained must be false for fcn_tiny, got true"),
        ("fcn_tin", {}, "Did you mean 'fcn_tiny'"),
    ],
)
def test_what_cannot_be_is_said(name, options, match):
    with pytest.raises(ValueError, match=match):
        create_model(name, num_classes=3, **options)


class Own(nn.Module):
    """A user's network that answers at the size of its images."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.head = nn.Conv2d(12, 4, 1)
        self.other = nn.Conv2d(12, 3, 1)

    def forward(self, images):
        return F.interpolate(self.head(self.body(images)), images.shape[2:], mode="bilinear")


def test_a_network_of_ones_own_is_understood():
    network = describe(Own(), torch.zeros(2, 3, *SIZE))
    assert network.head == "head"
    assert network.shapes["logits"] == (4, *SIZE)
    assert network.shapes["feature"] == (12, SIZE[0] // 4, SIZE[1] // 4)
    assert network.shapes["stage_last"] == (12, SIZE[0] // 4, SIZE[1] // 4)
    with pytest.raises(
        ValueError, match=r"taps\.head must name a 1×1 convolution with 4 outputs, got 'body.0'"
    ):
        describe(Own(), torch.zeros(2, 3, *SIZE), overrides={"head": "body.0"})
