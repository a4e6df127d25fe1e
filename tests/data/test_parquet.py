"""Parquet in the Hugging Face image schema: shards, names, and what can be wrong with them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from understudy.data import load

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value, size=4):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    path,
    labels,
    images=None,
    names=("cat", "dog", "emu"),
    kind=STRUCT,
    columns=("image", "label"),
    several=None,
    **options,
):
    images = [png(i) for i in range(len(labels))] if images is None else images
    rows = [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(images)] if kind == STRUCT else images
    feature = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    feature = several(feature) if several else feature
    info = {"info": {"features": {columns[0]: {"_type": "Image"}, columns[1]: feature}}}
    label = pa.list_(pa.int64()) if several else pa.int64()
    schema = pa.schema([(columns[0], kind), (columns[1], label)], metadata={"huggingface": json.dumps(info)})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table([pa.array(rows, kind), pa.array(labels, label)], schema=schema), path, **options)
    return path


def firsts(image_set):
    return image_set.images[:, 0, 0, 0].tolist()


def test_images_labels_and_class_names_are_read(tmp_path):
    train = write(tmp_path / "train.parquet", [0, 1, 2, 1])
    test = write(tmp_path / "test.parquet", [2, 0], images=[png(77), png(78)])
    splits = load("parquet", train=str(train), test=str(test))
    assert firsts(splits.train) == [0, 1, 2, 3]
    assert firsts(splits.test) == [77, 78]
    assert splits.train.targets.tolist() == [0, 1, 2, 1]
    assert splits.classes == ("cat", "dog", "emu")
    assert (splits.image_size, splits.channels) == ((4, 4), 3)


def test_more_rows_than_a_block_keep_their_order(tmp_path):
    images = [png(i % 251, size=1) for i in range(600)]
    train = write(tmp_path / "a.parquet", [0] * 600, images=images, row_group_size=170)
    assert firsts(load("parquet", train=train).train) == [i % 251 for i in range(600)]


def test_the_image_column_may_be_plain_binary(tmp_path):
    for kind in (pa.binary(), pa.large_binary()):
        train = write(tmp_path / "a.parquet", [0, 1], kind=kind)
        assert firsts(load("parquet", train=train).train) == [0, 1]


def test_columns_may_have_other_names(tmp_path):
    train = write(tmp_path / "a.parquet", [0, 1], columns=("img", "fine_label"))
    splits = load("parquet", train=train, image_column="img", label_column="fine_label")
    assert splits.classes == ("cat", "dog", "emu")


@pytest.mark.parametrize("way", ["folder", "pattern", "list"])
def test_shards_come_in_order_of_their_names(tmp_path, way):
    shards = [write(tmp_path / f"train-{i}.parquet", [i], images=[png(10 * i)]) for i in (2, 0, 1)]
    source = {"folder": tmp_path, "pattern": f"{tmp_path}/train-*.parquet", "list": sorted(map(str, shards))}[
        way
    ]
    train = load("parquet", train=source).train
    assert firsts(train) == [0, 10, 20]
    assert train.targets.tolist() == train.index.tolist() == [0, 1, 2]


def test_without_names_classes_are_called_by_their_numbers(tmp_path):
    train = write(tmp_path / "a.parquet", [0, 4], names=None)
    assert load("parquet", train=train).classes == ("0", "1", "2", "3", "4")


def test_grey_is_read_as_colour_and_colour_as_grey_if_asked(tmp_path):
    train = write(tmp_path / "a.parquet", [0])
    assert load("parquet", train=train, channels=1).train.images.shape == (1, 1, 4, 4)


def test_images_of_different_sizes_are_scaled_if_asked(tmp_path):
    train = write(tmp_path / "a.parquet", [0, 1], images=[png(5, 8), png(6, 16)])
    splits = load("parquet", train=train, image_size=6)
    assert splits.image_size == (6, 6)
    assert firsts(splits.train) == [5, 6]
    with pytest.raises(ValueError, match=r"16 x 16 in .*a\.parquet row 1 .*Set data\.image_size"):
        load("parquet", train=train)


def test_a_corrupt_image_is_named_by_file_row_and_path(tmp_path):
    images = [png(0)] * 300
    images[270] = png(0)[:40]
    train = write(tmp_path / "a.parquet", [0] * 300, images=images)
    with pytest.raises(
        ValueError, match=r"a\.parquet row 270 \(path '270\.png'\) must be an image that can be read"
    ):
        load("parquet", train=train)


def test_a_row_without_bytes_is_named(tmp_path):
    train = write(tmp_path / "a.parquet", [0, 1], images=[png(0), None])
    with pytest.raises(
        ValueError, match=r"a\.parquet row 1 must hold the bytes of an image, got none \(path '1\.png'\)"
    ):
        load("parquet", train=train)


def test_a_missing_label_is_named(tmp_path):
    train = write(tmp_path / "a.parquet", [0, None, 1])
    with pytest.raises(ValueError, match=r"a\.parquet must have a label in every row, got none in row 1"):
        load("parquet", train=train)


def test_a_label_out_of_range_is_named(tmp_path):
    train = write(tmp_path / "a.parquet", [0, 1, 3])
    with pytest.raises(ValueError, match=r"must lie in \[0, 3\), got 3 at image 2"):
        load("parquet", train=train)
    test = write(tmp_path / "b.parquet", [0, -1], names=None)
    with pytest.raises(ValueError, match=r"b\.parquet must lie in \[0, 3\), got -1 at image 1"):
        load("parquet", train=write(tmp_path / "a.parquet", [0]), test=test)


LISTS = {
    "Sequence": lambda feature: {"feature": feature, "_type": "Sequence"},
    "List": lambda feature: {"feature": feature, "_type": "List"},
    "in brackets": lambda feature: [feature],
}
"""How the versions of ``datasets`` have written down that a column holds lists."""


@pytest.mark.parametrize("way", LISTS)
@pytest.mark.parametrize("resident", [True, False])
def test_lists_of_class_numbers_are_several_labels_an_image(tmp_path, way, resident):
    train = write(tmp_path / "a.parquet", [[2, 0], [], None, [1]], several=LISTS[way])
    test = write(tmp_path / "b.parquet", [[0], []], several=LISTS[way])
    splits = load("parquet", train=train, test=test, image_size=8, resident=resident)
    assert splits.classes == ("cat", "dog", "emu")
    assert splits.train.targets.tolist() == [[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, 1, 0]]
    assert splits.test.targets.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert splits.train.targets.dtype == torch.int8


def test_lists_without_names_are_numbered_by_the_training_part(tmp_path):
    train = write(tmp_path / "a.parquet", [[3], [0, 1]], names=None, several=LISTS["List"])
    test = write(tmp_path / "b.parquet", [[1]], names=None, several=LISTS["List"])
    splits = load("parquet", train=train, test=test)
    assert splits.classes == ("0", "1", "2", "3")
    assert splits.test.targets.tolist() == [[0, 1, 0, 0]]


def test_what_can_be_wrong_with_lists_is_named(tmp_path):
    train = write(tmp_path / "a.parquet", [[0], [1, 3]], several=LISTS["List"])
    with pytest.raises(ValueError, match=r"a\.parquet must be class numbers from 0 to 2, got 3 in row 1"):
        load("parquet", train=train)
    unknown = write(tmp_path / "b.parquet", [[0], None], several=LISTS["List"])
    with pytest.raises(ValueError, match="must be known in part at least, got none for image 1"):
        load("parquet", train=write(tmp_path / "c.parquet", [[0]], several=LISTS["List"]), test=unknown)
    with pytest.raises(
        ValueError, match="must hold numbers in all files or lists in all, got 'label' with both"
    ):
        load("parquet", train=unknown, test=write(tmp_path / "d.parquet", [0]))


def test_a_missing_column_lists_those_there_are(tmp_path):
    train = write(tmp_path / "a.parquet", [0], columns=("img", "label"))
    with pytest.raises(
        ValueError, match=r"column 'image', got img, label\. Name the column with data\.image_column"
    ):
        load("parquet", train=train)
    with pytest.raises(
        ValueError, match=r"column 'y', got img, label\. Name the column with data\.label_column"
    ):
        load("parquet", train=train, image_column="img", label_column="y")


def test_columns_of_the_wrong_type_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), path)
    with pytest.raises(ValueError, match=r"column 'image' .* must be binary or a struct .*, got string"):
        load("parquet", train=path)
    pq.write_table(pa.table({"image": [b"a"], "label": ["cat"]}), path)
    with pytest.raises(
        ValueError, match=r"column 'label' .* must be of integers, or of lists of them, got string"
    ):
        load("parquet", train=path)


def test_shards_that_name_other_classes_are_refused(tmp_path):
    train = write(tmp_path / "a.parquet", [0])
    test = write(tmp_path / "b.parquet", [0], names=("cat", "emu", "dog"))
    with pytest.raises(ValueError, match=r"must name the same classes, got other names in .*b\.parquet"):
        load("parquet", train=train, test=test)


def test_a_file_both_in_train_and_test_is_refused(tmp_path):
    write(tmp_path / "train.parquet", [0])
    test = write(tmp_path / "test.parquet", [0])
    with pytest.raises(ValueError, match=r"must share no file, got .*test\.parquet in both"):
        load("parquet", train=tmp_path, test=test)


def test_metadata_that_cannot_be_read_is_refused(tmp_path):
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata={"huggingface": "{"})
    pq.write_table(pa.table([[png(0)], [0]], schema=schema), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"metadata 'huggingface' of .* must be JSON"):
        load("parquet", train=tmp_path)


@pytest.mark.parametrize("keep", [10, -20])
def test_a_file_that_is_not_whole_is_refused_in_one_line(tmp_path, keep):
    path = write(tmp_path / "a.parquet", [0, 1])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.parquet must be a whole Parquet file") as raised:
        load("parquet", train=path)
    assert "\n" not in str(raised.value)


def test_pages_damaged_in_the_middle_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", [0] * 50, compression="zstd")
    data = bytearray(path.read_bytes())
    data[20:200] = bytes(180)
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.parquet must be a whole Parquet file"):
        load("parquet", train=path)


@pytest.mark.parametrize("missing", ["nothing.parquet", "no-*.parquet", "."])
def test_a_path_without_files_is_named(tmp_path, missing):
    with pytest.raises(
        ValueError, match=r"data\.train must name Parquet files .*, got .*, where there are none"
    ):
        load("parquet", train=tmp_path / missing)


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold at least one image"):
        load("parquet", train=write(tmp_path / "a.parquet", []))


def test_more_than_the_memory_bound_is_refused(tmp_path):
    file = write(tmp_path / "a.parquet", [0] * 10)
    with pytest.raises(ValueError, match=r"data\.max_gib = 0\.001 GiB of memory, got 0\.01 GiB"):
        load("parquet", train=file, image_size=600, max_gib=0.001, resident=True)
