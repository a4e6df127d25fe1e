"""The zoo: sizes, names and shapes of the published networks, and what a name may be."""

import re

import pytest
import torch
import torchvision
from torch import nn

from understudy.models import MODELS, create_model, family, model_names
from understudy.models.shufflenet_v2 import DownUnit, SplitUnit

PARAMETERS_AT_100_CLASSES = {
    "mobilenet_v2": 812_836,
    "resnet110": 1_736_564,
    "resnet20": 278_324,
    "resnet32x4": 7_433_860,
    "resnet50": 23_705_252,
    "resnet56": 861_620,
    "resnet8x4": 1_233_540,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
    "vgg13": 9_462_180,
    "vgg8": 3_965_028,
    "wrn_16_2": 703_284,
    "wrn_16_4": 2_772_020,
    "wrn_28_2": 1_479_220,
    "wrn_28_4": 5_872_180,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
}

# One network of each family: names and shapes that a published checkpoint has.
PUBLISHED_TENSORS = {
    "mobilenet_v1": {
        "model.0.0.weight": (32, 3, 3, 3),
        "model.6.0.weight": (256, 1, 3, 3),
        "model.6.3.weight": (512, 256, 1, 1),
        "model.13.4.running_var": (1024,),
        "fc.weight": (100, 1024),
    },
    "mobilenet_v2": {
        "conv1.0.weight": (16, 3, 3, 3),
        "blocks.0.0.conv.0.weight": (16, 16, 1, 1),
        "blocks.3.2.conv.3.weight": (192, 1, 3, 3),
        "blocks.6.0.conv.7.bias": (160,),
        "conv2.1.running_mean": (1280,),
        "classifier.0.weight": (100, 1280),
    },
    "resnet8x4": {
        "conv1.weight": (32, 3, 3, 3),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 32, 3, 3),
        "layer1.0.downsample.0.weight": (64, 32, 1, 1),
        "layer3.0.downsample.1.running_mean": (256,),
        "fc.bias": (100,),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 3, 3),
        "layer1.0.shortcut.0.weight": (256, 64, 1, 1),
        "layer2.3.conv3.weight": (512, 128, 1, 1),
        "layer4.0.conv2.weight": (512, 512, 3, 3),
        "linear.weight": (100, 2048),
    },
    "shufflenet_v1": {
        "conv1.weight": (24, 3, 1, 1),
        "layer1.0.conv1.weight": (54, 24, 1, 1),
        "layer1.0.conv3.weight": (216, 18, 1, 1),
        "layer2.7.conv1.weight": (120, 160, 1, 1),
        "linear.weight": (100, 960),
    },
    "shufflenet_v2": {
        "layer1.0.conv1.weight": (24, 1, 3, 3),
        "layer1.0.conv5.weight": (58, 58, 1, 1),
        "layer2.7.bn3.weight": (116,),
        "conv2.weight": (1024, 464, 1, 1),
        "linear.bias": (100,),
    },
    "vgg8": {
        "block0.0.weight": (64, 3, 3, 3),
        "block0.0.bias": (64,),
        "block4.1.running_var": (512,),
        "classifier.weight": (100, 512),
    },
    "wrn_40_2": {
        "conv1.weight": (16, 3, 3, 3),
        "block1.layer.0.bn1.weight": (16,),
        "block1.layer.0.convShortcut.weight": (32, 16, 1, 1),
        "block3.layer.5.conv2.weight": (128, 128, 3, 3),
        "bn1.weight": (128,),
        "fc.weight": (100, 128),
    },
}


def on_meta(name: str, **kwargs) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **{"num_classes": 100, **kwargs})


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("name", "count"), PARAMETERS_AT_100_CLASSES.items())
def test_network_has_the_published_number_of_parameters(name, count):
    assert parameters(on_meta(name)) == count


def test_mobilenet_v1_has_4_2_million_parameters_at_1000_classes():
    assert parameters(on_meta("mobilenet_v1", num_classes=1000)) == 4_231_976


@pytest.mark.parametrize(("name", "low", "high"), [("cnn_tiny", 3_000, 6_000), ("cnn_small", 20_000, 60_000)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_small_networks_are_small(name, low, high, in_channels):
    assert low < parameters(on_meta(name, num_classes=10, in_channels=in_channels)) < high


@pytest.mark.parametrize(("name", "tensors"), PUBLISHED_TENSORS.items())
def test_tensors_have_the_published_names_and_shapes(name, tensors):
    state = on_meta(name).state_dict()
    assert {key: tuple(state[key].shape) if key in state else None for key in tensors} == tensors


@pytest.mark.parametrize(
    ("name", "last_block", "count"),
    [
        # a convolution is 1 tensor, a batch norm 5, the classifier 2
        ("resnet110", "layer3.17.", 54 * 12 + 2 * 6 + 8),  # blocks, shortcuts that change the width, ends
        ("wrn_40_2", "block3.layer.5.", 18 * 12 + 3 * 1 + 8),
        ("shufflenet_v2", "layer3.3.", 3 * 30 + 13 * 18 + 14),  # down units, split units, ends
    ],
)
def test_checkpoint_has_as_many_tensors_as_the_depth_asks(name, last_block, count):
    keys = list(on_meta(name).state_dict())
    assert any(key.startswith(last_block) for key in keys)
    assert len(keys) == count


@pytest.mark.parametrize("name", model_names())
def test_every_network_ends_in_the_linear_layer_that_makes_its_logits(name):
    net = on_meta(name, num_classes=7).eval()
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    seen = {}
    last.register_forward_hook(lambda _, inputs, output: seen.update(feature=inputs[0], logits=output))
    logits = net(torch.empty(2, 3, 32, 32, device="meta"))
    assert seen["feature"].shape == (2, last.in_features)
    assert seen["logits"] is logits
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("in_channels", [1, 3])
def test_every_network_takes_images_from_8_pixels_up(name, in_channels):
    net = on_meta(name, in_channels=in_channels)
    for size in ((8, 8), (9, 15), (32, 32), (33, 33), (64, 64)):
        assert net(torch.empty(2, in_channels, *size, device="meta")).shape == (2, 100), size


@pytest.mark.parametrize(
    "name", ["cnn_tiny", "mobilenet_v2", "resnet8", "shufflenet_v1", "shufflenet_v2", "vgg8", "wrn_16_1"]
)
def test_smallest_image_trains_with_finite_gradients_everywhere(name):
    torch.manual_seed(0)
    net = create_model(name, num_classes=5)
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert any(p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", model_names())
def test_no_activation_module_is_used_twice(name):
    net, calls = on_meta(name).eval(), []
    for path, module in net.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *_, path=path: calls.append(path))
    net(torch.empty(1, 3, 32, 32, device="meta"))
    assert sorted(calls) == sorted(p for p, m in net.named_modules() if isinstance(m, nn.ReLU))


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "cnn_small"]
)
def test_same_seed_gives_the_same_network_and_logits(name):
    logits = []
    for _ in range(2):
        torch.manual_seed(3)
        logits.append(create_model(name, num_classes=10).eval()(torch.ones(1, 3, 16, 16)))
    assert torch.equal(*logits)


@pytest.mark.parametrize("name", ["resnet14", "resnet18", "wrn_16_2", "vgg8", "mobilenet_v2"])
def test_convolutions_start_with_the_fan_out_spread(name):
    torch.manual_seed(0)
    for module in create_model(name, num_classes=10).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
            out, _, k, _ = module.weight.shape
            assert module.weight.std().item() == pytest.approx((2 / (k * k * out)) ** 0.5, rel=0.05)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize(
    ("name", "std"), [("vgg8", 0.01), ("mobilenet_v2", 0.01), ("wrn_16_2", 128**-0.5 / 3**0.5)]
)
def test_classifier_starts_with_zero_bias_and_its_published_spread(name, std):
    torch.manual_seed(0)
    head = [m for m in create_model(name, num_classes=100).modules() if isinstance(m, nn.Linear)][-1]
    assert not head.bias.any()
    assert head.weight.std().item() == pytest.approx(std, rel=0.03)


def test_vgg_pools_in_front_of_the_last_block_only_where_the_image_is_large():
    net, sides = on_meta("vgg8"), []
    net.get_submodule("block4").register_forward_hook(lambda *args: sides.append(args[2].shape[-1]))
    for size in (8, 32, 48, 64, 224):
        net(torch.empty(2, 3, size, size, device="meta"))
    assert sides == [1, 4, 6, 4, 14]


def shuffle_pairs(x: torch.Tensor) -> torch.Tensor:
    halves = x.chunk(2, dim=1)
    return torch.stack([half[:, i] for i in range(halves[0].shape[1]) for half in halves], dim=1)


def test_shufflenet_v2_unit_equals_relu_before_concatenation():
    torch.manual_seed(0)
    unit = SplitUnit(8).double()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64).relu().requires_grad_()
    passed, convolved = x.chunk(2, dim=1)
    inner = unit.bn1(unit.conv1(convolved)).relu()
    expected = shuffle_pairs(
        torch.cat((passed, unit.bn3(unit.conv3(unit.bn2(unit.conv2(inner)))).relu()), dim=1)
    )
    torch.testing.assert_close(unit(x), expected)
    weight = torch.randn_like(expected)
    leaves = list(unit.parameters())
    ours = torch.autograd.grad((unit(x) * weight).sum(), leaves)
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weight).sum(), leaves))


def test_shufflenet_v2_down_unit_equals_relu_before_concatenation():
    torch.manual_seed(0)
    unit = DownUnit(6, 8).double()
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    left = unit.bn2(unit.conv2(unit.bn1(unit.conv1(x)))).relu()
    right = unit.bn4(unit.conv4(unit.bn3(unit.conv3(x)).relu()))
    right = unit.bn5(unit.conv5(right)).relu()
    torch.testing.assert_close(unit(x), shuffle_pairs(torch.cat((left, right), dim=1)))


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet_20", "resnet20"), ("MobileNetV2", "mobilenet_v2"), ("wrn402", "wrn_40_2")]
)
def test_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"got '{name}'.*Did you mean '{nearest}'"):
        create_model(name, num_classes=10)


def test_name_that_only_torchvision_knows_is_answered_with_it():
    with pytest.raises(ValueError, match="Did you mean 'torchvision/resnet34'"):
        create_model("resnet34", num_classes=10)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": 10, "in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"num_classes": 10, "pretrained": True}, "pretrained must be false for resnet8"),
        ({"num_classes": 10, "pretrained": True, "weights": "a.pt"}, "must not both be given, got a.pt"),
        ({"num_classes": 10, "width": 2}, "unexpected keyword argument 'width'"),
    ],
)
def test_argument_that_cannot_be_is_one_clear_line(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        create_model("resnet8", **kwargs)
    assert "\n" not in str(caught.value)


def test_zoo_is_listed_in_order_and_whole():
    names = model_names()
    assert names == sorted(MODELS)
    assert {"resnet44", "resnet38x2", "vgg11", "vgg16", "vgg19", "wrn_16_1", "resnet18"} <= set(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn_tiny", "cnn"),
        ("mobilenet_v1", "mobilenet"),
        ("resnet18", "resnet"),
        ("resnet8x4", "resnet"),
        ("shufflenet_v2", "shufflenet"),
        ("timm/resnet50.a1_in1k", "resnet"),
        ("torchvision/mobilenet_v3_small", "mobilenet"),
        ("torchvision/resnet18", "resnet"),
        ("torchvision/wide_resnet50_2", "resnet"),
        ("vgg19", "vgg"),
        ("wrn_40_2", "wrn"),
        ("my.nets:TinyNet", "TinyNet"),
    ],
)
def test_family_of_a_name(name, expected):
    assert family(name) == expected


@pytest.mark.parametrize("name", model_names())
def test_family_of_a_network_is_that_of_its_name(name):
    assert family(on_meta(name)) == family(name)


def test_family_of_foreign_networks_comes_from_their_class():
    with torch.device("meta"):
        assert family(torchvision.models.wide_resnet50_2()) == "resnet"
        assert family(torchvision.models.shufflenet_v2_x0_5()) == "shufflenet"
    assert family(nn.Sequential()) == "Sequential"
