"""ONNX: one file for any runtime, which says itself what its images and classes are."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from understudy.data import EvalLoader
from understudy.engine.measure import Measured, measure
from understudy.models.onnx import OnnxNetwork, onnx_module
from understudy.tasks import Task

CPU = torch.device("cpu")
OPSET = 18
"""What torch's exporter is written for: newer ones are made from it by conversion, and older runtimes read it."""
TOLERANCE = 1e-3
"""Of the logits' largest size: float32 sums in another order stay below 1e-5 of it, a wrong operator does not."""


def to_onnx(program: ExportedProgram, about: Mapping[str, str], name: str) -> bytes:
    """Returns the ONNX file of a program, weights inside; input ``images``, output ``logits``, any batch.

    Args:
        program: of :func:`understudy.exports.program.capture`.
        about: what the file says of itself, as ``metadata_props``.
        name: of the network, for messages.

    Raises:
        ValueError: the extra is not installed; ONNX has no form of an operator, which is named.
    """
    onnx = onnx_module("onnx", "the ONNX export")
    onnx_module("onnxscript", "the ONNX export")
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"{name} must be made of operators that ONNX has, got {_unsupported(error)}. "
            "Replace it in the network, or export to pt2 or safetensors"
        ) from None
    assert exported is not None
    model = exported.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph):
        del part.metadata_props[:]  # how it was traced, with names and files of this machine
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    set_metadata(model, about)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def set_metadata(model: Any, about: Mapping[str, str]) -> None:
    """Replaces the ``metadata_props`` of a ``ModelProto``."""
    del model.metadata_props[:]
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)


def compare(
    task: Task, module: nn.Module, network: OnnxNetwork, batches: EvalLoader, num_classes: int
) -> tuple[dict[str, Any], Measured]:
    """Checks an ONNX file against the network it was made of, on real images.

    Args:
        task: of the network.
        module: in PyTorch.
        network: in onnxruntime.
        batches: of the images.
        num_classes: C.

    Returns:
        The figures: ``images`` (how many), ``max_difference`` (the largest of two logits), ``agreement`` (share of
        images, or labelled pixels, to which both give the same class, in percent). And what the ONNX file is worth.

    Raises:
        ValueError: the logits differ by more than rounding explains.
    """
    pair = _Pair(module, network)
    found = measure(task, {"pytorch": pair.ours, "onnx": pair.theirs}, batches, num_classes, CPU)
    if not pair.difference <= TOLERANCE * max(pair.size, 1.0):
        raise ValueError(
            f"{network.name} must give the logits of PyTorch, got a difference of {pair.difference:.3g} where the "
            f"largest logit is {pair.size:.3g}. Export to pt2, and report the network"
        )
    figures = {
        "images": len(batches.image_set),
        "max_difference": pair.difference,
        "agreement": found["onnx"].agreement,
    }
    return figures, found["onnx"]


class _Pair:
    """Two networks on the same batches, one after the other or in turns, and how far their logits differ."""

    def __init__(self, module: nn.Module, network: nn.Module) -> None:
        self._module, self._network = module, network
        self._waiting: deque[Tensor] = deque()
        self.difference, self.size = 0.0, 0.0

    def ours(self, images: Tensor) -> Tensor:
        """Returns the first one's logits, and keeps them for the second."""
        logits = self._module(images)
        self._waiting.append(logits)
        self.size = max(self.size, float(logits.abs().max()))
        return logits

    def theirs(self, images: Tensor) -> Tensor:
        """Returns the second one's logits of the batch that has waited longest."""
        logits = self._network(images)
        difference = float((self._waiting.popleft() - logits).abs().max())
        self.difference = max(self.difference, difference) if difference == difference else difference
        return logits


def _unsupported(error: Exception) -> str:
    """Returns the operator at fault as its name, or the exporter's own words."""
    found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    if found:
        return found[1].replace(".", "::")
    summary = str(error).partition("## Exception summary")[2] or str(error)
    return next((line.strip()[:200] for line in summary.splitlines() if line.strip()), type(error).__name__)
