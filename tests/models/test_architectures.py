"""Other people's architectures: head, feature and stages are found; each learns a step and teaches one."""

import importlib.util

import pytest
import torch

import understudy as us
from understudy.models import create_model
from understudy.taps import describe

SMALL = {"img_size": 64}
# name -> (options, head, length of the feature, (channels, side) of stage_1 ...), all on 64-pixel images
MAPS = {
    "torchvision/resnet18": ({}, "fc", 512, [(64, 16), (128, 8), (256, 4), (512, 2)]),
    "torchvision/resnext50_32x4d": ({}, "fc", 2048, [(256, 16), (512, 8), (1024, 4), (2048, 2)]),
    "torchvision/regnet_x_400mf": ({}, "fc", 400, [(32, 16), (64, 8), (160, 4), (400, 2)]),
    "torchvision/regnet_y_400mf": ({}, "fc", 440, [(48, 16), (104, 8), (208, 4), (440, 2)]),
    "torchvision/efficientnet_b0": ({}, "classifier.1", 1280, [(24, 16), (40, 8), (112, 4), (1280, 2)]),
    "torchvision/mobilenet_v2": ({}, "classifier.1", 1280, [(24, 16), (32, 8), (96, 4), (1280, 2)]),
    "torchvision/mobilenet_v3_small": ({}, "classifier.3", 1024, [(16, 16), (24, 8), (48, 4), (576, 2)]),
    "torchvision/convnext_tiny": ({}, "classifier.2", 768, [(96, 16), (192, 8), (384, 4), (768, 2)]),
    "torchvision/swin_t": ({}, "head", 768, [(96, 16), (192, 8), (384, 4), (768, 2)]),
    "torchvision/densenet121": ({}, "classifier", 1024, [(256, 16), (512, 8), (1024, 4), (1024, 2)]),
    "torchvision/vgg11_bn": ({}, "classifier.6", 4096, [(128, 32), (256, 16), (512, 8), (512, 4)]),
    "torchvision/shufflenet_v2_x0_5": ({}, "fc", 1024, [(48, 8), (96, 4), (1024, 2)]),
    "torchvision/mnasnet0_5": ({}, "classifier.1", 1280, [(16, 16), (24, 8), (48, 4), (1280, 2)]),
    "torchvision/googlenet": ({}, "fc", 1024, [(192, 16), (480, 8), (832, 4), (1024, 2)]),
    "timm/resnet26d": ({}, "fc", 2048, [(256, 16), (512, 8), (1024, 4), (2048, 2)]),
    "timm/efficientnet_b0": ({}, "classifier", 1280, [(24, 16), (40, 8), (112, 4), (1280, 2)]),
    "timm/swin_tiny_patch4_window7_224": (SMALL, "head.fc", 768, [(96, 16), (192, 8), (384, 4), (768, 2)]),
    "timm/convnext_atto": ({}, "head.fc", 320, [(40, 16), (80, 8), (160, 4), (320, 2)]),
    "timm/convnextv2_atto": ({}, "head.fc", 320, [(40, 16), (80, 8), (160, 4), (320, 2)]),
    "timm/mobilenetv3_small_050": ({}, "classifier", 1024, [(8, 16), (16, 8), (24, 4), (288, 2)]),
    "timm/mobilenetv4_conv_small": ({}, "classifier", 1280, [(32, 16), (64, 8), (96, 4), (960, 2)]),
    "timm/ghostnet_050": ({}, "classifier", 1280, [(12, 16), (20, 8), (56, 4), (480, 2)]),
    "timm/repvgg_a0": ({}, "head.fc", 1280, [(48, 16), (96, 8), (192, 4), (1280, 2)]),
    "timm/regnety_002": ({}, "head.fc", 368, [(24, 16), (56, 8), (152, 4), (368, 2)]),
    "timm/poolformer_s12": ({}, "head.fc", 512, [(64, 16), (128, 8), (320, 4), (512, 2)]),
    "timm/mobileone_s0": ({}, "head.fc", 1024, [(48, 16), (128, 8), (256, 4), (1024, 2)]),
    "timm/fastvit_t8": ({}, "head.fc", 768, [(48, 16), (96, 8), (192, 4), (768, 2)]),
    "timm/edgenext_xx_small": ({}, "head.fc", 168, [(24, 16), (48, 8), (88, 4), (168, 2)]),
    "timm/pvt_v2_b0": ({}, "head", 256, [(32, 16), (64, 8), (160, 4), (256, 2)]),
}
# name -> (options, head, width of the tokens, number of the tokens): four groups of blocks
TOKENS = {
    "torchvision/vit_b_16": ({"image_size": 64}, "heads.head", 768, 17),
    "timm/vit_tiny_patch16_224": (SMALL, "head", 192, 17),
    "timm/deit_tiny_patch16_224": (SMALL, "head", 192, 17),
    "timm/deit3_small_patch16_224": (SMALL, "head", 384, 17),
    "timm/mixer_s16_224": (SMALL, "head", 512, 16),
    "timm/xcit_nano_12_p16_224": ({}, "head", 128, 16),
}
# name -> what it cannot be, and how it says so
REFUSED = {
    (
        "torchvision/squeezenet1_1",
        "student",
        "dhkd",
    ): "must see 'feature' of the student, got none in SqueezeNet",
    (
        "torchvision/squeezenet1_1",
        "teacher",
        "dino",
    ): "must see 'feature' of the teacher, got none in SqueezeNet",
    ("torchvision/googlenet", "teacher", "reviewkd"): "the activation in front of it is a function",
    ("timm/deit_tiny_distilled_patch16_224", "student", "dino"): "must see 'feature' of the student",
}
ALL = {name: options for name, (options, *_) in {**MAPS, **TOKENS}.items()}
QUICK = {"torchvision/mobilenet_v3_small", "timm/convnext_atto", "timm/vit_tiny_patch16_224"}


def network(name, **options):
    if name.startswith("timm/") and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    torch.manual_seed(0)
    return create_model(name, num_classes=5, **options)


def step(student, teacher, method):
    """One step, with the means that dino asks for; every trainable parameter must get a finite gradient."""
    images, target = torch.randn(4, 3, 64, 64), torch.arange(4)
    distiller = us.Distiller(student, teacher, [{"name": "ce"}, {"name": method}], example=images)
    if distiller.needs_prepare:
        distiller.prepare([(images, target), (images, (target + 1) % 5)])
    out = distiller(images, target, index=torch.arange(4), view=torch.zeros(4, dtype=torch.int64))
    distiller.backward(out)
    assert torch.isfinite(out.loss)
    for name, parameter in distiller.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, f"{name} has no gradient"
    distiller.close()


def slow_but(quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in sorted(ALL)]


def test_at_least_25_architectures_are_looked_at():
    assert len(ALL) >= 25


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MAPS]
)
def test_head_feature_and_stages_of_convolutional_networks(name):
    options, head, width, stages = MAPS[name]
    found = describe(network(name, **options), torch.zeros(2, 3, 64, 64))
    assert found.head == head
    assert found.shapes["feature"] == (width,)
    named = {f"stage_{k}": (c, side, side) for k, (c, side) in enumerate(stages, start=1)}
    assert {
        r: s for r, s in found.shapes.items() if r.startswith("stage_") and r[6:] not in ("0", "last")
    } == named


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TOKENS]
)
def test_head_feature_and_stages_of_transformers(name):
    options, head, width, tokens = TOKENS[name]
    found = describe(network(name, **options), torch.zeros(2, 3, 64, 64))
    assert (found.head, found.shapes["feature"], found.num_stages) == (head, (width,), 4)
    assert all(found.shapes[f"stage_{k}"] == (tokens, width) for k in range(1, 5))


@pytest.mark.parametrize("name", slow_but(QUICK))
@pytest.mark.parametrize("method", ["dhkd", "reviewkd", "dino"])
def test_every_architecture_learns_a_step(name, method):
    step(network(name, **ALL[name]), create_model("resnet8", num_classes=5), method)


@pytest.mark.parametrize("name", slow_but(QUICK))
@pytest.mark.parametrize("method", ["dhkd", "reviewkd", "dino"])
def test_every_architecture_teaches_a_step(name, method):
    if (name, "teacher", method) in REFUSED:
        pytest.skip("refused; tested below")
    step(create_model("resnet8", num_classes=5), network(name, **ALL[name]), method)


@pytest.mark.parametrize(("name", "role", "method"), REFUSED)
def test_what_an_architecture_cannot_do_is_said(name, role, method):
    options = SMALL if name.startswith("timm/deit") else {}
    net, other = network(name, **options), create_model("resnet8", num_classes=5)
    pair = (net, other) if role == "student" else (other, net)
    with pytest.raises(ValueError, match=REFUSED[name, role, method]):
        step(*pair, method)


def test_squeezenet_which_has_no_linear_head_teaches_by_its_logits():
    step(create_model("resnet8", num_classes=5), network("torchvision/squeezenet1_1"), "kd")
