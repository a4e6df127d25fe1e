import sys

import pytest
import torch

from understudy.teacher.layout import Layout
from understudy.teacher.memory import MemoryTable

CPU = torch.device("cpu")


def test_rows_come_back_to_the_bit():
    table = MemoryTable(Layout(4, 6, (("logits", 3),), "fp16"), CPU)
    keys = torch.tensor([23, 0, 7])
    rows = torch.randn(3, 3).half()
    assert not table.present(keys).any()
    table.write(keys, rows)
    assert table.present(torch.tensor([7, 8])).tolist() == [True, False]
    back, usable = table.read(torch.tensor([0, 1, 23]))
    assert usable.tolist() == [True, False, True]
    assert torch.equal(back[0], rows[1])
    assert torch.equal(back[2], rows[0])
    assert table.filled == 3


def test_a_table_larger_than_half_of_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"must fit into half of it, got 74505\.8 GiB\. Set teacher\.table"):
        MemoryTable(Layout(10**9, 200, (("logits", 100),), "fp32"), CPU)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_not_filled_takes_no_memory():
    """A gigabyte of rows, of which a few pages are touched."""
    layout = Layout(20_000, 128, (("logits", 100),), "fp32")
    before = resident()
    table = MemoryTable(layout, CPU)
    table.write(torch.arange(100), torch.ones(100, 100))
    assert resident() - before < 10**8
    assert table.filled == 100


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
