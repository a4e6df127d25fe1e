"""COCO's scores of found objects, by pycocotools."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_SIZES = ("small", "medium", "large")
"""COCO's: below 32², below 96², and above, in pixels of the images as they were read."""


def check_pycocotools() -> None:
    """Refuses to go on without pycocotools.

    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise ValueError(
            "pycocotools must be installed to measure found objects, got no such package. "
            "Install the extra: pip install '.[detection]'"
        )


def detection_scores(
    found: Tensor, target: Tensor, num_classes: int
) -> tuple[dict[str, float], list[float | None]]:
    """Returns COCO's average precision, in percent, and that of every class.

    Both are taken in pixels of the images as they were read, so a size is small, medium or large there.

    Args:
        found: box, score and class number from 1 of the objects found in each image; rows of score 0 are none.
        target: rows of class number (0: a crowd, whose class stands in column 5), box, crowd, area and scale.
        num_classes: C.

    Returns:
        ``ap`` (the mean over IoU 0.50 to 0.95), ``ap50`` and ``ap75``, and those of ``ap_small``, ``ap_medium`` and
        ``ap_large`` of which there are objects, 0 to 100; and ``ap`` of each class, ``None`` for one without an object.
        All means are over the classes that have objects.

    Raises:
        ValueError: pycocotools is not installed.

    Shape:
        found: ``(N, D, 6)``; target: ``(N, M, 8)``.

    Example:
        >>> import torch
        >>> from understudy.metrics.boxes import detection_scores
        >>> target = torch.tensor([[[1.0, 10, 10, 60, 60, 0, 2500, 1]]])
        >>> found = torch.tensor([[[10.0, 10, 60, 60, 0.9, 1], [10.0, 10, 60, 40, 0.3, 1]]])
        >>> scores, by_class = detection_scores(found, target, num_classes=2)
        >>> round(scores["ap"], 6), round(scores["ap50"], 6), by_class[1]
        (100.0, 100.0, None)

    Reference: Lin et al., Microsoft COCO, ECCV 2014; cocodataset.org/#detection-eval. At most 100 objects an image
    count.
    """
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: Any = COCO()
    said, objects = _found(found, target), _objects(target)
    truth.dataset = {
        "images": [{"id": i} for i in range(1, len(target) + 1)],
        "categories": [{"id": k} for k in range(1, num_classes + 1)],
        "annotations": objects,
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it reports as it goes
        truth.createIndex()
        if len(said) == 0:
            return _nothing_found(objects, num_classes)
        judge: Any = COCOeval(truth, truth.loadRes(said), "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]  # IoU x recall x class x size x most; -1 where there is no object
    return _scores(precision[..., -1])


def _scores(precision: NDArray[np.float64]) -> tuple[dict[str, float], list[float | None]]:
    """Returns means of precisions by IoU, recall, class and size; -1 where there is no object."""
    whole = precision[..., 0]
    scores = {
        "ap": _mean(whole) or 0.0,
        "ap50": _mean(whole[0]) or 0.0,
        "ap75": _mean(whole[5]) or 0.0,
    }
    for i, size in enumerate(_SIZES, start=1):
        value = _mean(precision[..., i])
        scores |= {} if value is None else {f"ap_{size}": value}
    return scores, [_mean(whole[:, :, k]) for k in range(whole.shape[2])]


def _mean(precision: NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return float(100 * known.mean()) if known.size else None


def _nothing_found(
    objects: Sequence[dict[str, Any]], num_classes: int
) -> tuple[dict[str, float], list[float | None]]:
    """Returns the scores of no object found: 0 of whatever there was to find."""
    real = [entry for entry in objects if not entry["iscrowd"]]
    present = {entry["category_id"] for entry in real}
    edges = (32**2, 96**2)
    sizes = {sum(entry["area"] > edge for edge in edges) for entry in real}
    scores = dict.fromkeys(("ap", "ap50", "ap75"), 0.0)
    scores |= {f"ap_{name}": 0.0 for i, name in enumerate(_SIZES) if i in sizes}
    return scores, [0.0 if k in present else None for k in range(1, num_classes + 1)]


def _objects(target: Tensor) -> list[dict[str, Any]]:
    """Returns the annotations, in pixels of the images as they were read."""
    entries: list[dict[str, Any]] = []
    for image, rows in enumerate(target.double().cpu().tolist(), start=1):
        for number, left, top, right, bottom, crowd, area, scale in rows:
            if number < 0:
                continue
            entries.append(
                {
                    "id": len(entries) + 1,  # 0 would count as unmatched
                    "image_id": image,
                    "category_id": int(crowd or number),
                    "bbox": [left / scale, top / scale, (right - left) / scale, (bottom - top) / scale],
                    "area": area,
                    "iscrowd": int(crowd > 0),
                }
            )
    return entries


def _found(found: Tensor, target: Tensor) -> NDArray[np.float64]:
    """Returns rows of image, box as left, top, width and height, score and class."""
    boxes = found.double().cpu().clone()  # of float64 on a CPU the first two make no copy
    boxes[..., :4] /= target[:, :1, 7:8].double().cpu()
    boxes[..., 2:4] -= boxes[..., :2]
    image, place = (boxes[..., 4] > 0).nonzero(as_tuple=True)
    rows = boxes[image, place].numpy()
    return np.column_stack([image.numpy() + 1, rows])
