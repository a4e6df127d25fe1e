"""scikit-learn's handwritten digits: 8 x 8 grey, the set that needs no download."""

from __future__ import annotations

import torch

from understudy.data.images import ImageSet
from understudy.data.subsets import complement, stratified

_NUM_TEST = 500
_SPLIT_SEED = 0  # never change: reported numbers rest on this split


def read_digits() -> tuple[ImageSet, ImageSet]:
    """Returns 1,297 images to train on and 500 to test on, the same ones always, every digit in proportion.

    The grey values 0 to 16 are scaled to 0 to 255.

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998. scikit-learn has the
    1,797 images of its test part, undivided; this division is ours.
    """
    from sklearn.datasets import load_digits  # seconds to import

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels * (255 / 16)).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(labels).long()
    classes = [str(c) for c in range(10)]
    test = stratified(targets, _NUM_TEST, _SPLIT_SEED)
    train = complement(test, len(targets))
    return (
        ImageSet.read(images[train], targets[train], classes, "digits/train"),
        ImageSet.read(images[test], targets[test], classes, "digits/test"),
    )
