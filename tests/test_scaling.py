"""A scaled config: the same shape in fewer epochs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.config import build_config
from understudy.methods.term import build_terms
from understudy.scaling import scaled

BASE = {
    "data": {"name": "cifar100"},
    "teacher": {"model": "resnet56"},
    "student": {"model": "resnet20"},
}


def config(losses=({"name": "ce"},), **train):
    return build_config({**BASE, "losses": list(losses), "train": train}, {})


def weights(term, epochs):
    weight = build_terms([term])[0].weight
    return [weight.at(epoch) for epoch in range(epochs)]


def test_the_papers_budget_at_a_twentieth():
    ramp = {"value": 1.0, "warmup_epochs": 20}
    job = config([{"name": "ce"}, {"name": "dkd", "weight": ramp}], epochs=240)
    small = scaled(job, 0.05, images=50_000)
    assert small.train.epochs == 12
    assert small.train.schedule.milestones == [8, 9, 10]  # 7.5, 9, 10.5; half to even
    assert small.data.limit == 2500
    assert small.losses[1]["weight"] == {**job.losses[1]["weight"], "warmup_epochs": 1}
    assert small.train.optimizer == job.train.optimizer
    assert small.train.batch_size == job.train.batch_size


def test_the_whole_budget_is_the_config_itself_and_images_stay_if_not_counted():
    job = config(epochs=240)
    assert scaled(job, 1.0, images=50_000) is job
    assert scaled(job, 0.5).data.limit is None
    assert scaled(job.replaced(**{"data.limit": 1000}), 0.5, images=50_000).data.limit == 500


def test_two_stages_stay_one_behind_the_other():
    first = {"name": "fitnet", "weight": {"value": 100.0, "until_epoch": 40}}
    second = {"name": "ce", "weight": {"from_epoch": 41}}
    small = scaled(config([second, first], epochs=240), 0.1)
    assert small.losses[1]["weight"]["until_epoch"] == 4
    assert small.losses[0]["weight"]["from_epoch"] == 5


def test_points_restarts_and_passes_move_too():
    terms = [
        {"name": "ce", "weight": {"until_epoch": 50, "restart_epoch": 101, "points": [[1, 0.5], [240, 1.0]]}},
        {"name": "kd", "temperature": {"points": [[1, 8.0], [61, 2.0]]}},
        {"name": "ft", "paraphraser_epochs": 30},
    ]
    small = scaled(config(terms, epochs=240), 0.1)
    ce, kd, ft = small.losses
    assert (ce["weight"]["until_epoch"], ce["weight"]["restart_epoch"]) == (5, 11)
    assert ce["weight"]["points"] == [[1, 0.5], [24, 1.0]]
    assert kd["temperature"]["points"] == [[1, 8.0], [7, 2.0]]
    assert ft["paraphraser_epochs"] == 3


def test_the_arms_of_a_study_are_scaled_and_presets_refused():
    arm = {"name": "mine", "losses": [{"name": "ce"}, {"name": "kd", "weight": {"warmup_epochs": 20}}]}
    job = build_config({**BASE, "study": {"methods": [arm]}}, {})
    small = scaled(job, 0.1)
    assert small.study.methods[0].losses[1]["weight"]["warmup_epochs"] == 2
    with pytest.raises(ValueError, match="lists of terms, got 'kd'"):
        scaled(job.replaced(**{"study.methods": ["kd"]}), 0.1)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        scaled(config(epochs=3), share)


epoch = st.integers(1, 300)


@st.composite
def schedules(draw):
    start = draw(st.integers(1, 100))
    until = draw(st.none() | st.integers(start, 250))
    restart = None if until is None else draw(st.none() | st.integers(until + 1, 260))
    points = draw(st.none() | st.lists(epoch, min_size=1, max_size=3, unique=True).map(sorted))
    return {
        "value": 2.0,
        "warmup_epochs": draw(st.integers(0, 60)),
        "warmup_start": draw(st.sampled_from([0, 1])),
        "from_epoch": start,
        "until_epoch": until,
        "restart_epoch": restart,
        "points": None if points is None else [[e, float(i)] for i, e in enumerate(points)],
    }


@settings(max_examples=80)
@given(
    schedules(),
    st.integers(2, 300),
    st.floats(0.01, 1.0),
    st.lists(epoch, max_size=4, unique=True).map(sorted),
    st.floats(0, 20),
)
def test_every_scaled_config_is_valid_and_keeps_its_order(weight, epochs, share, milestones, warmup):
    schedule = {"milestones": milestones, "warmup_epochs": warmup}
    job = config([{"name": "ce"}, {"name": "kd", "weight": weight}], epochs=epochs, schedule=schedule)
    small = scaled(job, share)  # building it validates every term
    left = small.train.epochs
    assert left == (epochs if share == 1 else max(1, round(epochs * share)))
    new = small.train.schedule.milestones
    assert new == sorted(new)
    ramp, start = weight["warmup_epochs"], weight["from_epoch"]
    named = {
        *milestones,
        start - 1,
        start - 1 + ramp,
        weight["until_epoch"] or 0,
        (weight["restart_epoch"] or 1) - 1,
    }
    named |= {e - 1 for e, _ in weight["points"] or ()}
    inner = [m for m in named if 0 < m < epochs]
    if len(inner) < left:  # there is room
        assert len(set(new)) == len(new)
        assert all((0 < m < epochs) == (0 < n < left) for m, n in zip(milestones, new, strict=True))
        after = small.losses[1]["weight"]
        if isinstance(after, dict) and share < 1:
            assert (after["warmup_epochs"] > 0) == (ramp > 0)
            assert (after["from_epoch"] > left) == (start > epochs)
    for old, moved in zip(milestones, new, strict=True):
        if old >= warmup:
            assert moved >= small.train.schedule.warmup_epochs - 1e-9


@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(1, 100), st.sampled_from([0, 1]))
def test_a_ramp_is_as_steep_over_the_run_as_it_was(ramp, start, first):
    """Halving even epochs halves the ramp exactly: every second weight of the long run is one of the short run."""
    entry = {"value": 1.0, "warmup_epochs": 2 * ramp, "from_epoch": 2 * start - 1, "warmup_start": first}
    term = {"name": "kd", "weight": entry}
    small = scaled(config([{"name": "ce"}, term], epochs=600, schedule={"milestones": []}), 0.5)
    long = weights(term, 600)
    short = weights(small.losses[1], 300)
    assert short == pytest.approx([long[2 * e + first] for e in range(300)] if first else long[::2])
