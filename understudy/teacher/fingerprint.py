"""What a table of answers belongs to: everything that an answer depends on, as short texts that can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.data.images import ImageSet
from understudy.teacher.blocks import Blocks

_PIECE = 2**26  # bytes moved to the host and hashed at once


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Names of parts and what they are; two tables are interchangeable if all parts are equal.

    These change what an answer *is*: ``weights``, ``architecture``, ``data``, ``normalisation``, ``views``,
    ``precision``, ``stored`` and ``dtype`` (what a row holds). These change its last bits: ``folding``, ``block``
    (size), ``device`` (its kind), ``layout`` (where it is not channels-last), ``matmul`` and ``convolution`` (where
    torch's switches of float32's precision are not as it sets them) and ``torch`` (first two numbers of the version);
    they count just as much, so that a run's bits never depend on who filled the table. Not among them: labels, which
    no answer depends on; and the processor's model and the number of threads, which may change the last bits but by
    which no table should be lost. Code that a network's ``repr`` does not show is not seen either:
    :func:`understudy.teacher.upkeep.verify` is what finds it.
    """

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """64 hexadecimal digits over all parts."""
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()

    def differing(self, parts: Mapping[str, str]) -> list[str]:
        """Returns the names of the parts that are other ones there, sorted."""
        names = self.parts.keys() | parts.keys()
        return sorted(name for name in names if self.parts.get(name) != parts.get(name))


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set for single backends, which has no one name
        cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
        return f"{cuda.fp32_precision} on CUDA, {cpu.fp32_precision} on a CPU"


def _tensor_float_convolutions() -> bool:
    """Whether cuDNN may round what convolutions multiply, which is torch's default."""
    convolution = getattr(torch.backends.cudnn, "conv", None)  # from torch 2.9 on
    if convolution is None:
        return torch.backends.cudnn.allow_tf32
    return convolution.fp32_precision == "tf32"


def fingerprint(original: nn.Module, blocks: Blocks, *, folded: int) -> Fingerprint:
    """Returns what the answers of ``blocks`` depend on.

    Args:
        original: the teacher as it was given, before folding (folding rounds, so its result may differ elsewhere).
        blocks: the teacher as it runs.
        folded: number of batch norms folded.
    """
    source, layout = blocks.source, blocks.layout
    height, width = source.image_set.image_size
    augment = source.augment
    other = {} if source.memory_format == torch.channels_last else {"layout": "contiguous"}
    if (matmul := _matmul_precision()) != "highest":
        other["matmul"] = f"float32 at {matmul}"
    if not _tensor_float_convolutions():
        other["convolution"] = "float32 with all its digits"
    return Fingerprint(
        other
        | {
            "weights": weights_digest(original),
            "architecture": _digest(
                f"{type(original).__module__}.{type(original).__qualname__}\n{original!r}"
            ),
            "data": data_digest(source.image_set),
            "normalisation": f"mean {source.mean}, std {source.std}",
            "views": f"{layout.views}: {augment!r} of {height}x{width}",
            "precision": f"{blocks.teacher.precision}, images {source.dtype}".replace("torch.", ""),
            "folding": f"{folded} batch norms",
            "block": str(blocks.size),
            "device": source.device.type,
            "torch": ".".join(torch.__version__.split(".")[:2]),
            "stored": layout.stored + f" into {blocks.teacher.network.head}" * ("feature" in layout.stored),
            "dtype": layout.dtype,
        }
    )


def weights_digest(module: nn.Module) -> str:
    """Returns a SHA-256 over names, types, shapes and values of all parameters and buffers.

    Of a network that was read from a saved program also over what the file says beside them (``content_digest``).
    """
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        if isinstance(content := getattr(part, "content_digest", None), str):
            digest.update(f"{name} {content}\n".encode())
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        _update(digest, tensor.detach())
    return digest.hexdigest()


def data_digest(image_set: ImageSet) -> str:
    """Returns a SHA-256 over the pixels in their order, the images' numbers and the names of the classes.

    All pixels are read: a second for 2 GB, which is little beside what a wrong table would cost.
    """
    assert isinstance(image_set.images, Tensor)  # there are no tables of others
    digest = hashlib.sha256()
    digest.update(json.dumps([list(image_set.images.shape), list(image_set.classes)]).encode())
    _update(digest, image_set.index)
    _update(digest, image_set.images)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    for piece in flat.split(_PIECE):
        digest.update(piece.cpu().numpy().data)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
