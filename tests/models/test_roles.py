"""Where the stages of our networks end."""

import pytest
import torch
from torch import Tensor, nn

from understudy.models import create_model, family, known_roles, model_names

NAMES = model_names()
LINEAR_STAGES = {"mobilenet": {"stage_1", "stage_2", "stage_3", "stage_4"}, "wrn": {"stage_0"}}


def stages(name: str, *, size: int = 32, device: str = "meta") -> dict[str, Tensor]:
    with torch.device(device):
        net, seen = create_model(name, num_classes=10).eval(), {}
        roles = known_roles(net)
        assert roles is not None
        for role, path in roles.items():
            net.get_submodule(path).register_forward_hook(
                lambda _, __, output, role=role: seen.update({role: output})
            )
        net(torch.randn(2, 3, size, size))
    assert list(seen) == list(roles)  # the roles are in the order of the pass
    return seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 64])
def test_stages_are_maps_that_shrink(name, size):
    seen = stages(name, size=size)
    sides = [seen[role].shape[-1] for role in seen]
    assert all(t.dim() == 4 for t in seen.values())
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("mobilenet_v2", [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2), (1280, 2)]),
        ("resnet18", [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)]),
        ("resnet50", [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("resnet8x4", [(32, 32), (64, 32), (128, 16), (256, 8)]),
        ("shufflenet_v1", [(24, 32), (240, 16), (480, 8), (960, 4)]),
        ("shufflenet_v2", [(24, 32), (116, 16), (232, 8), (464, 4), (1024, 4)]),
        ("vgg8", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
        ("wrn_40_2", [(16, 32), (32, 32), (64, 16), (128, 8)]),
    ],
)
def test_stages_have_the_published_channels_and_sides(name, shapes):
    assert [tuple(t.shape[1:3]) for t in stages(name).values()] == shapes


def test_mobilenet_v1_has_its_four_published_stages_at_224_pixels():
    shapes = [tuple(t.shape[1:3]) for t in stages("mobilenet_v1", size=224).values()]
    assert shapes == [(32, 112), (128, 56), (256, 28), (512, 14), (1024, 7)]


@pytest.mark.parametrize("name", NAMES)
def test_stage_is_what_its_last_activation_put_out(name):
    with torch.device("meta"):
        net, seen = create_model(name, num_classes=10).eval(), {}
    for path, module in net.named_modules():
        module.register_forward_hook(lambda _, __, output, path=path: seen.update({path: output}))
    net(torch.empty(1, 3, 32, 32, device="meta"))
    linear = set()
    for role, path in (known_roles(net) or {}).items():
        inside = [
            p for p, m in net.named_modules() if isinstance(m, nn.ReLU) and f"{p}.".startswith(f"{path}.")
        ]
        if not inside or seen[inside[-1]] is not seen[path]:
            linear.add(role)
    assert linear == LINEAR_STAGES.get(family(net) if name != "mobilenet_v1" else "", set())


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "wrn_16_1", "vgg8", "shufflenet_v1", "shufflenet_v2", "cnn_tiny"]
)
def test_stages_are_non_negative_and_survive_the_pass_unchanged(name):
    torch.manual_seed(0)
    net = create_model(name, num_classes=10).eval()
    seen, copies = {}, {}
    for role, path in (known_roles(net) or {}).items():
        net.get_submodule(path).register_forward_hook(
            lambda _, __, out, role=role: (
                seen.update({role: out}),
                copies.update({role: out.clone()}),
                None,
            )[-1]
        )
    net(torch.randn(2, 3, 16, 16))
    for role, tensor in seen.items():
        assert torch.equal(tensor, copies[role]), f"{role} was overwritten later"
        if (name, role) != ("wrn_16_1", "stage_0"):
            assert tensor.min() >= 0


@pytest.mark.parametrize(
    "name",
    [
        "cnn_small",
        "mobilenet_v1",
        "mobilenet_v2",
        "resnet18",
        "resnet8x4",
        "shufflenet_v1",
        "shufflenet_v2",
        "vgg8",
        "wrn_16_2",
    ],
)
def test_last_map_pooled_is_the_input_of_the_classifier(name):
    torch.manual_seed(0)
    net, seen = create_model(name, num_classes=10).eval(), {}
    roles = known_roles(net)
    last = roles.get("stage_last", roles[sorted(roles)[-1]])
    net.get_submodule(last).register_forward_hook(lambda _, __, out: seen.update(map=out))
    head = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    head.register_forward_pre_hook(lambda _, inputs: seen.update(feature=inputs[0]))
    net(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(seen["map"].mean(dim=(2, 3)), seen["feature"])


def test_roles_of_a_foreign_module_are_unknown():
    assert known_roles(nn.Linear(2, 2)) is None


def test_changing_the_answer_changes_no_later_answer():
    net = create_model("cnn_tiny", num_classes=2)
    known_roles(net).clear()
    assert known_roles(net)["stage_3"] == "stage3"
