import numpy as np
import pytest

from understudy.teacher.marks import RowMarks

KEYS = np.arange(5, 35)
ROWS = np.random.default_rng(0).standard_normal((30, 10)).astype(np.float32)


def test_a_mark_is_a_pure_function_of_row_number_and_salt():
    assert np.array_equal(RowMarks(40, 7)(KEYS, ROWS), RowMarks(40, 7)(KEYS.copy(), ROWS.copy()))
    assert np.array_equal(RowMarks(40, 7)(KEYS[3:4], ROWS[3:4]), RowMarks(40, 7)(KEYS, ROWS)[3:4])


def test_marks_never_change_with_versions():
    """They are on users' disks."""
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert RowMarks(6, 1)(np.array([0, 1]), rows).tolist() == [2836862782, 2039055792]


def test_every_single_flipped_bit_changes_the_mark():
    marks = RowMarks(40, 7)
    row = ROWS[:1]
    whole = marks(KEYS[:1], row)
    bits = np.unpackbits(row.view(np.uint8))
    flipped = np.packbits(bits ^ np.eye(bits.size, dtype=np.uint8), axis=1).view(np.float32)
    assert not (marks(np.full(bits.size, KEYS[0]), flipped) == whole).any()


@pytest.mark.parametrize("salt", [0, 2**64 - 1])
def test_another_place_and_another_table_have_another_mark(salt):
    marks = RowMarks(40, salt)(KEYS, ROWS)
    assert not (RowMarks(40, salt)(KEYS + 1, ROWS) == marks).any()
    assert not (RowMarks(40, salt ^ 1)(KEYS, ROWS) == marks).any()


def test_zeros_have_marks_of_their_own():
    marks = RowMarks(40, 7)(np.arange(1000), np.zeros((1000, 10), np.float32))
    assert (marks != 0).all()
    assert len(np.unique(marks)) > 990
