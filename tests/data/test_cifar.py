"""CIFAR from files of torchvision's layout, written here with their own checksums."""

import hashlib
import pickle

import numpy as np
import pytest
import torchvision

from understudy.data import load


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with 20 training and 10 test images of either set, which torchvision accepts as whole."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3072), dtype=np.uint8)
    kinds = (
        (torchvision.datasets.CIFAR10, 10, "labels"),
        (torchvision.datasets.CIFAR100, 100, "fine_labels"),
    )
    for kind, num_classes, key in kinds:
        folder = tmp_path / kind.base_folder
        labels = [i % num_classes for i in range(30)]
        names = [f"class {c}" for c in range(num_classes)]
        train = write(folder / "one", {"data": pixels[:20], key: labels[:20]})
        test = write(folder / "two", {"data": pixels[20:], key: labels[20:]})
        meta = write(folder / "meta", {kind.meta["key"]: names})
        monkeypatch.setattr(kind, "train_list", [["one", train]])
        monkeypatch.setattr(kind, "test_list", [["two", test]])
        monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": kind.meta["key"], "md5": meta})
    return tmp_path, pixels


@pytest.mark.parametrize(("name", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_pixels_labels_and_names_are_those_of_the_files(cifar, name, num_classes):
    root, pixels = cifar
    splits = load(name, root=str(root))
    assert np.array_equal(splits.train.images.numpy(), pixels[:20].reshape(-1, 3, 32, 32))
    assert np.array_equal(splits.test.images.numpy(), pixels[20:].reshape(-1, 3, 32, 32))
    assert splits.train.images.is_contiguous()
    assert splits.test.targets.tolist() == [i % num_classes for i in range(20, 30)]
    assert splits.classes == tuple(f"class {c}" for c in range(num_classes))


def test_normalisation_is_the_published_one(cifar):
    splits = load("cifar100", root=cifar[0])
    assert (splits.mean, splits.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert load("cifar10", root=cifar[0]).std == (0.2470, 0.2435, 0.2616)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_files_are_not_fetched_unasked(tmp_path, name):
    with pytest.raises(
        ValueError, match=rf"{tmp_path}.* must hold {name} as cifar-10.*data\.download=true to fetch it"
    ):
        load(name, root=tmp_path)


def test_a_damaged_file_counts_as_missing(cifar):
    root, _ = cifar
    path = root / "cifar-10-batches-py" / "one"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="got no complete copy"):
        load("cifar10", root=root)


def test_a_failed_download_says_why_in_one_line(tmp_path, monkeypatch):
    def no_network(self):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", no_network)
    with pytest.raises(
        ValueError, match=r"must be downloaded to .*, got: no route to host\. Check"
    ) as raised:
        load("cifar10", root=tmp_path, download=True)
    assert "\n" not in str(raised.value)
