from dataclasses import replace

import pytest
import torch

from understudy.data import PadCropFlip
from understudy.teacher.assemble import identify
from understudy.teacher.fingerprint import data_digest, weights_digest
from understudy.teacher.fold import fold_batch_norms
from understudy.teacher.frozen import Teacher

CHANGES = {
    "weights": {"model_seed": 1},
    "data": {"data_seed": 1},
    "normalisation": {"std": (0.25, 0.2, 0.23)},
    "precision": {"precision": "bf16"},
}


def parts(world, **kwargs):
    return identify(world.blocks(**kwargs), world.model)


def test_the_same_teacher_and_data_have_the_same_fingerprint(make):
    one, two = parts(make()), parts(make())
    assert one == two
    assert one.digest == two.digest
    assert one.differing(two.parts) == []


@pytest.mark.parametrize(("part", "change"), CHANGES.items())
def test_a_change_is_named(make, part, change):
    one, two = parts(make()), parts(make(**change))
    assert one.differing(two.parts) == [part]
    assert one.digest != two.digest


def test_views_are_named(make):
    world = make()
    one = parts(world)
    world.images = replace(world.images, augment=PadCropFlip(2))
    assert one.differing(parts(world).parts) == ["views"]


def test_block_size_number_type_and_what_is_stored_are_named(make):
    one = parts(make())
    assert one.differing(parts(make(), size=9).parts) == ["block"]
    assert one.differing(parts(make(), dtype="fp16").parts) == ["dtype"]
    assert one.differing(parts(make(roles=("feature",))).parts) == ["stored"]


def test_float32_of_less_than_all_its_digits_is_named(make):
    one = parts(make())
    assert "matmul" not in one.parts
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert one.differing(parts(make()).parts) == ["matmul"]
    finally:
        torch.set_float32_matmul_precision(before)


def test_float32_as_single_backends_are_told_to_multiply_is_named(make, monkeypatch):
    def mixed():
        raise RuntimeError("the precision was set for single backends")

    one = parts(make())
    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    assert one.differing(parts(make()).parts) == ["matmul"]


def test_convolutions_of_all_digits_are_named(make):
    one = parts(make())
    assert "convolution" not in one.parts
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = not before
        assert one.differing(parts(make()).parts) == ["convolution"]
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_which_layer_s_input_the_feature_is_is_named(make):
    """Two of a network's layers may have inputs of one width."""
    world = make(roles=("feature",))
    one = parts(world, dtype="fp32")
    world.teacher.network = replace(world.teacher.network, head="elsewhere")
    assert one.differing(parts(world, dtype="fp32").parts) == ["stored"]


def test_folding_is_named(make):
    world = make()
    one = parts(world)
    folding = fold_batch_norms(world.teacher.network, torch.zeros(1, 3, 8, 8))
    world.teacher = Teacher(folding.network, ["logits"])
    two = parts(world)
    assert one.differing(two.parts) == ["folding"]
    assert two.parts["folding"] == "4 batch norms"


@pytest.mark.parametrize("name", ["fc.bias", "stem.0.weight", "stem.1.running_var"])
def test_one_number_of_a_parameter_or_buffer_changes_the_weights(make, name):
    module = make().model
    before = weights_digest(module)
    tensor = module.state_dict()[name].view(-1)
    tensor[-1] = torch.nextafter(tensor[-1], torch.tensor(9.0))
    assert weights_digest(module) != before


def test_names_shapes_and_types_are_part_of_the_weights():
    one = torch.nn.ParameterDict({"a": torch.zeros(2, 3)})
    digests = {
        weights_digest(torch.nn.ParameterDict(d))
        for d in (
            {"b": torch.zeros(2, 3)},
            {"a": torch.zeros(3, 2)},
            {"a": torch.zeros(2, 3, dtype=torch.bfloat16)},
        )
    }
    assert len(digests | {weights_digest(one)}) == 4


def test_memory_format_is_no_part_of_the_weights(make):
    module = make().model
    before = weights_digest(module)
    assert weights_digest(module.to(memory_format=torch.channels_last)) == before


def test_one_pixel_the_order_the_numbers_and_the_classes_change_the_data(make):
    images = make().image_set
    pixels = images.images.clone()
    pixels[-1, -1, -1, -1] ^= 1
    back = torch.arange(len(images)).flip(0)
    others = [
        replace(images, images=pixels),
        images.subset(back),
        replace(images, index=images.index + 1),
        replace(images, classes=("x", *images.classes[1:])),
        images.subset(torch.arange(len(images) - 1)),
    ]
    assert len({data_digest(s) for s in (images, *others)}) == 6


def test_labels_are_no_part_of_the_data(make):
    images = make().image_set
    assert data_digest(replace(images, targets=images.targets.roll(1))) == data_digest(images)
