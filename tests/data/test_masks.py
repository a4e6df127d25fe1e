"""Images with masks from files: three layouts, and what is wrong with them in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.data import MaskSet, load
from understudy.data.segmentation import CITYSCAPES, VOC

SIZE = (12, 16)


def write(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8), **options).save(path)


def picture(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3))


def mask(seed, size=SIZE, classes=3):
    values = np.random.default_rng(100 + seed).integers(0, classes, size)
    values[0] = 255
    return values


@pytest.fixture
def folder(tmp_path):
    """Six images to train on and two to measure."""
    root = tmp_path / "set"
    for split, count in (("train", 6), ("val", 2)):
        for i in range(count):
            write(root / "images" / split / f"{i}.png", picture(i))
            write(root / "labels" / split / f"{i}.png", mask(i))
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return root


def test_pairs_of_folders_are_read(folder):
    data = load("maskfolder", root=str(folder))
    assert isinstance(data.train, MaskSet)
    assert data.classes == ("sky", "road", "car")
    assert data.train.images.shape == (6, 3, *SIZE)
    assert data.train.targets.dtype == torch.uint8
    for i in range(6):
        assert torch.equal(data.train.targets[i], torch.tensor(mask(i), dtype=torch.uint8))
        assert torch.equal(data.train.images[i], torch.tensor(picture(i), dtype=torch.uint8).permute(2, 0, 1))
    assert len(data.test) == 2
    assert data.train.pixels_by_class.sum() == 6 * 11 * 16


def test_images_are_held_out_with_their_masks(folder):
    data = load("camvid", root=str(folder), val=0.34, limit=3)
    assert (len(data.train), len(data.val)) == (3, 2)
    assert isinstance(data.val, MaskSet)
    for one in (data.train, data.val):
        for k, i in enumerate(one.index.tolist()):
            assert torch.equal(one.targets[k], torch.tensor(mask(i), dtype=torch.uint8))
    assert not set(data.train.index.tolist()) & set(data.val.index.tolist())


def test_a_size_keeps_the_shape_and_ignores_what_is_left_over(folder):
    data = load("maskfolder", root=str(folder), image_size=[6, 12])
    assert data.image_size == (6, 12)
    assert bool((data.train.targets[:, :, 8:] == 255).all())
    assert not data.train.images[:, :, :, 8:].any()
    nearest = torch.tensor(mask(0))[1::2, 1::2]  # Pillow takes the pixel at the middle of each 2×2
    assert torch.equal(data.train.targets[0, :, :8].long(), nearest)


def test_images_of_two_sizes_need_one(folder):
    write(folder / "images/train/5.png", picture(5, (10, 10)))
    write(folder / "labels/train/5.png", mask(5, (10, 10)))
    with pytest.raises(
        ValueError, match=r"one size, got 16 x 12 .* and 10 x 10 in .*5.png. Set data.image_size="
    ):
        load("maskfolder", root=str(folder))
    assert load("maskfolder", root=str(folder), image_size=8).image_size == (8, 8)


def break_size(root):
    write(root / "labels/train/3.png", mask(3, (12, 15)))


def break_values(root):
    write(root / "labels/train/3.png", np.where(mask(3) == 2, 7, mask(3)))


def break_colours(root):
    write(root / "labels/train/3.png", picture(3))


def break_file(root):
    (root / "labels/train/3.png").write_bytes(b"not a picture")


def break_image(root):
    (root / "images/train/3.png").write_bytes(b"not a picture")


def break_missing(root):
    (root / "labels/train/3.png").unlink()


def break_wide(root):
    Image.fromarray(np.full(SIZE, 40_000, dtype=np.uint16)).save(root / "labels/train/3.png")


def break_cut(root):
    path = root / "labels/train/3.png"
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (
            break_size,
            r"a mask must have the size of its image, got 15 x 12 pixels in .*3.png and 16 x 12 in .*3.png",
        ),
        (break_values, r"3.png must hold class numbers below 3, or 255 for what is ignored, got 7"),
        (break_colours, r"3.png must hold one class number a pixel, got colours \(RGB\)"),
        (break_file, r"3.png must be a mask that can be read, got no known image format"),
        (break_image, r"3.png must be an image that can be read, got one that cannot"),
        (break_missing, r"every image must have a mask, got .*images.*3.png without .*labels.*3.png"),
        (break_wide, r"3.png must hold numbers from 0 to 255, got 40000 to 40000"),
        (break_cut, r"3.png must be a mask that can be read, got one that cannot"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_one_line_that_names_the_file(folder, fault, match):
    fault(folder)
    with pytest.raises(ValueError, match=match) as error:
        load("maskfolder", root=str(folder))
    assert "\n" not in str(error.value)


def test_masks_without_any_label_are_read(folder):
    write(folder / "labels/train/3.png", np.full(SIZE, 255))
    assert bool((load("maskfolder", root=str(folder)).train.targets[3] == 255).all())


def test_a_missing_list_of_classes_folder_or_split_is_said(folder):
    with pytest.raises(ValueError, match=r"must hold images/SPLIT, got no folder .*nothing"):
        load("maskfolder", root=str(folder), train="nothing")
    with pytest.raises(ValueError, match="must be two splits, got train for both"):
        load("maskfolder", root=str(folder), test="train")
    with pytest.raises(ValueError, match=r"data.root must be a folder, got .*nowhere"):
        load("maskfolder", root=str(folder / "nowhere"))
    (folder / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(ValueError, match="must name every class once"):
        load("maskfolder", root=str(folder))
    (folder / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"must hold classes.txt with the name of a class on each line"):
        load("maskfolder", root=str(folder))


def test_memory_is_asked_for_before_anything_is_read(folder):
    with pytest.raises(
        ValueError, match=r"must fit in data.max_gib = 1e-06 GiB .* \(6 images of 3 x 12 x 16"
    ):
        load("maskfolder", root=str(folder), max_gib=1e-6)


def test_images_of_classes_must_be_squares(tmp_path):
    with pytest.raises(ValueError, match=r"data.image_size must be one number for imagefolder, got \[8, 9\]"):
        load("imagefolder", train=str(tmp_path), image_size=[8, 9])


def test_a_palette_is_read_by_its_numbers(folder):
    picture = Image.fromarray(mask(3).astype(np.uint8))
    picture.putpalette([200, 10, 10] * 256)
    picture.save(folder / "labels/train/3.png")
    targets = load("maskfolder", root=str(folder)).train.targets[3]
    assert torch.equal(targets, torch.tensor(mask(3), dtype=torch.uint8))


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, kind):
    ids = np.array([*CITYSCAPES.values(), 0, 4, 255])
    given = np.resize(ids if kind == "labelIds" else [*range(19), 255, 255, 255], SIZE)
    for split in ("train", "val"):
        stem = f"ulm_000000_00001{split == 'val'}"
        write(tmp_path / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png", picture(0))
        write(tmp_path / "gtFine" / split / "ulm" / f"{stem}_gtFine_{kind}.png", given)
    data = load("cityscapes", root=str(tmp_path))
    expected = np.resize([*range(19), 255, 255, 255], SIZE)
    assert np.array_equal(data.train.targets[0].numpy(), expected)
    assert (data.num_classes, data.classes[0], data.classes[18]) == (19, "road", "bicycle")


def test_voc(tmp_path):
    for i, (split, size) in enumerate((("train", SIZE), ("val", (16, 12)))):
        write(tmp_path / "JPEGImages" / f"{split}.jpg", picture(i, size))
        write(tmp_path / "SegmentationClass" / f"{split}.png", mask(i, size, 21))
        listed = tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text(f"{split}\n")
    data = load("voc", root=str(tmp_path), image_size=16)
    assert data.classes == VOC
    assert len(VOC) == 21
    assert np.array_equal(data.train.targets[0, :12].numpy(), mask(0, classes=21))
    assert bool((data.train.targets[0, 12:] == 255).all())
    with pytest.raises(ValueError, match=r"must hold ImageSets/Segmentation/other.txt"):
        load("voc", root=str(tmp_path), train="other")
    both = tmp_path / "ImageSets" / "Segmentation" / "trainval.txt"
    both.write_text("train\nval\n")
    with pytest.raises(ValueError, match=r"must share no image, got 1 in both, the first .*val\.jpg"):
        load("voc", root=str(tmp_path), train="trainval", image_size=16)
