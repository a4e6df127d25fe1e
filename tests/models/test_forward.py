"""What the networks compute, against torchvision and against the published formulas written out."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.models import create_model
from understudy.models.channel_shuffle import ChannelShuffle
from understudy.models.shufflenet_v1 import ShuffleUnit


class Formula:
    """Layers by name on a bare state dict, in evaluation mode."""

    def __init__(self, net: nn.Module):
        self.state = net.state_dict()

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, padding, groups=groups)

    def bn(self, name: str, x: Tensor) -> Tensor:
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        scale = self.state[f"{name}.weight"] / (var + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.state[f"{name}.bias"][:, None, None]

    def head(self, name: str, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def trained(net: nn.Module) -> nn.Module:
    """Gives every tensor a value of its own, so that a mistaken order or a missing layer shows."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.double().eval()


def images(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_four_stage_resnet_is_torchvisions_behind_another_stem(name):
    ours = trained(create_model(name, num_classes=10))
    theirs = torchvision.models.get_model(name, num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    renamed = {
        k.replace("shortcut", "downsample").replace("linear", "fc"): v for k, v in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    torch.testing.assert_close(ours(images()), theirs.double().eval()(images()))


def test_resnet_adds_each_block_to_its_input_and_activates_the_sum():
    net = trained(create_model("resnet14", num_classes=10))
    f = Formula(net)
    x = f.bn("bn1", f.conv("conv1", images())).relu()
    for layer, first_stride in (("layer1", 1), ("layer2", 2), ("layer3", 2)):
        for k, stride in ((0, first_stride), (1, 1)):
            block = f"{layer}.{k}"
            inner = f.bn(f"{block}.bn1", f.conv(f"{block}.conv1", x, stride)).relu()
            if stride == 2:
                x = f.bn(f"{block}.downsample.1", f.conv(f"{block}.downsample.0", x, 2))
            x = (x + f.bn(f"{block}.bn2", f.conv(f"{block}.conv2", inner))).relu()
    torch.testing.assert_close(net(images()), f.head("fc", x))


@pytest.mark.parametrize(
    ("name", "widens"), [("wrn_16_1", ("block2", "block3")), ("wrn_16_2", ("block1", "block2", "block3"))]
)
def test_wrn_activates_in_front_and_takes_its_shortcut_from_there_where_it_widens(name, widens):
    net = trained(create_model(name, num_classes=10))
    f = Formula(net)
    x = f.conv("conv1", images())
    for layer, first_stride in (("block1", 1), ("block2", 2), ("block3", 2)):
        for k, stride in ((0, first_stride), (1, 1)):
            block = f"{layer}.layer.{k}"
            active = f.bn(f"{block}.bn1", x).relu()
            inner = f.bn(f"{block}.bn2", f.conv(f"{block}.conv1", active, stride)).relu()
            shortcut = f.conv(f"{block}.convShortcut", active, stride) if k == 0 and layer in widens else x
            x = shortcut + f.conv(f"{block}.conv2", inner)
    torch.testing.assert_close(net(images()), f.head("fc", f.bn("bn1", x).relu()))


def test_vgg_pools_three_times_at_32_pixels_and_averages_at_the_end():
    net = trained(create_model("vgg8", num_classes=10))
    f, x = Formula(net), images(32)
    for k in range(5):
        x = f.bn(f"block{k}.1", f.conv(f"block{k}.0", x)).relu()
        if k < 3:
            x = F.max_pool2d(x, 2)
    torch.testing.assert_close(net(images(32)), f.head("classifier", x))


def test_mobilenet_v2_adds_only_where_the_shape_stays():
    net = trained(create_model("mobilenet_v2", num_classes=10))
    f = Formula(net)
    x = f.bn("conv1.1", f.conv("conv1.0", images(32), 2)).relu()
    for group, (count, first_stride) in enumerate([(1, 1), (2, 1), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)]):
        for k in range(count):
            conv, stride = f"blocks.{group}.{k}.conv", first_stride if k == 0 else 1
            inner = f.bn(f"{conv}.1", f.conv(f"{conv}.0", x)).relu()
            inner = f.bn(f"{conv}.4", f.conv(f"{conv}.3", inner, stride, groups=inner.shape[1])).relu()
            inner = f.bn(f"{conv}.7", f.conv(f"{conv}.6", inner))
            # the very first block keeps 16 channels at stride 1, so it adds too
            x = x + inner if inner.shape == x.shape and stride == 1 else inner
    x = f.bn("conv2.1", f.conv("conv2.0", x)).relu()
    torch.testing.assert_close(net(images(32)), f.head("classifier.0", x))


def test_mobilenet_v1_alternates_depthwise_and_1x1():
    net = trained(create_model("mobilenet_v1", num_classes=10))
    f = Formula(net)
    x = f.bn("model.0.1", f.conv("model.0.0", images(32), 2)).relu()
    for k in range(1, 14):
        stride = 2 if k in (2, 4, 6, 12) else 1
        x = f.bn(f"model.{k}.1", f.conv(f"model.{k}.0", x, stride, groups=x.shape[1])).relu()
        x = f.bn(f"model.{k}.4", f.conv(f"model.{k}.3", x)).relu()
    torch.testing.assert_close(net(images(32)), f.head("fc", x))


@pytest.mark.parametrize("stride", [1, 2])
def test_shufflenet_v1_unit_adds_or_appends_its_input(stride):
    unit = trained(ShuffleUnit(12, 24 if stride == 2 else 12, stride, groups=3))
    f, x = Formula(unit), torch.randn(2, 12, 7, 7, dtype=torch.float64)
    narrow = f.bn("bn1", f.conv("conv1", x, groups=3)).relu()
    n = narrow.shape[1] // 3
    narrow = narrow[:, [g * n + i for i in range(n) for g in range(3)]]
    inner = f.bn("bn2", f.conv("conv2", narrow, stride, groups=narrow.shape[1])).relu()
    inner = f.bn("bn3", f.conv("conv3", inner, groups=3))
    expected = inner + x if stride == 1 else torch.cat((inner, F.avg_pool2d(x, 3, 2, padding=1)), dim=1)
    torch.testing.assert_close(unit(x), expected.relu())


def test_first_shufflenet_v1_unit_does_not_group_the_narrow_stem():
    net = create_model("shufflenet_v1", num_classes=10)
    assert net.get_submodule("layer1.0.conv1").groups == 1
    assert net.get_submodule("layer1.0.conv3").groups == 3
    assert net.get_submodule("layer1.1.conv1").groups == 3


def test_channel_shuffle_deals_groups_out_in_turn():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert ChannelShuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert ChannelShuffle(2)(x).flatten().tolist() == F.channel_shuffle(x, 2).flatten().tolist()
