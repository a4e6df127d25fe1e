"""A table of answers in memory, for one process: on the GPU if it fits there."""

from __future__ import annotations

import os
from typing import TypeAlias

import torch
from torch import Tensor

from understudy.teacher.layout import DTYPES, Layout
from understudy.teacher.table import ViewTable
from understudy.widest import exact_place

_SHARE = 0.5  # of the memory that is free (GPU) or built in (host)


class MemoryTable:
    """As :class:`understudy.teacher.table.ViewTable`, gone when the process ends; memory is used as it fills.

    Args:
        layout: of the rows.
        device: where the answers are wanted; the host's memory is taken where half of the GPU's does not suffice.

    Raises:
        ValueError: it would take more than half of this machine's memory.
    """

    writable = True

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        size = layout.rows * layout.row_bytes
        if device.type == "cuda" and size > _SHARE * torch.cuda.mem_get_info(device)[0]:
            device = torch.device("cpu")
        device = exact_place(device)
        if device.type == "cpu" and size > _SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise ValueError(
                f"a table in memory must fit into half of it, got {size / 2**30:.1f} GiB. "
                "Set teacher.table to a folder, teacher.table_dtype=fp16, or teacher.table=off"
            )
        self._rows = torch.empty(layout.rows, layout.width, dtype=DTYPES[layout.dtype], device=device)
        self._present = torch.zeros(layout.rows, dtype=torch.bool)  # on the host: nobody waits for the GPU

    @property
    def filled(self) -> int:
        """Number of rows that are there."""
        return int(self._present.sum())

    def claim(self) -> bool:
        """Returns that this process may write."""
        return True

    def present(self, keys: Tensor) -> Tensor:
        """Returns which rows are there: bool ``(B,)`` for int64 ``(B,)``."""
        return self._present[keys]

    def read(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Returns rows ``(B, width)`` and which of them may be used ``(B,)``; the others hold anything."""
        return self._rows.index_select(0, keys.to(self._rows.device)), self._present[keys]

    def write(self, keys: Tensor, rows: Tensor) -> None:
        """Stores rows ``(B, width)`` under their numbers ``(B,)``."""
        self._rows.index_copy_(0, keys.to(self._rows.device), rows.to(self._rows.device))
        self._present[keys] = True

    def close(self) -> None:
        """Does nothing; the memory goes with the object."""


Table: TypeAlias = ViewTable | MemoryTable
"""What remembers answers."""
