"""The arithmetic of the comparisons, on made-up blocks."""

import importlib
import math
from pathlib import Path
from typing import ClassVar

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


class Fake:
    """An arm whose steps take what it says; the machine slows down by 1% a block."""

    log: ClassVar[list[str]] = []
    blocks = 0

    def __init__(self, protocol, name, seconds):
        self.protocol, self.name, self.seconds = protocol, name, seconds

    def block(self, steps):
        Fake.log.append(self.name)
        Fake.blocks += 1
        wall = steps * self.seconds * 1.01**Fake.blocks
        return self.protocol.Block(steps, 64 * steps, wall, 2 * wall, 1.0, 2**20)


@pytest.fixture
def fakes(load):
    Fake.log, Fake.blocks = [], 0
    protocol = load("protocol")
    return {name: Fake(protocol, name, seconds) for name, seconds in (("a", 0.3), ("b", 0.1), ("t", 0.1))}


def taken(load, fakes, **manner):
    """Rounds of 20 steps, without a warm-up."""
    given = {"least": 20, "seconds": 0.0, "pairs": 16, **manner}
    return list(load("protocol").rounds(fakes, {}, **given))


def as_rounds(load, done):
    return [load("protocol").Round(r["a"], r["b"], r["b"], r["t"]) for r in done]


def test_rounds_alternate_and_their_ratio_survives_a_machine_that_slows_down(load, fakes):
    protocol, report = load("protocol"), load("report")
    done = as_rounds(load, taken(load, fakes))
    assert "".join(Fake.log[:12]) == "abttbaabttba"
    ratios = [report.datum("time", r.a, r.b) for r in done]
    middle, low, high = protocol.median_interval(ratios)
    assert middle == pytest.approx(3.0, rel=1e-3)
    assert low == pytest.approx(3 / 1.01)  # a first
    assert high == pytest.approx(3 * 1.01)  # a last
    first, last = done[0].a, done[-1].a
    assert last.wall / first.wall > 1.5  # what unpaired times would have said


def test_rounds_end_at_the_deadline_but_never_before_the_first(load, fakes):
    assert len(taken(load, fakes, deadline=-math.inf)) == 1


def test_an_arm_that_ends_is_named_and_the_others_go_on(load, fakes):
    protocol, failed = load("protocol"), {}

    class Ends(Fake):
        def block(self, steps):
            if self.blocks_left == 0:
                raise protocol.ArmError("out of memory")
            self.blocks_left -= 1
            return super().block(steps)

    fakes["b"] = Ends(protocol, "b", 0.1)
    fakes["b"].blocks_left = 2
    done = list(protocol.rounds(fakes, failed, least=20, seconds=0.0, pairs=4))
    assert failed == {"b": "out of memory"}
    assert [sorted(r) for r in done] == [["a", "b", "t"], ["a", "b", "t"], ["a", "t"], ["a", "t"]]


def test_a_block_is_long_enough(load, fakes):
    choose = load("protocol").choose_steps
    assert choose(fakes["b"], least=20, seconds=1.0) == 20
    assert choose(fakes["b"], least=2, seconds=5.0) == pytest.approx(5 / 0.1, rel=0.15)


def test_the_interval_holds_the_median_and_narrows_with_more_pairs(load):
    interval = load("protocol").median_interval
    few, many = interval([1.0, 1.1, 0.9, 1.05, 0.95]), interval([1.0, 1.1, 0.9, 1.05, 0.95] * 20)
    assert few[0] == many[0] == 1.0
    assert few[1] < many[1] <= 1.0 <= many[2] < few[2]


def test_the_interval_knows_that_rounds_of_one_start_are_alike(load):
    interval = load("protocol").median_interval
    values, starts = [1.0] * 5 + [1.1] * 5 + [1.2] * 5, [0] * 5 + [1] * 5 + [2] * 5
    assert interval(values, starts) == (1.1, 1.0, 1.2)  # three numbers, however often each was taken
    assert interval(values)[2] - interval(values)[1] <= 0.2
    assert interval(values, list(range(15)))[0] == 1.1
    uneven = interval([1.0, 1.0, 1.0, 5.0], [0, 0, 0, 1])
    assert uneven[1:] == (1.0, 5.0)


@pytest.mark.parametrize(
    ("goal", "found", "words"),
    [
        (("<=", 1.03), (1.00, 0.99, 1.02), "met"),
        (("<=", 1.03), (1.02, 0.99, 1.05), "met at the median"),
        (("<=", 1.03), (1.04, 1.02, 1.05), "missed at the median"),
        (("<=", 1.03), (1.10, 1.04, 1.20), "missed"),
        ((">=", 3.0), (3.20, 3.10, 3.30), "met"),
        ((">=", 3.0), (3.20, 2.90, 3.30), "met at the median"),
        ((">=", 3.0), (2.00, 1.90, 2.90), "missed"),
        (None, (2.00, 1.90, 2.90), ""),
    ],
)
def test_a_verdict_looks_at_the_whole_interval(load, goal, found, words):
    assert load("report").verdict(goal, *found) == words


def test_the_share_of_evaluation_is_of_the_whole_run(load):
    report, block = load("report"), load("protocol").Block
    evaluated, trained = block(1, 500, 500 * 0.001, 1, 0, 0), block(1, 64, 64 * 0.003, 1, 0, 0)
    assert report.datum("share", evaluated, trained) == pytest.approx(10 / (10 + 5 * 50 * 3))


def test_a_record_is_read_as_it_was_written_and_failures_stay_on_the_page(load, fakes, tmp_path):
    report, comparisons = load("report"), load("comparisons")
    machine = load("machine").machine(2, "cpu")
    names = list(comparisons.COMPARISONS)
    done = as_rounds(load, taken(load, fakes, pairs=3))
    record, failed = report.Record(machine, done, ["teacher.x"]), report.Record(machine, [], [], "it broke")
    report.write_record(tmp_path / f"{names[0]}.json", record, comparisons.COMPARISONS[names[0]])
    report.write_record(tmp_path / f"{names[1]}.json", failed, comparisons.COMPARISONS[names[1]])
    assert report.read_record(tmp_path / f"{names[0]}.json") == record
    page = report.page(tmp_path)
    assert page.count("failed: it broke") == 1
    assert page.count("not measured") == len(names) - 2
    assert "left out: teacher.x" in page
    assert report.describe(machine) in page
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{names[0]}`")]
    assert "| 3 | 318 | 105 | **2.970**" in line  # pairs, milliseconds of 64 images (slowed down), ratio


@pytest.mark.parametrize(("goal", "beyond"), [(2.5, False), (3.0, False), (5.0, True)])
def test_a_goal_beyond_its_bound_is_out_of_reach(load, fakes, goal, beyond):
    report, comparisons = load("report"), load("comparisons")
    arm = comparisons.Arm("library")
    record = report.Record(load("machine").machine(2, "cpu"), as_rounds(load, taken(load, fakes)), [])
    claim = comparisons.Comparison(
        "a / b", arm, arm, (">=", goal), bound="bound"
    )  # here a / b is its own bound
    assert ("missed, out of reach" in report.row("x", claim, record, record)) == beyond
    assert "out of reach" not in report.row("x", claim, record)


def test_every_bound_is_a_comparison_of_the_same_kind(load):
    known = load("comparisons").COMPARISONS
    bounded = [c for c in known.values() if c.bound is not None]
    assert bounded
    assert all((known[c.bound].a, known[c.bound].kind) == (c.a, c.kind) for c in bounded)
