"""ONNX: one file for any runtime, which says itself what its images and classes are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from understudy.data import EvalLoader
from understudy.engine.evaluate import Answers, answers
from understudy.metrics import top1_agreement
from understudy.models.onnx import OnnxNetwork, onnx_module

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


def compare(module: nn.Module, network: OnnxNetwork, batches: EvalLoader) -> tuple[dict[str, Any], Answers]:
    """Checks an ONNX file against the network it was made of, on real images.

    Args:
        module: in PyTorch.
        network: in onnxruntime.
        batches: of the images.

    Returns:
        The figures: ``images`` (how many), ``max_difference`` (the largest of two logits), ``agreement`` (share of
        images to which both give the same class, in percent). And the answers of the ONNX file.

    Raises:
        ValueError: the logits differ by more than rounding explains.
    """
    ours, theirs = answers(module, batches), answers(network, batches)
    difference = float((ours.logits - theirs.logits).abs().max())
    size = float(ours.logits.abs().max())
    if not difference <= TOLERANCE * max(size, 1.0):
        raise ValueError(
            f"{network.name} must give the logits of PyTorch, got a difference of {difference:.3g} where the largest "
            f"logit is {size:.3g}. Export to pt2, and report the network"
        )
    figures = {
        "images": len(ours.target),
        "max_difference": difference,
        "agreement": 100 * float(top1_agreement(ours.logits, theirs.logits)),
    }
    return figures, theirs


def _unsupported(error: Exception) -> str:
    """Returns the operator at fault as its name, or the exporter's own words."""
    found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    if found:
        return found[1].replace(".", "::")
    summary = str(error).partition("## Exception summary")[2] or str(error)
    return next((line.strip()[:200] for line in summary.splitlines() if line.strip()), type(error).__name__)
