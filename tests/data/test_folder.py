"""Folders of images: numbering as torchvision's, kinds of files, and what can be wrong."""

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from understudy.data import load


def save(path, value=0, dtype=np.uint8, shape=(4, 4, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, dtype=dtype)).save(path)
    return path


@pytest.fixture
def tree(tmp_path):
    for i, name in enumerate(("dog/b.png", "dog/a.png", "Cat/1.bmp", "Cat/sub/2.png", "emu/x.PNG")):
        save(tmp_path / "train" / name, 10 * i)
    save(tmp_path / "test" / "emu" / "y.png", 99)
    save(tmp_path / "test" / "dog" / "z.png", 98)
    return tmp_path


def test_classes_and_order_are_those_of_torchvisions_image_folder(tree):
    splits = load("imagefolder", train=str(tree / "train"))
    reference = ImageFolder(str(tree / "train"))
    assert splits.classes == tuple(reference.classes)
    assert splits.train.targets.tolist() == reference.targets
    pixels = np.stack([np.asarray(image) for image, _ in reference]).transpose(0, 3, 1, 2)
    assert np.array_equal(splits.train.images.numpy(), pixels)
    assert splits.test is None


def test_classes_of_test_have_the_numbers_of_train(tree):
    test = load("imagefolder", train=tree / "train", test=tree / "test").test
    assert test.targets.tolist() == [1, 2]
    assert test.images[:, 0, 0, 0].tolist() == [98, 99]
    assert test.classes == ("Cat", "dog", "emu")


def test_grey_and_16_bit_png_are_read(tmp_path):
    save(tmp_path / "a" / "1.png", 40, shape=(4, 4))
    save(tmp_path / "b" / "2.png", 41 * 257, np.uint16, (4, 4))
    images = load("imagefolder", train=tmp_path).train.images
    assert images[:, :, 0, 0].tolist() == [[40] * 3, [41] * 3]
    assert load("imagefolder", train=tmp_path, channels=1).channels == 1


def test_hidden_files_and_other_files_are_passed_over(tree):
    (tree / "train" / "dog" / ".b.png").write_bytes(b"")
    (tree / "train" / "dog" / "notes.txt").write_text("no image")
    (tree / "train" / ".cache").mkdir()
    assert len(load("imagefolder", train=tree / "train").train) == 5


def test_an_unreadable_image_is_named(tree):
    (tree / "train" / "dog" / "c.jpg").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"dog/c\.jpg must be an image that can be read, got one that cannot"
    ):
        load("imagefolder", train=tree / "train")


def test_an_image_of_another_size_is_named(tree):
    save(tree / "train" / "emu" / "z.png", shape=(6, 4, 3))
    with pytest.raises(
        ValueError, match=r"4 x 4 pixels first and 4 x 6 in .*emu/z\.png\. Set data\.image_size"
    ):
        load("imagefolder", train=tree / "train")
    assert load("imagefolder", train=tree / "train", image_size=4).image_size == (4, 4)


def test_a_missing_folder_is_named(tree):
    with pytest.raises(ValueError, match=r"data\.train must be a folder, got .*/trian"):
        load("imagefolder", train=tree / "trian")
    with pytest.raises(ValueError, match=r"data\.test must be a folder, got .*/val"):
        load("imagefolder", train=tree / "train", test=tree / "val")


def test_a_folder_without_classes_is_refused(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="must hold one folder a class, got none"):
        load("imagefolder", train=tmp_path)


def test_a_class_without_images_is_named(tree):
    (tree / "train" / "fox").mkdir()
    with pytest.raises(ValueError, match=r"train/fox must hold images \(\.bmp, .*\), got none"):
        load("imagefolder", train=tree / "train")


def test_a_class_only_in_test_is_named(tree):
    save(tree / "test" / "fox" / "1.png")
    with pytest.raises(ValueError, match=r"must be among those of data\.train, got 'fox'"):
        load("imagefolder", train=tree / "train", test=tree / "test")


def test_one_folder_for_train_and_test_is_refused(tree):
    with pytest.raises(ValueError, match=r"data\.train and data\.test must be two folders"):
        load("imagefolder", train=tree / "train", test=tree / "train" / ".." / "train")


def test_a_test_folder_within_the_training_folder_is_refused(tree):
    (tree / "test").rename(tree / "train" / "test")
    with pytest.raises(ValueError, match="must lie beside each other"):
        load("imagefolder", train=tree / "train", test=tree / "train" / "test")


def test_a_single_class_is_refused(tmp_path):
    (tmp_path / "only").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "only" / "a.png")
    with pytest.raises(ValueError, match="must have two classes or more, got only 'only'"):
        load("imagefolder", train=str(tmp_path))


def test_an_animation_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "still.png")
    frames = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in (0, 255)]
    frames[0].save(tmp_path / "b" / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"moving\.webp must be an image.*an animation of 2 frames"):
        load("imagefolder", train=str(tmp_path))
