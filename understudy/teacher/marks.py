"""Marks: four bytes a row that say that it is whole and the one that it should be."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.data.counter import random_bits

_HIGH = np.uint64(32)


class RowMarks:
    """A keyed checksum of rows.

    The words of a row and its number (its key) are each multiplied by a random odd number of 64 bits and added up; the
    upper half of the sum is the mark. Any change of a row (a flipped bit, zeros from a truncated file, a row out of
    another place or another table) goes unnoticed with a probability of about 2^-32.

    Args:
        row_bytes: size of a row, an even number.
        salt: of the table; the same row has another mark in another table.

    Reference: Lemire and Kaser, Strongly universal string hashing is fast, 2014 (multilinear hashing).
    """

    def __init__(self, row_bytes: int, salt: int) -> None:
        self.words = row_bytes // 2
        numbers = random_bits(salt, 0, torch.arange(self.words + 1)).numpy().view(np.uint64) | np.uint64(1)
        self._factors, self._place = numbers[:-1], numbers[-1]

    def __call__(self, keys: NDArray[np.int64], rows: NDArray[np.generic]) -> NDArray[np.uint32]:
        """Returns the marks ``(B,)`` of rows ``(B, width)`` with the numbers ``keys`` ``(B,)``."""
        words = np.ascontiguousarray(rows).view(np.uint16).reshape(len(keys), self.words)
        sums = (words * self._factors).sum(axis=1, dtype=np.uint64)
        sums += (keys.astype(np.uint64) + np.uint64(1)) * self._place
        return (sums >> _HIGH).astype(np.uint32)
