import pytest
import torch

from understudy.models import create_model, known_roles
from understudy.taps import describe
from understudy.teacher.assemble import Images, assemble_blocks
from understudy.teacher.blocks import CPU_BLOCK, GPU_BLOCK, LEAST_BLOCK, block_size
from understudy.teacher.fold import fold_batch_norms
from understudy.teacher.frozen import Teacher


def test_the_teacher_sees_only_blocks_of_one_size(world):
    blocks = world.blocks(size=8)
    sizes = []
    world.teacher.module.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    for count in (1, 7, 8, 9, 20):
        rows = torch.arange(count)
        assert blocks(rows, rows % 18).shape == (count, 10)
    assert set(sizes) == {8}
    assert blocks.forwarded == 8 * len(sizes) == 8 * (1 + 1 + 1 + 2 + 3)
    assert blocks.padding == blocks.forwarded - (1 + 7 + 8 + 9 + 20)


def test_nothing_is_computed_for_no_pair(world):
    blocks = world.blocks()
    assert blocks(torch.arange(0), torch.arange(0)).shape == (0, 10)
    assert blocks.forwarded == 0


def test_answers_are_the_teachers_of_the_very_images_the_loader_shows(make):
    world = make(roles=("feature", "logits"))
    blocks = world.blocks(dtype=None)
    for batch in world.loader().epoch(3):
        answers = blocks.layout.unpack(blocks(batch.index, batch.view), world.teacher.network)
        expected = world.teacher(batch)
        for role in ("feature", "logits"):
            torch.testing.assert_close(answers[role], expected[role], rtol=1e-5, atol=1e-6)


def test_a_pair_has_the_same_bits_with_any_neighbours_in_any_place(world):
    blocks = world.blocks(size=8)
    generator = torch.Generator().manual_seed(0)
    keys = torch.arange(blocks.layout.rows)
    straight = blocks(*blocks.layout.pairs(keys))
    for _ in range(5):
        some = torch.randperm(len(keys), generator=generator)[
            : int(torch.randint(1, 100, (), generator=generator))
        ]
        assert torch.equal(blocks(*blocks.layout.pairs(some)), straight[some])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", ["resnet8x4", "wrn_16_2", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"]
)
def test_networks_of_the_zoo_are_steady_here(make, unsettled, name, precision):
    world = make(n=30, size=32)
    module = unsettled(create_model(name, 100)).eval().to(memory_format=torch.channels_last)
    example = torch.zeros(1, 3, 32, 32)
    network = fold_batch_norms(describe(module, example, known=known_roles(module)), example).network
    given = world.images
    images = Images(given.image_set, given.augment, given.mean, given.std, torch.channels_last)
    blocks = assemble_blocks(Teacher(network, ["logits"], precision), images, ["logits"], size=21)
    if precision == "bf16" and not blocks.is_steady():
        pytest.skip("bf16 kernels of this processor depend on the place in a block")
    assert blocks.is_steady()
    assert blocks.forwarded == 0


def test_a_network_that_mixes_its_batch_is_not_steady(world):
    blocks = world.blocks()
    world.teacher.module.stem.register_forward_hook(lambda m, args, out: out + out[:1])
    assert not blocks.is_steady()


@pytest.mark.parametrize("images", [1, 64, 65, 160, 1797, 50_000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_blocks_divide_an_epoch_evenly(images, device):
    most = CPU_BLOCK if device == "cpu" else GPU_BLOCK
    size = block_size(images, torch.device(device))
    count = -(-images // size)
    assert 1 <= size <= most
    assert count == -(-images // most)
    assert size * count - images < count  # less than an image of padding a block


def test_a_block_of_large_images_has_no_more_pixels_on_a_gpu():
    gpu = torch.device("cuda")
    assert block_size(20_480, gpu, size=(64, 64)) == GPU_BLOCK // 4
    assert block_size(10_000, gpu, size=(224, 224)) <= GPU_BLOCK * 32 * 32 // 224**2 + 1
    assert block_size(9_984, gpu, size=(2000, 2000)) == LEAST_BLOCK
    assert block_size(50_000, torch.device("cpu"), size=(224, 224)) == block_size(50_000, torch.device("cpu"))


def test_a_block_size_that_is_given_is_taken():
    assert block_size(50_000, torch.device("cpu"), 100) == 100
