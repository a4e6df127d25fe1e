from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from understudy.models import create_model, known_roles
from understudy.taps import Taps, describe
from understudy.teacher.fold import fold_batch_norms

ZOO = {  # name: batch norms that stay
    "cnn_tiny": 0,
    "mobilenet_v1": 0,
    "mobilenet_v2": 0,
    "resnet18": 0,
    "resnet50": 0,
    "resnet8x4": 0,
    "shufflenet_v1": 0,
    "shufflenet_v2": 0,
    "vgg8": 0,
    "wrn_16_2": 7,  # every first norm of a block stands behind a sum, and so does the last one of all
}


def shown(network, images):
    with Taps(network, tuple(network.shapes)) as taps, torch.no_grad():
        return {r: t.clone() for r, t in taps.collect(network.module(images)).items()}


def check_equal(network, folding, images, rtol=1e-9):
    expected = shown(network, images)
    got = shown(folding.network, images)
    assert got.keys() == expected.keys()
    for role, tensor in expected.items():
        scale = tensor.abs().max()
        assert (got[role] - tensor).abs().max() <= rtol * scale, role


def norms(module):
    return [p for p, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def described(module, size=32):
    example = torch.zeros(1, 3, size, size)
    return describe(module, example, known=known_roles(module)), example


@pytest.mark.parametrize(("name", "kept"), ZOO.items())
def test_a_folded_zoo_network_shows_the_same_in_all_roles(name, kept, unsettled):
    torch.manual_seed(0)
    module = unsettled(create_model(name, 10)).double().eval()
    network, example = described(module)
    folding = fold_batch_norms(network, example)
    assert norms(folding.network.module) == list(folding.kept)
    assert len(folding.folded) == len(norms(module)) - len(folding.kept)
    assert len(folding.kept) == kept, folding.kept
    assert "checked" in folding.note
    check_equal(network, folding, torch.randn(2, 3, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize(
    ("factory", "kept"),
    [
        (torchvision.models.resnet18, 0),
        (torchvision.models.mobilenet_v2, 0),
        # the first norm of every layer and transition reads what was concatenated
        (lambda **kw: torchvision.models.DenseNet(8, (2, 2, 2), 16, **kw), 9),
        (torchvision.models.efficientnet_b0, 0),
        (lambda **kw: torchvision.models.vit_b_16(image_size=32, **kw), 0),
    ],
    ids=["resnet18", "mobilenet_v2", "densenet", "efficientnet", "vit"],
)
def test_torchvisions_networks_fold(factory, kept, unsettled):
    torch.manual_seed(0)
    module = unsettled(factory(num_classes=5)).double().eval()
    network, example = described(module)
    folding = fold_batch_norms(network, example)
    assert len(folding.kept) == kept, folding.kept
    check_equal(network, folding, torch.randn(2, 3, 32, 32, dtype=torch.float64))


def test_the_given_network_is_not_changed(unsettled):
    module = unsettled(create_model("resnet8x4", 10)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    network, example = described(module)
    folding = fold_batch_norms(network, example)
    assert folding.network.module is not module
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_network_in_float32_is_folded_in_float32_and_keeps_its_memory_format(unsettled):
    torch.manual_seed(0)
    module = unsettled(create_model("resnet8x4", 10)).to(memory_format=torch.channels_last).eval()
    network, example = described(module)
    folding = fold_batch_norms(network, example)
    first = folding.network.module.conv1.weight
    assert first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)
    check_equal(network, folding, torch.randn(2, 3, 32, 32), rtol=1e-4)


def test_a_layer_whose_result_is_a_role_keeps_its_norm(unsettled):
    """The stem of a wide ResNet is its bare first convolution, which one batch norm reads."""
    module = unsettled(create_model("wrn_16_2", 10)).eval()
    network, example = described(module)
    assert network.paths["stage_0"] == "conv1"
    assert "block1.layer.0.bn1" in fold_batch_norms(network, example).kept
    blind = replace(network, paths={}, shapes={"logits": (10,)})
    assert "block1.layer.0.bn1" in fold_batch_norms(blind, example).folded


def test_the_output_of_a_folded_norm_can_still_be_tapped(unsettled):
    torch.manual_seed(0)
    module = unsettled(create_model("resnet8x4", 10)).double().eval()
    example = torch.zeros(1, 3, 32, 32)
    network = describe(
        module, example, known={"stage_1": "layer1.0.bn1", "stage_2": "layer2", "stage_3": "layer3"}
    )
    folding = fold_batch_norms(network, example)
    assert "layer1.0.bn1" in folding.folded
    check_equal(network, folding, torch.randn(2, 3, 32, 32, dtype=torch.float64))


class Plain(nn.Module):
    """A convolution, a batch norm and a head, put together by ``flow``."""

    def __init__(self, flow, **parts):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=True)
        self.bn = nn.BatchNorm2d(4)
        for name, part in parts.items():
            setattr(self, name, part)
        self.fc = nn.Linear(4, 5)
        self.flow = flow

    def forward(self, x):
        return self.fc(self.flow(self, x).mean((2, 3)))


STAYS = {
    "the layer's result is added later": lambda m, x: (lambda y: m.bn(y) + y)(m.conv(x)),
    "it is concatenated": lambda m, x: (lambda y: m.bn(y) + torch.cat([y, y], 1)[:, :4])(m.conv(x)),
    "it is overwritten in place": lambda m, x: m.bn(F.relu_(m.conv(x))),
    "a view of it is read": lambda m, x: (lambda y: m.bn(y) * y.flatten(1).mean(1)[:, None, None, None])(
        m.conv(x)
    ),
    "the norm comes first": lambda m, x: m.conv(F.pad(m.bn(F.pad(x, (0, 0, 0, 0, 0, 1))), (0,) * 4)[:, :3]),
    "the layer runs twice": lambda m, x: m.bn(m.conv(x)) + m.conv(x),
    "the norm runs twice": lambda m, x: m.bn(m.conv(x)) + m.bn(x.repeat(1, 2, 1, 1)[:, :4, 1:-1, 1:-1]),
}


@pytest.mark.parametrize("flow", STAYS.values(), ids=STAYS.keys())
def test_a_norm_stays_where(flow, unsettled):
    module = unsettled(Plain(flow)).eval()
    network, example = described(module, 8)
    folding = fold_batch_norms(network, example)
    assert folding.folded == ()
    assert folding.kept == ("bn",)
    assert folding.network is network
    assert "none" in folding.note


def test_shapes_may_be_looked_at_without_being_a_use(unsettled):
    def flow(m, x):
        y = m.conv(x)
        assert y.shape[1] == y.size(1) == 4
        return m.bn(y)

    network, example = described(unsettled(Plain(flow)).eval(), 8)
    assert fold_batch_norms(network, example).folded == ("bn",)


def test_a_weight_that_two_layers_share_is_not_scaled(unsettled):
    module = Plain(lambda m, x: m.bn(m.conv(x)) + m.other(x), other=nn.Conv2d(3, 4, 3))
    module.other.weight = module.conv.weight
    network, example = described(unsettled(module).eval(), 8)
    assert fold_batch_norms(network, example).folded == ()


def test_a_convolution_of_another_class_is_left_alone(unsettled):
    class Standardised(nn.Conv2d):
        def forward(self, x):
            w = self.weight
            return F.conv2d(
                x, (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True), self.bias
            )

    module = unsettled(Plain(lambda m, x: m.bn(m.standard(x)), standard=Standardised(3, 4, 3))).eval()
    network, example = described(module, 8)
    assert fold_batch_norms(network, example).folded == ()


def test_a_norm_with_an_activation_inside_leaves_the_activation(unsettled):
    """As timm's BatchNormAct2d."""

    class NormAct(nn.BatchNorm2d):
        def __init__(self, width):
            super().__init__(width)
            self.drop = nn.Identity()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    body = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 6, 3, 2, bias=False),
            bn1=NormAct(6),
            conv2=nn.Conv2d(6, 8, 3, 2),
            bn2=NormAct(8),
        )
    )
    module = nn.Sequential(
        OrderedDict(body=body, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(8, 5))
    )
    module = unsettled(module).double().eval()
    network, example = described(module)
    folding = fold_batch_norms(network, example)
    assert folding.folded == ("body.bn1", "body.bn2")
    assert isinstance(folding.network.module.get_submodule("body.bn1.act"), nn.ReLU)
    check_equal(network, folding, torch.randn(2, 3, 32, 32, dtype=torch.float64))


def test_a_linear_layer_takes_its_norm_and_a_norm_without_weights_folds(unsettled):
    parts = nn.Sequential(
        nn.Flatten(), nn.Linear(27, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 5)
    )
    network, example = described(unsettled(parts).double().eval(), 3)
    folding = fold_batch_norms(network, example)
    assert folding.folded == ("2",)
    images = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(folding.network.module(images), parts(images), rtol=1e-9, atol=1e-12)


def test_a_norm_on_batch_statistics_stays():
    module = Plain(lambda m, x: m.bn(m.conv(x)))
    module.bn = nn.BatchNorm2d(4, track_running_stats=False)
    network, example = described(module, 8)
    folding = fold_batch_norms(network, example)
    assert folding.network is network


def test_a_network_that_looks_at_its_norms_runs_unfolded_with_a_note(unsettled):
    module = unsettled(Plain(lambda m, x: m.bn(m.conv(x)) * m.bn.weight.sum())).eval()
    network, example = described(module, 8)
    folding = fold_batch_norms(network, example)
    assert folding.network is network
    assert folding.folded == ()
    assert "unfolded" in folding.note
    assert "weight" in folding.note


def test_a_network_whose_answers_folding_would_change_runs_unfolded_with_a_note(unsettled):
    module = unsettled(Plain(lambda m, x: m.bn(m.conv(x)) * m.conv.weight.sum())).eval()
    network, example = described(module, 8)
    folding = fold_batch_norms(network, example)
    assert folding.network is network
    assert "changed its answers" in folding.note


def test_a_network_that_cannot_run_in_float64_is_checked_in_its_own_precision(unsettled):
    table = torch.ones(1, 4, 1, 1)  # no buffer: .double() does not reach it
    module = unsettled(Plain(lambda m, x: F.conv2d(m.bn(m.conv(x)), table.repeat(4, 1, 1, 1)))).eval()
    network, example = described(module, 8)
    folding = fold_batch_norms(network, example)
    assert folding.folded == ("bn",)
    check_equal(network, folding, torch.randn(2, 3, 8, 8), rtol=1e-4)


def test_a_network_without_batch_norms_comes_back_as_it_is():
    network, example = described(nn.Sequential(nn.Flatten(), nn.Linear(27, 5)), 3)
    folding = fold_batch_norms(network, example)
    assert folding.network is network
    assert "no batch norm" in folding.note


def test_hooks_of_a_tapped_network_are_not_copied(unsettled):
    network, example = described(unsettled(create_model("cnn_tiny", 5)).eval())
    with Taps(network, ["feature", "stage_*"]):
        folding = fold_batch_norms(network, example)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in folding.network.module.modules())
    assert len(folding.folded) == 4
