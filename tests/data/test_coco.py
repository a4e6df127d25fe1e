"""Boxes in COCO's format: what is read, scaled and mirrored, and one line for what is wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.data import PadCropFlip, TrainLoader, load
from understudy.data.boxes import mirrored
from understudy.data.coco import read_coco

pytest.importorskip("pycocotools", reason="the extra detection is not installed")


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    return drawn.write(tmp_path_factory.mktemp("scenes"), splits=(("train", 6), ("val", 3)))


def rewritten(folder, root, change):
    """A copy of the set with a change to the content of train.json."""
    for path in folder.rglob("*.*"):
        copy = root / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    content = json.loads((root / "train.json").read_text())
    change(content)
    (root / "train.json").write_text(json.dumps(content))
    return root


def test_classes_are_the_categories_by_number_and_boxes_those_of_the_file(folder, drawn):
    train, val = read_coco(folder)
    assert train.classes == val.classes == drawn.classes
    assert train.image_size == drawn.size
    for i in range(5):
        pixels, found = drawn.picture(i)
        assert torch.equal(train.images[i], torch.tensor(pixels).permute(2, 0, 1))
        rows = train.targets[i][train.targets[i, :, 0] >= 0]
        assert rows[:, 0].tolist() == [{3: 1, 7: 2}[category] for category, _ in found]
        for row, (_, (left, top, width, height)) in zip(rows.tolist(), found, strict=True):
            assert row[1:] == [left, top, left + width, top + height, 0, width * height, 1]
    assert (train.targets[5, :, 0] == -1).all()  # an image without objects
    assert (train.targets[:, :, 7] == 1).all()
    assert train.boxes_by_class.sum() == (train.targets[..., 0] > 0).sum()


def test_images_and_boxes_are_scaled_alike(folder, drawn):
    train, _ = read_coco(folder, image_size=(40, 48))  # half the size, and 8 rows of black below
    assert train.image_size == (40, 48)
    whole, _ = read_coco(folder)
    assert torch.equal(train.targets[..., 1:5], whole.targets[..., 1:5] / 2)
    assert torch.equal(train.targets[..., 6], whole.targets[..., 6])  # areas are of the image as it was read
    assert (train.targets[..., 7] == 0.5).all()
    assert not train.images[:, :, 32:].any()


def test_the_usual_folder_of_annotations_is_found_too(folder, tmp_path):
    root = rewritten(folder, tmp_path, lambda content: None)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"{split}.json").rename(root / "annotations" / f"instances_{split}.json")
    assert torch.equal(read_coco(root)[0].targets, read_coco(folder)[0].targets)


def test_boxes_are_cut_and_those_of_nothing_dropped_with_a_line(folder, tmp_path):
    def change(content):
        first = content["annotations"][0]
        content["annotations"] = [
            {**first, "image_id": 45, "bbox": box}
            for box in ([-5, -6, 20, 20], [90, 60, 20, 20], [200, 5, 10, 10], [5, 5, 0, 10], [5, 5, 10, -3])
        ]

    train, _ = read_coco(rewritten(folder, tmp_path, change))
    assert train.targets[5, :, 1:5].tolist() == [[0, 0, 15, 14], [90, 60, 96, 64]]
    (note,) = train.notes
    assert note == "3 of the boxes in train.json have no area within their image and are left out"


def test_a_crowd_is_there_and_nobody_learns_from_it(folder, tmp_path):
    def change(content):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    train, _ = read_coco(rewritten(folder, tmp_path, change))
    rows = train.targets[train.targets[..., 0] >= 0]
    assert len(rows)
    assert (rows[:, 0] == 0).all()
    assert set(rows[:, 5].tolist()) <= {1, 2}
    assert train.boxes_by_class.tolist() == [0, 0]


def test_sides_may_be_written_with_a_point(folder, tmp_path):
    root = rewritten(folder, tmp_path, _with("images", width=96.0))
    assert torch.equal(read_coco(root)[0].targets, read_coco(folder)[0].targets)


def test_ids_may_be_written_with_a_point(folder, tmp_path):
    root = rewritten(folder, tmp_path, _with("annotations", image_id=40.0, category_id=3.0))
    same = rewritten(folder, tmp_path / "same", _with("annotations", image_id=40, category_id=3))
    assert torch.equal(read_coco(root)[0].targets, read_coco(same)[0].targets)


def test_images_may_be_links(folder, tmp_path):
    root = rewritten(folder, tmp_path, lambda content: None)
    for path in (root / "train").iterdir():
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert torch.equal(read_coco(root)[0].images, read_coco(folder)[0].images)


def test_an_area_of_null_is_that_of_the_box(folder, tmp_path):
    root = rewritten(folder, tmp_path, _with("annotations", area=None))
    ours, theirs = (read_coco(place)[0].targets for place in (root, folder))
    row = ours[ours[..., 0] >= 0]
    assert ((row[:, 3] - row[:, 1]) * (row[:, 4] - row[:, 2]) > 0).all()
    assert torch.equal(ours[..., :6], theirs[..., :6])


def _without(key, part="annotations"):
    return lambda content: content[part][0].pop(key)


def _with(part, **values):
    return lambda content: content[part][0].update(values)


BAD = {
    "no annotations": (lambda c: c.pop("annotations"), r"train.json must hold a list of annotations, got none"),
    "no images": (lambda c: c.update(images=[], annotations=[]), r"must hold at least one image and one category"),
    "no bbox": (_without("bbox"), r"every entry of annotations in .* must have image_id, category_id, bbox, got one"),
    "no size": (_without("width", "images"), r"every entry of images in .* must have id, file_name, width, height"),
    "id twice": (lambda c: c["images"].append(c["images"][0]), r"every id of images in .* must be there once, got 40"),
    "category": (_with("annotations", category_id=4), r"must have a known category_id, got 4 in annotation 1"),
    "image": (_with("annotations", image_id=4), r"must have a known image_id, got 4 in annotation 1"),
    "three numbers": (_with("annotations", bbox=[1, 2, 3]), r"bbox must be four numbers .*got \[1, 2, 3\]"),
    "a word": (_with("annotations", bbox=[1, 2, 3, "x"]), r"bbox must be four numbers"),
    "not finite": (_with("annotations", bbox=[1, 2, 3, float("inf")]), r"bbox must be four numbers"),
    "size": (_with("images", width=97), r"00.png must be 97 x 64 pixels, as its annotations say, got 96 x 64"),
    "no width": (_with("images", width=None), r"width and height must be whole numbers of pixels, got None and 64"),
    "half a pixel": (_with("images", width=96.5), r"whole numbers of pixels, got 96.5 and 64 in image 40"),
    "a text for a side": (_with("images", height="64"), r"whole numbers of pixels, got 96 and '64' in image 40"),
    "area": (_with("annotations", area="large"), r"area must be a number of pixels, got 'large' in annotation 1"),
    "outside": (_with("images", file_name="../../secret.png"), r"must be a path within .*, got '../../secret.png'"),
    "anywhere": (_with("images", file_name="/etc/secret.png"), r"must be a path within .*, got '/etc/secret.png'"),
    "a list for an id": (_with("annotations", image_id=[40]), r"every image_id of annotations .* must be a number"),
    "two kinds of ids": (_with("categories", id="1"), r"every id of categories .* got int, str"),
    "file": (_with("images", file_name="none.png"), r"none.png must be an image that can be read"),
    "classes": (_with("categories", name="ring"), r"train and val must have the same categories"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_what_is_wrong_is_one_line(folder, tmp_path, fault):
    change, match = BAD[fault]
    with pytest.raises(ValueError, match=match) as error:
        read_coco(rewritten(folder, tmp_path, change))
    assert "\n" not in str(error.value)


def test_missing_files_and_sizes_are_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must hold test.json or annotations/instances_test.json"):
        read_coco(folder, test="test")
    with pytest.raises(ValueError, match="must be two splits"):
        read_coco(folder, test="train")
    with pytest.raises(ValueError, match="must be a folder"):
        read_coco(tmp_path / "none")
    with pytest.raises(ValueError, match=r"must fit in data.max_gib = 1e-06 GiB"):
        read_coco(folder, max_gib=1e-6)
    root = rewritten(folder, tmp_path, lambda c: c["images"][1].update(width=48, height=32))
    with Image.open(folder / "train" / "01.png") as picture:
        picture.resize((48, 32)).save(root / "train" / "01.png")
    with pytest.raises(
        ValueError, match=r"all images must have one size, got 96 x 64 pixels first and 48 x 32"
    ):
        read_coco(root)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install '\.\[detection\]'"):
        read_coco(folder)


def test_boxes_are_mirrored_with_their_image_and_twice_is_nothing(folder):
    train, _ = read_coco(folder)
    flip = PadCropFlip(0)
    view = torch.tensor([0, 1, 1])
    once = mirrored(train.targets[:3], flip, view, 96)
    assert torch.equal(once[0], train.targets[0])
    assert torch.equal(mirrored(once, flip, view, 96), train.targets[:3])
    seen = flip.crop(train.images, torch.arange(3), view)
    for rows, image, plain, pixels in zip(once, seen, train.targets, train.images, strict=False):
        for row, own in zip(rows, plain, strict=True):
            if row[0] > 0:
                part, other = ([int(side) for side in r[1:5]] for r in (row, own))
                there = image[:, part[1] : part[3], part[0] : part[2]]
                here = pixels[:, other[1] : other[3], other[0] : other[2]]
                assert there.float().mean() == here.float().mean()


def test_an_epoch_is_the_same_again_and_its_views_are_of_image_and_boxes(folder):
    splits = load("coco", root=str(folder), val=0.2)
    assert len(splits.train) + len(splits.val) == 6

    def batches():
        loader = TrainLoader(
            splits.train, PadCropFlip(0), batch_size=2, seed=1, mean=splits.mean, std=splits.std
        )
        return list(loader.epoch(3))

    for one, other in zip(batches(), batches(), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.target, other.target)
        assert one.target.dtype == torch.float32
        assert np.isin(one.view.numpy(), (0, 1)).all()
