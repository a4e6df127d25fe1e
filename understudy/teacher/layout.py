"""What a row of answers is: which roles it holds, in which number type, and how it is packed and read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from understudy.interface import Network, Outputs
from understudy.models.translated import classify
from understudy.widest import widened

TableDtype: TypeAlias = Literal["fp16", "fp32", "fp64"]
DTYPES: dict[TableDtype, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
STORABLE = frozenset({"logits", "feature"})
"""Roles that are one vector an image; maps would take a hundred times the space."""
_DERIVED_WITHIN = 2e-2  # of the largest logit; a head in bf16 rounds to 4e-3


def exact_dtype(shown: Outputs) -> TableDtype:
    """Returns the number type that keeps a teacher's answers to the last bit; they are in float32 or wider."""
    return "fp64" if any(tensor.dtype == torch.float64 for tensor in shown.values()) else "fp32"


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of equal width, one for every view of every training image."""

    images: int
    views: int
    columns: tuple[tuple[str, int], ...]
    """Roles in a row and their widths."""
    dtype: TableDtype

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.images * self.views

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(width for _, width in self.columns)

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return self.width * DTYPES[self.dtype].itemsize

    @property
    def stored(self) -> str:
        """The columns in words."""
        return ", ".join(f"{role} {width}" for role, width in self.columns)

    def keys(self, rows: Tensor, view: Tensor) -> Tensor:
        """Returns the row number of every (image, view) pair; all views of an image lie together."""
        return rows * self.views + view

    def pairs(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the (image, view) pair of every row number."""
        return keys // self.views, keys % self.views

    def pack(self, shown: Outputs) -> Tensor:
        """Returns the answers to a batch as rows ``(B, width)``.

        Raises:
            ValueError: a number does not fit into fp16.
        """
        rows = torch.cat([shown[role] for role, _ in self.columns], dim=1).to(DTYPES[self.dtype])
        if self.dtype == "fp16" and not bool(torch.isfinite(rows).all()):
            raise ValueError(
                "the teacher's answers must be finite and within ±65504 to be kept in fp16, got larger ones. "
                "Use teacher.table_dtype=fp32, or check the teacher's weights"
            )
        return rows

    def unpack(self, rows: Tensor, network: Network) -> Outputs:
        """Returns rows as a teacher shows them, in float32 or wider; logits that are not kept come from the feature.

        Args:
            rows: ``(B, width)``.
            network: the teacher's, for its classifier.
        """
        parts = rows.split([width for _, width in self.columns], dim=1)
        shown = {role: widened(part) for (role, _), part in zip(self.columns, parts, strict=True)}
        if "logits" not in shown:
            shown["logits"] = classify(network, shown["feature"])
        return shown


def columns(roles: Iterable[str], shown: Outputs, network: Network) -> tuple[tuple[str, int], ...]:
    """Returns what must be kept so that all ``roles`` can be had.

    Logits alone are kept as they are. Where the feature is needed too, it is kept alone if the logits follow from it
    (``W f + b``, of classes merged as the teacher's are; looked at, not assumed: what follows the classifier may do
    more); otherwise both are kept. From logits a feature cannot be had.

    Args:
        roles: among ``logits`` and ``feature``.
        shown: the teacher's answers to a few images.
        network: the teacher's.
    """
    needed = [role for role in ("feature", "logits") if role in set(roles)]
    if needed == ["feature", "logits"] and network.head is not None:
        logits = shown["logits"]
        error = (classify(network, shown["feature"]) - logits).abs().max()
        if bool(error <= _DERIVED_WITHIN * logits.abs().max()):
            needed = ["feature"]
    return tuple((role, shown[role].shape[1]) for role in needed)
