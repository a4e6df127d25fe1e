"""Published numbers: those of the texts, plausible, and found by plain names."""

from pathlib import Path

import pytest
import yaml

from understudy.methods.presets import PRESETS
from understudy.report.published import ALONE, TEACHER, _tables, cells, citation, published

SURVEY = Path(__file__).parents[3] / "shared" / "published.yaml"
LEFT_TO_THE_SURVEY = {"id", "title", "note", "hardware", "detector", "logit_gap", "rows"}
NO_PRESET = {"kd_star", "kd_dual_head", "kd+l2_weights", "kd++/weights"}  # an authors' own run, and ablations


@pytest.fixture(scope="module")
def survey():
    if not SURVEY.is_file():
        pytest.skip(f"no survey of the papers' tables at {SURVEY}")
    return {table["id"]: table for table in yaml.safe_load(SURVEY.read_text("utf-8"))["tables"]}


def test_every_table_has_the_survey_s_numbers_row_for_row(survey):
    assert list(_tables()) == list(survey)
    for name, table in survey.items():
        ours = _tables()[name]
        for key in set(table) - LEFT_TO_THE_SURVEY:
            assert ours[key] == table[key], (name, key)
        rows = [{k: v for k, v in row.items() if k not in ("gain", "delta")} for row in table["rows"]]
        assert [{k: v for k, v in row.items() if k != "doubtful"} for row in ours["rows"]] == rows, name


def test_every_number_of_a_pair_belongs_to_a_preset_and_has_a_source():
    pairs = {
        (table["dataset"], row["teacher"], row["student"])
        for table in _tables().values()
        if table.get("dataset") in ("cifar100", "imagenet") and table["kind"] == "comparison"
        for row in table["rows"]
    }
    assert len(pairs) > 20
    for pair in pairs:
        for name, numbers in published(*pair).items():
            assert name in PRESETS or name in (TEACHER, ALONE) or name in NO_PRESET
            assert all("Table" in number.source for number in numbers)
            assert all(60 < number.value < 85 for number in numbers)


def test_a_pair_is_found_whoever_makes_the_network():
    rows = published("imagenet", "torchvision/resnet34", "torchvision/resnet18")
    assert rows["dhkd"][0].value == 72.15
    assert rows["student alone"][0].source
    assert published("digits", "cnn_small", "cnn_tiny") == {}


def test_numbers_that_belong_to_another_row_are_no_pair_s():
    values = [number.value for number in published("cifar100", "wrn_40_2", "wrn_40_1")["ofd"]]
    assert values == [74.33]  # and not the 72.38 of IJCKD's table, which is AB's
    assert [c.value for c in cells("ijckd.table1", "wrn_40_2", "wrn_40_1") if c.doubtful] == [72.38]
    kd = [number.value for number in published("imagenet", "resnet152", "resnet18")["kd"]]
    assert kd == [71.13]


def test_ablations_keep_their_settings_and_collapses_their_epoch():
    first, *_ = cells("dhkd.table6", "resnet56", "resnet20")
    assert (first.value, first.collapsed_at_epoch, first.setting) == (None, 8, {"lr": 1.0e-2})
    alphas = {cell.setting["alpha"]: cell.value for cell in cells("dhkd.table11", "resnet32x4", "resnet8x4")}
    assert alphas == {0.2: 75.66, 0.5: 75.85, 1: 76.24, 2: 76.54, 5: 67.56}
    (spread,) = (c.std for c in cells("kdpp.table_b2", "resnet34", "resnet18") if c.method == "kd++")
    assert spread == 0.082


def test_what_is_no_accuracy_and_no_table_has_no_cells():
    assert cells("dkd.table_a2", "resnet56", "resnet20") == ()
    assert cells("dkd.table99", "resnet56", "resnet20") == ()
    assert citation("dkd.table_a1") == "DKD Table A1"
