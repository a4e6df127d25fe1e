"""scikit-learn's digits: the pixels and the fixed split."""

import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits

from understudy.data.digits import read_digits


def test_the_split_is_1297_and_500_and_never_changes():
    train, test = read_digits()
    assert (len(train), len(test)) == (1297, 500)
    assert hashlib.sha256(test.images.numpy().tobytes()).hexdigest()[:16] == "da93b824269c8b68"


def test_every_digit_is_tested_in_proportion():
    _, test = read_digits()
    share = torch.from_numpy(np.bincount(load_digits().target)) * 500 / 1797
    assert ((test.targets.bincount() - share).abs() < 1).all()


def test_train_and_test_together_are_all_images_scaled_to_8_bits():
    source = load_digits()
    expected = {
        (np.rint(i * 255 / 16).astype(int).tobytes(), t)
        for i, t in zip(source.images, source.target, strict=True)
    }
    got = {
        (image[0].long().numpy().tobytes(), int(target))
        for part in read_digits()
        for image, target in zip(part.images, part.targets, strict=True)
    }
    assert got == expected


def test_black_is_0_and_full_ink_is_255():
    train, _ = read_digits()
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert train.images.shape[1:] == (1, 8, 8)
