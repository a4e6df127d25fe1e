import pytest

from understudy.methods import METHODS
from understudy.methods.schedule import Weight
from understudy.methods.term import build_term, build_terms


def test_a_plain_weight_is_constant():
    assert [Weight(value=0.5).at(e) for e in (0, 10)] == [0.5, 0.5]


def test_a_ramp_counts_from_one_as_in_dkd():
    weight = Weight(value=2.0, warmup_epochs=4)
    assert [weight.at(e) for e in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_a_ramp_counts_from_zero_as_in_the_kdpp_family():
    weight = Weight(value=2.0, warmup_epochs=4, warmup_start=0)
    assert [weight.at(e) for e in range(6)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


def test_a_term_stops_after_its_last_epoch_and_comes_back():
    weight = Weight(until_epoch=2, restart_epoch=5)
    assert [weight.at(e) for e in range(6)] == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


def test_a_late_start_ramps_from_there():
    weight = Weight(from_epoch=3, warmup_epochs=2)
    assert [weight.at(e) for e in range(5)] == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "dkdd"}, "Did you mean 'dkd'"),
        ({"name": None}, "must be a known method, got None"),
        ({"name": "kd", "temprature": 4}, "Did you mean 'temperature'"),
        ({"name": "kd", "temperature": 0}, "greater than 0, got 0"),
        ({"name": "kd", "temperature": "hot"}, "valid number"),
        ({"name": "kd", "temperature": float("inf")}, "temperature should be a finite number, got inf"),
        ({"name": "ttm", "gamma": float("nan")}, "gamma should be a finite number, got nan"),
        ({"name": "at", "p": float("inf")}, "p should be a finite number, got inf"),
        ({"name": "kd", "weight": float("nan")}, r"weight\.value should be a finite number, got nan"),
        ({"name": "kd", "weight": -0.5}, r"weight\.value should be greater than or equal to 0, got -0\.5"),
        ({"name": "kd", "weight": {"points": [[1, -1.0]]}}, "greater than or equal to 0, got -1"),
        ({"name": "kd", "temperature": {"points": [[1, float("inf")]]}}, "finite number, got inf"),
        ({"name": "kd", "weight": {"valu": 1}}, "Did you mean 'value'"),
        ({"name": "kd", "weight": {"from_epoch": 9, "until_epoch": 3}}, "must not end before it starts"),
        ({"name": "kd", "weight": {"restart_epoch": 3}}, "restart_epoch must come after until_epoch"),
        ({"name": "kd", "label": "my term"}, "must be a plain name"),
        ({"name": "dhkd", "head": "conv"}, "'auto', 'linear' or 'mlp'"),
    ],
)
def test_a_wrong_entry_is_one_clear_error(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        build_term(spec, "losses[1]")
    assert "losses[1]" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_may_stand_twice_under_two_labels():
    terms = build_terms([{"name": "kd"}, {"name": "kd", "label": "hot", "temperature": 8}])
    assert [t.label for t in terms] == ["kd", "hot"]
    with pytest.raises(ValueError, match="'kd' twice"):
        build_terms([{"name": "kd"}, {"name": "kd"}])


def test_no_term_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one term"):
        build_terms([])


@pytest.mark.parametrize("name", METHODS)
def test_the_spec_of_a_term_rebuilds_it(name):
    term = build_term({"name": name, "weight": {"value": 0.5, "warmup_epochs": 3}})
    assert build_term(term.spec()) == term


def test_a_number_may_move_along_points():
    term = build_term(
        {
            "name": "kd",
            "temperature": {"points": [[1, 8.0], [5, 4.0]]},
            "weight": {"points": [[2, 1], [3, 0]]},
        }
    )
    assert [term.method_at(e).temperature for e in (0, 1, 4, 9)] == [8.0, 7.0, 4.0, 4.0]
    assert [term.weight.at(e) for e in (0, 1, 2, 3)] == [1.0, 1.0, 0.0, 0.0]
    assert build_term(term.spec()) == term


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "growing epochs"),
        ([[5, 1.0], [2, 2.0]], "growing epochs"),
        ([[1, 4.0], [9, 0.0]], "greater than 0, got 0"),
    ],
)
def test_points_that_make_no_sense_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        build_term({"name": "kd", "temperature": {"points": points}})


def test_a_number_that_is_kept_from_the_first_batch_on_takes_no_schedule():
    with pytest.raises(ValueError, match="temperature must be one number for the whole run, got a schedule"):
        build_terms([{"name": "crd", "temperature": {"points": [[1, 0.07], [9, 0.03]]}}])
    with pytest.raises(ValueError, match="paraphraser_lr"):
        build_terms([{"name": "ft", "paraphraser_lr": {"points": [[1, 0.1], [9, 0.01]]}}])


def test_a_method_of_your_own_is_named_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom understudy import Method\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\nclass Gap(Method):\n"
        "    paper = 'ours'\n    scale: float = 2.0\n"
        "    def loss(self, student, teacher, batch, heads):\n"
        "        return self.scale * (student['logits'] - teacher['logits']).abs().mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    term = build_term({"name": "mine:Gap", "scale": 3.0})
    assert (term.label, term.method.scale) == ("Gap", 3.0)
    assert build_term(term.spec()) == term
    for wrong in ("mine:Gip", "nowhere:Gap", "json:dumps"):
        with pytest.raises(ValueError, match="must"):
            build_term({"name": wrong})
