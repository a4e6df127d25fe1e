"""Decoding: depths and modes of files, geometry against torchvision, memory bound, failures by name."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional as TF

from understudy.data.decode import Stack, decode

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def encoded(array, kind="PNG", mode=None, **options):
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def colour(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_colour_keeps_its_pixels_channels_first():
    array = colour(5, 7)
    assert np.array_equal(decode(encoded(array)), array.transpose(2, 0, 1))


def test_a_path_gives_what_its_bytes_give(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(colour(16, 16), "JPEG"))
    assert np.array_equal(decode(path), decode(path.read_bytes()))


def test_grey_becomes_three_equal_channels_or_stays_one():
    three, one = decode(encoded(GREY)), decode(encoded(GREY), channels=1)
    assert three.shape == (3, 8, 8)
    assert np.array_equal(one[0], GREY)
    assert all(np.array_equal(channel, GREY) for channel in three)
    assert one.flags.writeable  # or torch warns of it
    assert three.flags.writeable


def test_16_bit_grey_is_scaled_and_not_clipped():
    deep = GREY.astype(np.uint16) * 257
    assert np.array_equal(decode(encoded(deep), channels=1)[0], GREY)
    assert np.array_equal(decode(encoded(deep + 128), channels=1)[0], GREY)  # rounds to the nearest
    assert np.array_equal(decode(encoded(deep[:, :4] + 129), channels=1)[0], GREY[:, :4] + 1)


def test_black_and_white_becomes_0_and_255():
    assert set(decode(encoded(GREY, mode="1")).flatten().tolist()) == {0, 255}


def test_palette_with_transparency_and_alpha_lose_only_the_transparency():
    array = np.zeros((4, 4, 3), dtype=np.uint8)
    array[:, 2:] = 200
    palette = Image.fromarray(array).quantize(2)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=bytes([0, 128]))
    assert np.array_equal(decode(buffer.getvalue()), array.transpose(2, 0, 1))
    alpha = np.dstack([array, np.full((4, 4), 7, np.uint8)])
    assert np.array_equal(decode(encoded(alpha)), array.transpose(2, 0, 1))


def test_the_orientation_tag_of_a_camera_is_obeyed():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    array = colour(6, 4)
    assert np.array_equal(decode(encoded(array, exif=exif)), np.rot90(array, -1).transpose(2, 0, 1))


def test_a_damaged_tag_beside_whole_pixels_says_nothing():
    array = colour(6, 4)
    data = encoded(array, exif=b"Exif\x00\x00no such thing")
    with Image.open(io.BytesIO(data)) as image, pytest.raises(Exception, match="not a TIFF"):
        ImageOps.exif_transpose(image)
    assert np.array_equal(decode(data), array.transpose(2, 0, 1))


def test_a_file_that_pillow_turns_itself_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    array = colour(6, 4)
    assert np.array_equal(decode(encoded(array, "TIFF", exif=exif)), np.rot90(array, -1).transpose(2, 0, 1))


def test_damaged_pixels_beside_no_tag_are_an_error():
    """Pillow reads them to look for a tag behind, and remembers the black rest as the image."""
    data = bytearray(encoded(colour(64, 64)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ValueError, match=r"image file|decoder|broken"):
        decode(bytes(data))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 40), (33, 47), (8, 8), (5, 64), (32, 32)])
def test_scaling_and_cropping_are_torchvisions_resize_and_center_crop(height, width):
    array = colour(height, width)
    expected = np.asarray(TF.center_crop(TF.resize(Image.fromarray(array), 32), [32, 32]))
    assert np.array_equal(decode(encoded(array), size=32), expected.transpose(2, 0, 1))
    smaller = np.asarray(TF.center_crop(TF.resize(Image.fromarray(array), 40), [32, 32]))
    assert np.array_equal(decode(encoded(array), size=32, resize=40), smaller.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no known image format"),
        (b"not an image", "no known image format"),
        (encoded(colour(64, 64), "JPEG")[:900], "truncated"),
        (encoded(colour(64, 64))[:2000], "truncated"),
        (encoded(GREY.astype(np.float32), "TIFF"), "floating-point"),
    ],
)
def test_what_is_no_whole_image_is_refused(data, reason):
    with pytest.raises(ValueError, match=reason):
        decode(data)


def test_a_stack_is_filled_block_after_block_in_order():
    arrays = [np.full((4, 4, 3), i, dtype=np.uint8) for i in range(200)]
    stack = Stack("some", 200)
    stack.add([encoded(a) for a in arrays[:150]], str)
    stack.add([encoded(a) for a in arrays[150:]], str)
    images = stack.images()
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == list(range(200))


def test_the_first_of_several_failures_is_the_one_named():
    sources = [encoded(GREY)] * 300
    for i in (40, 99, 250):
        sources[i] = b"broken"
    with pytest.raises(
        ValueError, match=r"^image 40 must be an image that can be read, got one that cannot \(no"
    ):
        Stack("some", 300).add(sources, lambda i: f"image {i}")


def test_images_of_two_sizes_ask_for_an_image_size():
    sources = [encoded(colour(4, 6)), encoded(colour(5, 6))]
    with pytest.raises(
        ValueError, match=r"one size, got 6 x 4 pixels first and 6 x 5 in image 1\. Set data\.image_size"
    ):
        Stack("some", 2).add(sources, lambda i: f"image {i}")
    stack = Stack("some", 2, image_size=4)
    stack.add(sources, str)
    assert stack.images().shape == (2, 3, 4, 4)


def test_what_would_not_fit_is_refused_before_it_is_decoded():
    with pytest.raises(
        ValueError, match=r"data\.max_gib = 8 GiB of memory, got 140\.19 GiB \(1,000,000 images of 3 x 224"
    ):
        Stack("some", 1_000_000, image_size=224)
    with pytest.raises(ValueError, match=r"data\.max_gib = 1e-06 GiB"):
        Stack("some", 50, max_gib=1e-6).add([encoded(GREY)], str)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "must hold at least one image"),
        ({"count": 1, "channels": 2}, "data.channels must be 1 or 3, got 2"),
        ({"count": 1, "image_size": 0}, "data.image_size must be at least 1 pixel, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Stack("some", **options)
