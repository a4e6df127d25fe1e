"""From a teacher and its images to what answers them: block size, layout of a row, fingerprint, table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from understudy.data.images import ImageSet
from understudy.data.policy import Augment
from understudy.teacher.blocks import Blocks, block_size
from understudy.teacher.fingerprint import Fingerprint, fingerprint
from understudy.teacher.frozen import Teacher
from understudy.teacher.layout import STORABLE, Layout, TableDtype, columns, exact_dtype
from understudy.teacher.memory import MemoryTable, Table
from understudy.teacher.source import ViewSource
from understudy.teacher.table import ViewTable
from understudy.widest import has_float64

_SAMPLE = 8  # images to see what the teacher shows


@dataclass(frozen=True, slots=True)
class Images:
    """The training images as they are shown."""

    image_set: ImageSet
    """On the device where the teacher runs, or on the host for one without float64."""
    augment: Augment
    mean: Sequence[float]
    std: Sequence[float]
    memory_format: torch.memory_format = torch.contiguous_format


def can_answer_ahead(roles: Iterable[str]) -> bool:
    """Returns whether all roles are vectors; a teacher that must show maps in every step runs batch by batch."""
    return set(roles) <= STORABLE


def view_source(module: nn.Module, images: Images) -> ViewSource:
    """Returns the images in the precision of a network's weights."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    return ViewSource(
        images.image_set,
        images.augment,
        images.mean,
        images.std,
        dtype=like.dtype,
        memory_format=images.memory_format,
        device=None if has_float64(like.device) else like.device,  # whose images are on the host
    )


def assemble_blocks(
    teacher: Teacher,
    images: Images,
    roles: Iterable[str],
    *,
    size: int | None = None,
    dtype: TableDtype | None = None,
) -> Blocks:
    """Returns the teacher in blocks.

    Args:
        teacher: as it will run.
        images: what it is asked about.
        roles: what is asked in every step, of what the teacher shows; only such as :func:`can_answer_ahead`.
        size: of a block; by default what suits the device.
        dtype: of a table's rows. ``None`` is for answers that no table keeps: all roles as the teacher shows them.
    """
    roles = tuple(roles)
    assert can_answer_ahead(roles)
    source = view_source(teacher.module, images)
    shown = teacher.show(source.sample(_SAMPLE))
    if dtype is None:
        held = tuple((role, shown[role].shape[1]) for role in roles)
        name = exact_dtype(shown)
    else:
        held, name = columns(roles, shown, teacher.network), dtype
    layout = Layout(len(source), images.augment.num_views, held, name)
    return Blocks(
        teacher, source, layout, block_size(len(source), source.device, size, source.image_set.image_size)
    )


def identify(blocks: Blocks, original: nn.Module) -> Fingerprint:
    """Returns the fingerprint of what ``blocks`` answers; ``original`` is the teacher as given, before folding."""
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in original.modules())
    left = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in blocks.teacher.module.modules())
    return fingerprint(original, blocks, folded=norms - left)


def open_table(path: Path | None, blocks: Blocks, original: nn.Module) -> Table:
    """Returns the table for what ``blocks`` answers: a folder, or memory for ``None``.

    Raises:
        ValueError: as :class:`understudy.teacher.table.ViewTable` or :class:`understudy.teacher.memory.MemoryTable`.
    """
    if path is None:
        return MemoryTable(blocks.layout, blocks.source.device)
    return ViewTable(path, identify(blocks, original), blocks.layout)
