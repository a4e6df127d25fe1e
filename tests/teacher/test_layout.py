import pytest
import torch
from torch import nn

from understudy.taps import describe
from understudy.teacher.assemble import can_answer_ahead
from understudy.teacher.frozen import Teacher
from understudy.teacher.layout import Layout, columns


def test_keys_and_pairs_are_inverse_and_cover_all_rows_once():
    layout = Layout(5, 7, (("logits", 3),), "fp32")
    rows, view = torch.arange(5).repeat_interleave(7), torch.arange(7).repeat(5)
    keys = layout.keys(rows, view)
    assert keys.tolist() == list(range(layout.rows))
    back = layout.pairs(keys)
    assert torch.equal(back[0], rows)
    assert torch.equal(back[1], view)


def test_sizes():
    layout = Layout(50_000, 162, (("logits", 100),), "fp16")
    assert layout.rows * layout.row_bytes == 1_620_000_000
    assert Layout(50_000, 162, (("feature", 64), ("logits", 100)), "fp64").row_bytes == 8 * 164


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp32", torch.float32), ("fp16", torch.float32), ("fp64", torch.float64)]
)
def test_packed_rows_come_back_in_float32_or_wider(make, dtype, expected):
    world = make(roles=("feature", "logits"))
    shown = {"feature": torch.randn(4, 6), "logits": torch.randn(4, 3)}
    layout = Layout(4, 1, (("feature", 6), ("logits", 3)), dtype)
    back = layout.unpack(layout.pack(shown), world.teacher.network)
    for role, tensor in shown.items():
        assert back[role].dtype == expected
        torch.testing.assert_close(
            back[role].float(),
            tensor,
            rtol=1e-3 if dtype == "fp16" else 0,
            atol=1e-3 if dtype == "fp16" else 0,
        )


@pytest.mark.parametrize("value", [7e4, -1e30, float("nan")])
def test_what_does_not_fit_into_fp16_is_refused(value):
    layout = Layout(1, 1, (("logits", 2),), "fp16")
    with pytest.raises(ValueError, match=r"must be finite and within ±65504 .*Use teacher.table_dtype=fp32"):
        layout.pack({"logits": torch.tensor([[1.0, value]])})


def test_logits_alone_are_kept_as_logits(make):
    world = make()
    shown = world.teacher.show(world.blocks().source.sample(4))
    assert columns(["logits"], shown, world.teacher.network) == (("logits", 10),)


def test_where_both_are_needed_the_feature_is_kept_and_gives_the_logits(make):
    world = make(roles=("feature", "logits"))
    shown = world.teacher.show(world.blocks().source.sample(4))
    held = columns(["logits", "feature"], shown, world.teacher.network)
    assert held == (("feature", 24),)
    layout = Layout(4, 1, held, "fp32")
    back = layout.unpack(layout.pack(shown), world.teacher.network)
    assert torch.equal(back["feature"], shown["feature"])
    torch.testing.assert_close(back["logits"], shown["logits"], rtol=1e-5, atol=1e-6)


class Scaled(nn.Module):
    """A network that does something to the logits behind its classifier."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        return 3 * self.fc(x.flatten(1))


def test_logits_that_do_not_follow_from_the_feature_are_kept_beside_it():
    network = describe(Scaled(), torch.zeros(1, 3, 2, 2), overrides={"head": "fc"})
    shown = Teacher(network, ["feature", "logits"]).show(torch.randn(4, 3, 2, 2))
    assert columns(["feature", "logits"], shown, network) == (("feature", 12), ("logits", 5))


def test_maps_are_not_answered_ahead():
    assert can_answer_ahead(["logits", "feature"])
    assert not can_answer_ahead(["logits", "stage_2"])
