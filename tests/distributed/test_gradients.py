"""One, two and four processes take the same step on the same global batch, whatever the method and alignment."""

import re

import pytest

from understudy.methods import METHODS

pytestmark = pytest.mark.slow

# Their teacher's loss never passes the student's feature: nothing can be aligned there.
BESIDE_THE_FEATURE = {
    "ab",
    "at",
    "cwd",
    "fitnet",
    "fsp",
    "ft",
    "ijckd",
    "kdsvd",
    "nst",
    "ofd",
    "simkd",
    "sp",
    "srrl",
    "vid",
}


@pytest.fixture(scope="module")
def steps(steps_of):
    """Number of processes -> name of a step -> what came of it."""
    aligns = {1: "all", 2: "all", 4: "backbone"}
    return {world: steps_of("gradients.py", chosen, world=world) for world, chosen in aligns.items()}


@pytest.mark.parametrize("world", [2, 4])
def test_the_number_of_processes_changes_nothing_but_rounding(steps, difference, world):
    assert steps[world].keys() <= steps[1].keys()
    for name, theirs in steps[world].items():
        assert difference(steps[1][name], theirs) < 1e-9, name


def test_every_method_and_alignment_was_compared(steps):
    for name in {n for n, method in METHODS.items() if not method.needs_boxes} - {"ce"}:
        aligns = {step.partition(" / ")[2] for step in steps[2] if step.startswith(f"{name} / ")}
        assert aligns >= {
            f"{align}{made}" for align in ("none", "released", "backbone") for made in ("", ", buffers")
        }
        assert ("feature" in aligns) != (name in BESIDE_THE_FEATURE), name
        assert f"{name} / backbone" in steps[4], name
    assert "dhkd / paper" in steps[2]


def test_there_was_a_conflict_to_resolve(steps):
    for align in ("released", "backbone", "feature"):
        info = steps[4][f"conflict / {align}"]
        assert info["info/dot"] < 0 < info["info/lambda"]


def test_a_term_that_ends_leaves_its_parameters_without_a_gradient(steps):
    aux = "heads.dhkd.aux.weight"
    for align in ("none", "backbone"):
        with_term, without, again = (
            steps[2][f"a term that ends / {align}, epoch {epoch}"] for epoch in (0, 1, 0)
        )
        assert aux in with_term
        assert aux not in without
        assert aux in again


def test_small_batches_were_among_them(steps):
    sizes = {int(found[1]) for step in steps[4] if (found := re.fullmatch(r"(\d+) images", step))}
    assert min(sizes) < 4 < max(sizes)
