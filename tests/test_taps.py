"""Taps: what is found in networks nobody prepared, what hooks show, and that nothing of them stays behind."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from understudy.interface import Network
from understudy.models import MODELS, known_roles
from understudy.taps import Taps, describe, norm_before, pair_stages, without_hooks

SIZE = 64  # pixels


def images(side: int = SIZE, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


@functools.cache
def pristine(name: str) -> nn.Module:
    """One network for all tests that put it back as they found it."""
    return getattr(models, name)(num_classes=7).eval()


def stages(network: Network) -> dict[str, str]:
    return {role: path for role, path in sorted(network.paths.items()) if role.startswith("stage_")}


def ends(*paths: str) -> dict[str, str]:
    return {**{f"stage_{k}": path for k, path in enumerate(paths)}, "stage_last": paths[-1]}


# name: (head, ends of stage_0.., sides at 64 pixels)
TORCHVISION = {
    "resnet18": ("fc", ("relu", "layer1", "layer2", "layer3", "layer4"), (32, 16, 8, 4, 2)),
    "resnet50": ("fc", ("relu", "layer1", "layer2", "layer3", "layer4"), (32, 16, 8, 4, 2)),
    "vgg11_bn": (
        "classifier.6",
        ("features.2", "features.6", "features.13", "features.20", "features.27"),
        (64, 32, 16, 8, 4),
    ),
    "mobilenet_v2": (
        "classifier.1",
        ("features.1", "features.3", "features.6", "features.13", "features.18"),
        (32, 16, 8, 4, 2),
    ),
    "mobilenet_v3_small": (
        "classifier.3",
        ("features.0", "features.1", "features.3", "features.8", "features.12"),
        (32, 16, 8, 4, 2),
    ),
    "efficientnet_b0": (
        "classifier.1",
        ("features.1", "features.2", "features.3", "features.5", "features.8"),
        (32, 16, 8, 4, 2),
    ),
    "convnext_tiny": (
        "classifier.2",
        ("features.0", "features.1", "features.3", "features.5", "features.7"),
        (16, 16, 8, 4, 2),
    ),
    "shufflenet_v2_x0_5": ("fc", ("conv1", "stage2", "stage3", "conv5"), (32, 8, 4, 2)),
    "densenet121": (
        "classifier",
        (
            "features.relu0",
            "features.transition1.relu",
            "features.transition2.relu",
            "features.transition3.relu",
            "features.norm5",
        ),
        (32, 16, 8, 4, 2),
    ),
    "squeezenet1_0": (None, ("features.1", "features.5", "features.10", "features.12"), (29, 14, 7, 3)),
    "swin_t": (
        "head",
        ("features.0", "features.1", "features.3", "features.5", "permute"),
        (16, 16, 8, 4, 2),
    ),
    "regnet_y_400mf": (
        "fc",
        ("stem", *(f"trunk_output.block{k}" for k in range(1, 5))),
        (32, 16, 8, 4, 2),
    ),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks_show_their_head_and_stages(name):
    head, paths, sides = TORCHVISION[name]
    net = pristine(name)
    network = describe(net, images())
    assert network.head == head
    assert stages(network) == ends(*paths)
    assert tuple(network.shapes[f"stage_{k}"][1] for k in range(len(sides))) == sides
    assert network.num_stages == len(sides) - 1
    roles = tuple(network.shapes)
    with Taps(network, roles) as taps:
        shown = taps.collect(net(images(batch=3)))
    assert {role: tuple(tensor.shape) for role, tensor in shown.items()} == {
        role: (3, *shape) for role, shape in network.shapes.items()
    }
    if head is not None:
        torch.testing.assert_close(network.classifier(shown["feature"]), shown["logits"])
    else:
        assert "feature" not in network.shapes


def small_vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=6, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )


@pytest.mark.parametrize(
    ("build", "side", "last_blocks", "tokens"),
    [
        (lambda: models.vit_b_16(num_classes=5), 224, (2, 5, 8, 11), (197, 768)),
        (small_vit, 32, (0, 2, 3, 5), (17, 16)),
    ],
)
def test_transformers_show_tokens_at_the_end_of_four_groups_of_blocks(build, side, last_blocks, tokens):
    net = build()
    network = describe(net, images(side, batch=1))
    assert network.head == "heads.head"
    assert stages(network) == {
        "stage_0": "encoder.dropout",
        **{f"stage_{k}": f"encoder.layers.encoder_layer_{at}" for k, at in enumerate(last_blocks, 1)},
        "stage_last": "encoder.ln",
    }
    assert {network.shapes[role] for role in stages(network)} == {tokens}


def test_channels_last_maps_are_collected_channels_first_with_the_module_s_own_values():
    net, raw = pristine("swin_t"), []
    keep = net.get_submodule("features.3").register_forward_hook(lambda module, args, out: raw.append(out))
    with Taps(describe(net, images()), ["stage_2", "preact_2"]) as taps:
        shown = taps.collect(net(images()))
    keep.remove()
    assert shown["stage_2"].shape == (2, 192, 8, 8)
    torch.testing.assert_close(shown["stage_2"].permute(0, 2, 3, 1), raw[-1], rtol=0, atol=0)
    torch.testing.assert_close(shown["preact_2"], shown["stage_2"], rtol=0, atol=0)


def test_a_channels_last_map_with_as_many_rows_as_channels_is_read_like_the_rest_of_its_class():
    net = small_swin()
    network = describe(net, images(32))  # first maps: (B, 8, 8, 8)
    assert network.shapes["stage_1"] == (8, 8, 8)
    wide = describe(net, torch.zeros(1, 3, 32, 64))
    assert wide.shapes["stage_1"] == (8, 8, 16)
    with Taps(network, ["stage_1"]) as taps:
        shown = taps.collect(net.eval()(torch.zeros(1, 3, 32, 64)))
    assert shown["stage_1"].shape == (1, 8, 8, 16)


@pytest.mark.parametrize("side", [32, 8])
@pytest.mark.parametrize(
    "name",
    [
        "cnn_tiny",
        "mobilenet_v1",
        "mobilenet_v2",
        "resnet8x4",
        "resnet18",
        "shufflenet_v1",
        "shufflenet_v2",
        "vgg8",
        "wrn_16_2",
    ],
)
def test_our_own_networks_show_the_stages_they_are_known_by(name, side):
    net = MODELS[name](num_classes=5).eval()
    known = known_roles(net)
    assert known is not None
    network = describe(net, images(side), known=known)
    assert {role: network.paths[role] for role in known} == known
    assert network.num_stages == max(int(role[6:]) for role in known if role != "stage_last")
    assert network.paths["stage_last"] == known.get("stage_last", known[f"stage_{network.num_stages}"])
    with Taps(network, ["logits", "feature", "stage_0", "stage_*", "preact_*", "stage_last"]) as taps:
        shown = taps.collect(net(images(side)))
    assert {role: tuple(t.shape[1:]) for role, t in shown.items()} == {r: network.shapes[r] for r in shown}
    for k in range(1, network.num_stages + 1):
        stage, preact = shown[f"stage_{k}"], shown[f"preact_{k}"]
        rectified = f"preact_{k}" in network.paths
        torch.testing.assert_close(preact.relu() if rectified else preact, stage, rtol=0, atol=0)


def test_resnet8x4_is_found_the_same_with_and_without_being_known():
    net = MODELS["resnet8x4"](num_classes=5)
    assert describe(net, images(32)).paths == describe(net, images(32), known=known_roles(net)).paths


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_pre_activations_keep_their_sign_although_the_network_overwrites_them_in_place(name):
    net = copy.deepcopy(pristine(name)).train()  # batch statistics centre every pre-activation
    with Taps(describe(net, images()), ["stage_*", "preact_*"]) as taps, torch.no_grad():
        shown = taps.collect(net(images()))
    for k in range(1, 5):
        assert shown[f"preact_{k}"].min() < 0
        torch.testing.assert_close(shown[f"preact_{k}"].relu(), shown[f"stage_{k}"], rtol=0, atol=0)


def test_gradients_flow_from_the_pre_activation_copy_into_the_network():
    net = models.resnet18(num_classes=5)
    with Taps(describe(net, images()), ["preact_1"]) as taps:
        taps.collect(net(images()))["preact_1"].square().sum().backward()
    assert net.layer1[1].bn2.weight.grad.abs().sum() > 0
    assert net.layer2[0].conv1.weight.grad is None


class Plain(nn.Module):
    """Two resolutions; the subclass says how it rectifies."""

    def __init__(self, act=None):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, 2, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)
        self.act = act

    def rectify(self, x):
        return F.relu(x) if self.act is None else self.act(x)

    def forward(self, x):
        x = self.rectify(self.bn1(self.conv1(x)))
        x = self.rectify(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    """A residual block that ends in ``act``."""

    def __init__(self, act, width=4, shortcut=None):
        super().__init__()
        self.shortcut = shortcut or nn.Identity()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.act = act

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.act(self.shortcut(x) + out)


def around(block):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        block,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


def test_functional_activations_between_layers_leave_the_norms_as_stages():
    network = describe(Plain(), images(8))
    assert stages(network) == ends("bn1", "bn2")
    assert network.shapes["preact_1"] == network.shapes["stage_1"] == (6, 4, 4)
    assert norm_before(network, 1) is network.module.bn2


@pytest.mark.parametrize("inplace", [False, True])
def test_an_activation_used_twice_counts_where_it_is_used_last(inplace):
    net = Plain(nn.ReLU(inplace=inplace))
    network = describe(net, images(8))
    assert stages(network) == ends("bn1", "act")
    assert network.paths["preact_1"] == "act"
    with Taps(network, ["stage_1", "preact_1"]) as taps:
        shown = taps.collect(net(images(8)))
    assert shown["preact_1"].shape == (2, 6, 4, 4)
    assert shown["preact_1"].detach().min() < 0
    torch.testing.assert_close(shown["preact_1"].relu(), shown["stage_1"], rtol=0, atol=0)


def test_a_pre_activation_is_copied_only_if_it_is_overwritten():
    for inplace in (False, True):
        net = around(Block(nn.ReLU(inplace=inplace)))
        given = []
        net[2].act.register_forward_pre_hook(lambda module, args, given=given: given.append(args[0]))
        with Taps(describe(net, images(8)), ["preact_1"]) as taps:
            shown = taps.collect(net(images(8)))
        assert (shown["preact_1"] is given[-1]) is not inplace


def test_a_network_described_by_hand_has_its_in_place_pre_activations_copied_too():
    net = Plain(nn.ReLU(inplace=True))
    shape = (6, 4, 4)
    by_hand = Network(net, "fc", {"stage_1": "act", "preact_1": "act"}, {"stage_1": shape, "preact_1": shape})
    with Taps(by_hand, ["preact_1"]) as taps:
        assert taps.collect(net(images(8)))["preact_1"].detach().min() < 0


def test_a_block_that_ends_in_a_functional_activation_has_no_pre_activation_to_show():
    network = describe(around(Block(F.relu)), images(8))
    assert network.paths["stage_1"] == "2"
    assert "preact_1" not in network.shapes
    with pytest.raises(ValueError, match=r"got 'preact_1': the activation in front of it is a function"):
        Taps(network, ["preact_*"])


def test_a_block_whose_activation_module_runs_again_elsewhere_has_no_pre_activation_to_show():
    act = nn.ReLU()
    net = nn.Sequential(
        around(Block(act))[:3], nn.Conv2d(4, 6, 3, 2), act, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    network = describe(nn.Sequential(net, nn.Linear(6, 5)), images(8))
    assert network.num_stages == 2
    assert "preact_1" not in network.shapes
    assert network.paths["preact_2"] == "0.0.2.act"


def test_the_norm_before_a_residual_end_is_that_of_the_longer_branch():
    for shortcut in (None, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))):
        net = around(Block(nn.ReLU(), shortcut=shortcut))
        assert norm_before(describe(net, images(8)), 1) is net[2].bn2


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("resnet18", {0: "bn1", 1: "layer1.1.bn2", 4: "layer4.1.bn2"}),
        ("resnet50", {1: "layer1.2.bn3", 3: "layer3.5.bn3"}),
        ("vgg11_bn", {1: "features.5", 4: "features.26"}),
        ("densenet121", {1: "features.transition1.norm", 4: "features.norm5"}),
        ("regnet_y_400mf", {1: "trunk_output.block1.block1-0.f.c.1"}),
    ],
)
def test_the_norm_before_a_pre_activation_is_found(name, paths):
    net = pristine(name)
    network = describe(net, images())
    assert {k: norm_before(network, k) for k in paths} == {k: net.get_submodule(p) for k, p in paths.items()}


def test_a_norm_with_its_activation_inside_is_the_norm_before_it():
    class NormAct(nn.BatchNorm2d):
        def __init__(self, width):
            super().__init__(width)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(super().forward(x))

    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), NormAct(4), nn.Conv2d(4, 6, 3, 2), NormAct(6), nn.Flatten(), nn.LazyLinear(5)
    )
    net(images(8))
    network = describe(net, images(8))
    assert network.paths["preact_1"] == "3.act"
    assert norm_before(network, 1) is net[3]


def test_a_linear_bottleneck_has_no_norm_until_the_user_names_one():
    net = pristine("mobilenet_v2")
    with pytest.raises(ValueError, match=r"stage 1 of MobileNetV2 .* nearby are .*features\.3\.conv\.3"):
        norm_before(describe(net, images()), 1)
    network = describe(net, images(), overrides={"norm_1": "features.3.conv.3"})
    assert norm_before(network, 1) is net.features[3].conv[3]


class Wrapper(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x):
        return self.head(self.backbone(x))


def test_a_backbone_in_a_wrapper_shows_the_backbone_s_stages():
    backbone = models.resnet18()
    backbone.fc = nn.Identity()
    network = describe(Wrapper(backbone, nn.Linear(512, 5)), images())
    assert network.head == "head"
    assert stages(network) == ends("backbone.relu", *(f"backbone.layer{k}" for k in range(1, 5)))


def test_what_follows_the_head_may_keep_its_values_only():
    kept = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Dropout(), nn.Identity())
    assert describe(kept, images(4)).head == "1"
    changed = describe(nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.LogSoftmax(1)), images(4))
    assert changed.head is None
    with pytest.raises(ValueError, match=r"taps: \{head: classifier"):
        _ = changed.classifier


class Busy(nn.Module):
    """All that a dry run could disturb: batch norm that always learns, dropout that always drops, an in-place start."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        x.mul_(2)
        x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)
        return self.fc(F.dropout(x.mean((2, 3)), training=True))


@pytest.mark.parametrize("build", [Busy, lambda: models.mobilenet_v3_small(num_classes=5)])
def test_the_dry_run_leaves_no_trace(build):
    net, example = build(), images(32)
    children = list(net.children())
    children[0].eval()  # mixed flags must survive
    next(net.parameters()).requires_grad_(False)
    state, seen, rng = copy.deepcopy(net.state_dict()), example.clone(), torch.get_rng_state()
    flags = [m.training for m in net.modules()]
    learns = [p.requires_grad for p in net.parameters()]
    attributes = [set(vars(m)) for m in net.modules()]
    describe(net, example)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values(), strict=True))
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(seen, example)
    assert flags == [m.training for m in net.modules()]
    assert learns == [p.requires_grad for p in net.parameters()]
    assert attributes == [set(vars(m)) for m in net.modules()]
    assert all(p.grad is None for p in net.parameters())
    assert hooks(net) == 0


def test_a_failing_dry_run_leaves_no_trace_either():
    net = Plain().train()
    with pytest.raises(ValueError, match=r"Plain must take images of shape .*channels"):
        describe(net, torch.zeros(1, 5, 8, 8))
    assert net.training
    assert hooks(net) == 0


def test_the_dry_run_works_on_inference_tensors_in_half_precision_and_under_autocast():
    with torch.inference_mode():
        assert describe(Plain(), images(8).clone()).num_classes == 5
    assert describe(Plain().bfloat16(), images(8)).num_classes == 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert describe(Plain(), images(8)).num_classes == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_dry_run_leaves_the_gpu_s_random_state_and_takes_images_from_anywhere():
    net = Busy().cuda()
    before = torch.cuda.get_rng_state()
    assert describe(net, images(8)).num_classes == 5
    assert torch.equal(before, torch.cuda.get_rng_state())


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_only_what_is_asked_for_is_hooked_and_close_removes_it_all():
    net = pristine("resnet18")
    network = describe(net, images())
    keys = [set(vars(m)) for m in net.modules()]
    taps = Taps(network, ["logits", "feature", "stage_2", "preact_2"])
    assert hooks(net) == 3
    assert taps.roles == ("logits", "feature", "stage_2", "preact_2")
    taps.close()
    taps.close()
    assert hooks(net) == 0
    with Taps(network, ["stage_*", "preact_*"]) as taps:
        assert hooks(net) == len(taps.roles) == 8
    assert hooks(net) == 0
    assert keys == [set(vars(m)) for m in net.modules()]


def test_collect_forgets_and_says_so():
    net = Plain()
    with Taps(describe(net, images(8)), ["stage_1"]) as taps:
        with pytest.raises(
            ValueError, match="the network must run before its taps are collected, got nothing"
        ):
            taps.collect(torch.zeros(2, 5))
        logits = net(images(8))
        taps.collect(logits)
        with pytest.raises(ValueError, match="stage_1"):
            taps.collect(logits)


def test_of_two_forward_passes_the_last_one_counts():
    net = Plain().eval()
    with Taps(describe(net, images(8)), ["logits", "feature"]) as taps:
        net(torch.zeros(3, 3, 8, 8))
        logits = net(images(8))
        shown = taps.collect(logits)
    assert shown["logits"] is logits
    torch.testing.assert_close(net.fc(shown["feature"]), logits)


def small_swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=5)


@pytest.mark.parametrize("build", [Plain, lambda: around(Block(nn.ReLU(inplace=True))), small_swin])
def test_taps_compile_without_a_graph_break(build):
    torch._dynamo.reset()
    net = build().eval()
    network = describe(net, images(32))
    with Taps(network, ["logits", "feature", "stage_*", "preact_*"]) as taps:
        expected = taps.collect(net(images(32)))
        compiled = torch.compile(net, fullgraph=True, backend="eager")
        for _ in range(2):
            shown = taps.collect(compiled(images(32)))
    assert shown.keys() == expected.keys()
    for role, tensor in expected.items():
        torch.testing.assert_close(shown[role], tensor)


def test_copies_of_a_tapped_module_are_free_of_it():
    net = Plain()
    calls = []
    net.bn1.register_forward_hook(lambda module, args, output: calls.append(1))
    taps = Taps(describe(net, images(8)), ["feature", "stage_1"])
    logits = net(images(8))  # non-leaf tensors are now held
    twin, plain = copy.deepcopy(net), without_hooks(net)
    calls.clear()
    for other in (twin, plain):
        other(torch.zeros(7, 3, 8, 8))
    assert len(calls) == 2  # the user's own hook lives on
    assert taps.collect(logits)["feature"].shape == (2, 6)  # and no copy wrote into the original's
    assert (hooks(net), hooks(twin), hooks(plain)) == (3, 3, 1)
    assert hooks(without_hooks(twin)) == 1


def test_overrides_name_single_roles():
    net = pristine("resnet18")
    automatic = describe(net, images()).paths
    network = describe(net, images(), overrides={"stage_1": "layer1.0", "head": "fc"})
    assert network.paths == {
        **automatic,
        "stage_1": "layer1.0",
        "preact_1": "layer1.0.relu",
        "norm_1": "layer1.0.bn2",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stage_1": "layr1"}, r"taps\.stage_1 .* got 'layr1'\. Did you mean 'layer1'"),
        ({"stage_1": "zzz"}, r"Its outermost modules are avgpool, bn1, conv1, fc"),
        ({"stag_1": "layer1"}, r"got 'stag_1'\. Did you mean 'stage_1'"),
        ({"feature": "fc"}, r"taps must be head, stage_last, or stage_k"),
        ({"head": "layer1"}, r"taps\.head must name a linear layer, got 'layer1', a Sequential"),
        ({"norm_1": "layer1"}, r"taps\.norm_1 must name a batch norm"),
        (
            {"stage_7": "layer4"},
            r"numbered from 1 without gaps, got stage_1, stage_2, stage_3, stage_4, stage_7",
        ),
        ({"preact_9": "relu"}, r"taps\.preact_9 must belong to a stage"),
    ],
)
def test_wrong_names_get_one_clear_line(overrides, message):
    with pytest.raises(ValueError, match=message):
        describe(pristine("resnet18"), images(), overrides=overrides)


def test_a_module_that_does_not_run_cannot_be_tapped():
    net = Plain()
    net.unused = nn.ReLU()
    with pytest.raises(ValueError, match="must name a module that runs and returns one tensor, got 'unused'"):
        describe(net, images(8), overrides={"stage_1": "unused"})


@pytest.mark.parametrize("example", [torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8)])
def test_an_example_that_is_no_batch_is_refused(example):
    with pytest.raises(ValueError, match=r"example must be images of shape \(B, C, H, W\)"):
        describe(Plain(), example)


def test_a_network_that_returns_no_tensor_is_refused():
    net = Wrapper(nn.Flatten(), nn.Identity())
    net.forward = lambda x: {"logits": x.flatten(1)}
    with pytest.raises(
        ValueError, match="Wrapper must return one tensor of logits with a row an image, got dict"
    ):
        describe(net, images(8))


def test_unknown_roles_are_refused_by_taps():
    network = describe(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), images(4))
    with pytest.raises(ValueError, match="must have stages for 'stage_\\*', got none"):
        Taps(network, ["stage_*"])
    with pytest.raises(ValueError, match=r"got 'featur'.*Did you mean 'feature'"):
        Taps(network, ["featur"])


def shown(*shapes: tuple[int, ...]) -> Network:
    return Network(nn.Identity(), None, {}, {f"stage_{k}": shape for k, shape in enumerate(shapes, 1)})


def maps(*sides: int) -> Network:
    return shown(*((8, side, side) for side in sides))


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (maps(32, 16, 8), maps(56, 28, 7), ((1, 1), (2, 2), (3, 3))),
        (maps(28, 14, 7), maps(56, 28, 14, 7), ((1, 2), (2, 3), (3, 4))),
        (maps(56, 28, 14, 7), maps(28, 14, 7), ((2, 1), (3, 2), (4, 3))),
        (maps(28, 7), maps(56, 28, 14, 7), ((1, 2), (2, 4))),
        (maps(56, 28, 7), maps(56, 28, 14, 7), ((1, 1), (2, 2), (3, 4))),
        (maps(64, 32, 8), maps(64, 32, 16, 8, 8), ((1, 1), (2, 2), (3, 5))),
        (maps(8, 8, 8), maps(56, 28, 14, 7), ((1, 2), (2, 3), (3, 4))),
        (maps(28, 14, 7), shown(*[(197, 768)] * 4), ((1, 2), (2, 3), (3, 4))),
        (shown(*[(197, 768)] * 2), maps(56, 28, 14, 7), ((1, 2), (2, 4))),
        (shown(), maps(8), ()),
    ],
)
def test_stages_are_paired_from_the_deepest_by_relative_resolution(student, teacher, pairs):
    assert pair_stages(student, teacher) == pairs
