"""A network from an ONNX file, run by onnxruntime on the CPU: logits only, no gradient."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from understudy.words import first_line


def load_onnx(path: str | Path) -> nn.Module:
    """Returns the classifier in an ONNX file, for example as a teacher whose logits are all that is wanted.

    Nothing in the file is code: onnxruntime knows a fixed set of operators, and no library of others is loaded.
    Weights that the file keeps in other files are not followed.

    Raises:
        ValueError: onnxruntime is not installed; the file is missing or no ONNX that onnxruntime runs; it does not
            map one batch of float images, of any size, to logits.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"an ONNX model must be a file, got {path}, which is none. Check the path")
    return OnnxNetwork(path.read_bytes(), str(path))


class OnnxNetwork(nn.Module):
    """A classifier that onnxruntime runs.

    It has no parameters, so neither an optimiser nor a checkpoint sees it, and its logits carry no gradient.

    Args:
        model: the ONNX file's bytes, weights included.
        name: where they come from, for messages.
        threads: of one operator; by default as many as torch uses.
    """

    content_digest: str
    """SHA-256 of the file: nothing else tells two of them apart."""

    def __init__(self, model: bytes, name: str, threads: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.content_digest = hashlib.sha256(model).hexdigest()
        self.session = _session(model, name, threads or torch.get_num_threads())
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            got = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs) or "nothing"
            raise ValueError(
                f"{name} must take one float tensor (N, C, H, W), got {got}. Export the network alone"
            )
        if isinstance(inputs[0].shape[0], int):
            raise ValueError(
                f"{name} must take any number of images, got exactly {inputs[0].shape[0]}. "
                "Export it with a dynamic batch"
            )
        if len(outputs) != 1 or len(outputs[0].shape) not in (2, 4):
            got = ", ".join(f"{o.name}: {o.shape}" for o in outputs)
            raise ValueError(
                f"{name} must give one tensor of logits (N, classes[, H, W]), got {got}. Export logits only"
            )
        self.input: str = inputs[0].name
        self.output: str = outputs[0].name

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)``, or their map, of ``images`` ``(B, C, H, W)``, on the images' device.

        Raises:
            ValueError: the images are not of the size that the file was made for.
        """
        fed = {self.input: images.detach().to("cpu", torch.float32).contiguous().numpy()}
        try:
            (logits,) = self.session.run([self.output], fed)
        except Exception as error:  # onnxruntime's own classes, which share no narrower base
            raise ValueError(
                f"{self.name} must be given images it was made for, got {tuple(images.shape)}: "
                f"{first_line(error)}. Resize the images or export the network for this size"
            ) from None
        return torch.from_numpy(logits).to(images.device)


def onnx_module(name: str, task: str) -> ModuleType:
    """Returns a module of the extra ``onnx``, imported only now.

    Args:
        name: ``onnx``, ``onnxruntime``, or a module of theirs.
        task: what needs it, for the message.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"{task} must have {name.partition('.')[0]} installed, got none. "
            "Install the extra: pip install '.[onnx]'"
        ) from None


def _session(model: bytes, name: str, threads: int) -> Any:
    runtime = onnx_module("onnxruntime", name)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # only what is fatal: an error is raised too, and said once
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which share no narrower base
        raise ValueError(
            f"{name} must be an ONNX model that onnxruntime runs, got: {first_line(error)}. "
            "Export it again, weights in the same file"
        ) from None
