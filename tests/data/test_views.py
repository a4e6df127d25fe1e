"""Every view against torchvision's pad, crop, flip, ToTensor and Normalize."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as TF

from understudy.data import NO_AUGMENT, PadCropFlip, normalise
from understudy.data.counter import Stream, integers

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def random_images(n, *shape):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def by_torchvision(image, augment, view):
    dy, dx, flip = (int(v) for v in augment.offsets(torch.tensor(view)))
    padded = TF.pad(image, [augment.pad] * 4)
    crop = TF.crop(padded, dy, dx, image.shape[1], image.shape[2])
    return TF.hflip(crop) if flip else crop


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 7, 12)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_162_views_are_torchvisions_to_the_pixel(shape, layout):
    augment = PadCropFlip(pad=4, flip=True)
    images = random_images(5, *shape).contiguous(memory_format=layout)
    view = torch.arange(162)
    rows = view % 5
    crops = augment.crop(images, rows, view)
    expected = [
        by_torchvision(images[r], augment, v) for r, v in zip(rows.tolist(), view.tolist(), strict=True)
    ]
    assert crops.dtype == torch.uint8
    assert torch.equal(crops, torch.stack(expected))
    assert (
        len({tuple(c.flatten().tolist()) for c in augment.crop(images, torch.zeros_like(view), view)}) == 162
    )


def test_all_162_views_are_torchvisions_after_normalisation():
    augment = PadCropFlip()
    images = random_images(3, 3, 32, 32)
    view = torch.arange(162)
    rows = view % 3
    got = augment.render(images, rows, view, torch.tensor(MEAN), torch.tensor(STD))
    expected = torch.stack(
        [
            TF.normalize(TF.to_tensor(TF.to_pil_image(by_torchvision(images[r], augment, v))), MEAN, STD)
            for r, v in zip(rows.tolist(), view.tolist(), strict=True)
        ]
    )
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("pad", "flip", "num"), [(4, True, 162), (4, False, 81), (0, True, 2), (2, True, 50)]
)
def test_number_of_views_is_counted_and_all_differ(pad, flip, num):
    augment = PadCropFlip(pad=pad, flip=flip)
    view = torch.arange(num)
    crops = augment.crop(random_images(1, 3, 9, 9), torch.zeros_like(view), view)
    assert augment.num_views == num
    assert len({tuple(c.flatten().tolist()) for c in crops}) == num


@pytest.mark.parametrize("augment", [PadCropFlip(), PadCropFlip(pad=2, flip=False), NO_AUGMENT])
def test_identity_view_is_the_image_itself(augment):
    images = random_images(4, 3, 16, 16)
    view = torch.full((4,), augment.identity)
    assert torch.equal(augment.crop(images, torch.arange(4), view), images)


def test_no_augment_has_one_view():
    assert NO_AUGMENT.num_views == 1
    assert NO_AUGMENT.views(0, 3, torch.arange(50)).tolist() == [0] * 50


def test_view_of_an_image_depends_on_seed_epoch_and_index_alone():
    augment = PadCropFlip()
    index = torch.tensor([5, 900, 5, 17])
    view = augment.views(1, 2, index)
    assert view.tolist() == integers(162, 1, Stream.VIEW, 2, index).tolist()
    assert view[0] == view[2] == augment.views(1, 2, torch.tensor([5]))[0]
    assert view.tolist() != augment.views(1, 3, index).tolist()
    assert view.tolist() != augment.views(2, 2, index).tolist()


def test_offsets_number_the_views_as_documented():
    dy, dx, flip = PadCropFlip(pad=4).offsets(torch.tensor([0, 8, 9, 40, 81, 161]))
    assert dy.tolist() == [0, 0, 1, 4, 0, 8]
    assert dx.tolist() == [0, 8, 0, 4, 0, 8]
    assert flip.tolist() == [0, 0, 0, 0, 1, 1]


def test_an_image_is_rendered_to_the_same_bits_in_any_batch():
    augment = PadCropFlip()
    images, mean, std = random_images(20, 3, 32, 32), torch.tensor(MEAN), torch.tensor(STD)
    rows, view = torch.arange(20), augment.views(0, 0, torch.arange(20))
    whole = augment.render(images, rows, view, mean, std)
    for i in range(20):
        assert torch.equal(augment.render(images, rows[i : i + 1], view[i : i + 1], mean, std)[0], whole[i])


def test_a_batch_of_none_keeps_its_shape():
    none = torch.arange(0)
    got = PadCropFlip().render(random_images(2, 3, 8, 8), none, none, torch.tensor(MEAN), torch.tensor(STD))
    assert got.shape == (0, 3, 8, 8)


def test_memory_format_and_dtype_are_as_asked():
    augment, images, rows = PadCropFlip(), random_images(4, 3, 8, 8), torch.arange(4)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    plain = augment.render(images, rows, rows, mean, std)
    got = augment.render(images, rows, rows, mean, std, torch.bfloat16, torch.channels_last)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, plain.to(torch.bfloat16))  # computed in float32, rounded once


def test_the_resident_images_are_not_changed():
    images = random_images(4, 3, 8, 8)
    before = images.clone()
    for augment in (PadCropFlip(), NO_AUGMENT):
        augment.render(
            images, torch.arange(4), torch.zeros(4, dtype=torch.long), torch.zeros(3), torch.ones(3)
        )
    normalise(images, torch.zeros(3), torch.ones(3))
    assert torch.equal(images, before)


def test_rendering_reads_nothing_on_the_host_and_takes_few_operations():
    class Recorder(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    images, rows = random_images(64, 3, 8, 8), torch.arange(64)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    with Recorder() as recorder:
        PadCropFlip().render(images, rows, rows, mean, std)
    assert not {"_local_scalar_dense", "nonzero", "item", "_to_copy"} & set(recorder.names)
    assert len(recorder.names) < 40  # not one an image


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match="pad must be at least 0 pixels, got -1"):
        PadCropFlip(pad=-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_views_on_a_gpu_equal_those_on_the_cpu():
    augment, images = PadCropFlip(), random_images(162, 3, 32, 32)
    rows, mean, std = torch.arange(162), torch.tensor(MEAN), torch.tensor(STD)
    on_gpu = augment.render(images.cuda(), rows.cuda(), rows.cuda(), mean.cuda(), std.cuda())
    assert torch.equal(
        augment.crop(images.cuda(), rows.cuda(), rows.cuda()).cpu(), augment.crop(images, rows, rows)
    )
    torch.testing.assert_close(on_gpu.cpu(), augment.render(images, rows, rows, mean, std), rtol=0, atol=1e-6)
