"""int8: weights and activations in 8 bits, by static quantisation with onnxruntime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.data import EvalLoader
from understudy.data.images import ImageSet
from understudy.data.splits import kinds
from understudy.data.subsets import stratified
from understudy.exports.onnx import set_metadata
from understudy.models.onnx import onnx_module

CALIBRATION_IMAGES = 512
"""Training images that the ranges of the activations are measured on; as many as common recipes take."""


def calibration_set(train: ImageSet) -> ImageSet:
    """Returns the images to calibrate on: of *train*, every class in proportion, the same ones always."""
    return train.subset(stratified(kinds(train), min(CALIBRATION_IMAGES, len(train)), seed=0))


def to_int8(model: bytes, calibration: EvalLoader, about: Mapping[str, str]) -> bytes:
    """Returns the ONNX file of the quantised network; it still takes and gives float32.

    Format QDQ, weights int8 with a scale per channel, activations uint8 with their smallest and largest value on the
    calibration images as range. Weights use 7 of their 8 bits: on a CPU without VNNI, products of the full range
    saturate, and the accuracy measured on one machine would not hold on another.

    Args:
        model: the ONNX file in float32.
        calibration: batches of :func:`calibration_set`.
        about: what the file says of itself.

    Raises:
        ValueError: the extra is not installed.
    """
    onnx = onnx_module("onnx", "the int8 export")
    quantization = onnx_module("onnxruntime.quantization", "the int8 export")
    shapes = onnx_module("onnxruntime.quantization.shape_inference", "the int8 export")

    class Reader(quantization.CalibrationDataReader):
        """Feeds the calibration images once."""

        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.images.numpy()}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, ready, quantised = (Path(folder) / name for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
        plain.write_bytes(model)
        shapes.quant_pre_process(
            str(plain), str(ready)
        )  # batch norms into convolutions, shapes of all tensors
        quantization.quantize_static(
            str(ready),
            str(quantised),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        result = onnx.load(str(quantised))
    set_metadata(result, about)
    onnx.checker.check_model(result)
    return result.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's advice to the developer (logged on the root logger) from the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
