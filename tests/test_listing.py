"""Lists as a person reads them, and the costs of methods on a pair."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import understudy as us
from understudy import costs, listing
from understudy.costs import Cost, PairCosts, measure
from understudy.methods import METHODS

STUDENT, TEACHER = "cnn_tiny", "resnet8"


@pytest.fixture(scope="module")
def measured():
    return measure(STUDENT, TEACHER, num_classes=10, size=16)


def in_real_arithmetic(*terms, batch=costs.BATCH_SIZE):
    """FLOPs an image of a real step, teacher included, and the heads of the last term."""
    student, teacher = us.create_model(STUDENT, 10), us.create_model(TEACHER, 10)
    targets = torch.arange(costs.NUM_IMAGES) % 10
    images, index = torch.randn(batch, 3, 16, 16), torch.arange(batch)
    means = torch.randn(10, 64)
    distiller = us.Distiller(
        student, teacher, terms, example=images[:2], class_means=means, train_targets=targets
    )
    _ = distiller.guides.teachers  # folded at the first question, which is not to be counted
    with FlopCounterMode(display=False) as counter:
        distiller.backward(distiller(images, index % 10, index=index))
    return counter.get_total_flops() // batch, distiller.heads


def test_labels_alone_are_the_unit_and_add_nothing(measured):
    assert measured.methods["ce"] == Cost(0, 0, 1.0)
    assert measured.student_step == in_real_arithmetic({"name": "ce"})[0]


def test_the_teacher_is_counted_once_and_apart(measured):
    teacher = us.create_model(TEACHER, 10)
    with FlopCounterMode(display=False) as counter:
        teacher(torch.randn(1, 3, 16, 16))
    assert measured.teacher_forward == counter.get_total_flops()
    assert measured.methods["kd"].step == 1.0  # elementwise work on logits is not counted


@pytest.mark.parametrize("name", ["vid", "crd", "dino", "srrl", "reviewkd"])
def test_a_step_costs_what_it_costs_in_real_arithmetic(measured, name):
    flops, _ = in_real_arithmetic({"name": "ce"}, {"name": name})
    expected = (flops - measured.teacher_forward) / measured.student_step
    assert measured.methods[name].step == pytest.approx(expected, rel=1e-4)  # floor division by the batch


def test_a_method_that_does_not_read_the_teacher_in_a_step_is_not_credited_with_its_forward(measured):
    assert measured.methods["cosine"].step >= 1
    assert measured.methods["dml"].step == pytest.approx(2, rel=1e-4)  # one peer, as large as the student


def test_parameters_and_state_are_those_of_the_heads(measured):
    _, heads = in_real_arithmetic({"name": "ce"}, {"name": "simkd"})
    parts = [*heads["simkd"].parameters(), *heads["simkd"].buffers()]
    cost = measured.methods["simkd"]
    assert cost.parameters == sum(t.numel() for t in parts if t.requires_grad)
    assert cost.state == sum(t.nbytes for t in parts if not t.requires_grad)


def test_crd_keeps_two_rows_an_image_of_fifty_thousand(measured):
    banks = 2 * 50_000 * 128 * 4
    index = 50_000 * 8  # images by class
    assert banks + index <= measured.methods["crd"].state < banks + index + 1000


def test_a_pair_that_a_method_refuses_has_the_reason_instead(measured):
    assert "equal channels" in measured.methods["fsp"]
    assert "\n" not in measured.methods["fsp"]
    assert set(measured.methods) == set(METHODS)
    assert {name for name, cost in measured.methods.items() if isinstance(cost, str)} == {
        "fgfi",
        "fsp",
        "kdsvd",
    }


def test_measuring_leaves_the_generator_and_the_threads_alone(monkeypatch):
    monkeypatch.setattr(costs, "METHODS", {"ce": METHODS["ce"]})
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    measure(STUDENT, TEACHER, 10, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_the_published_pair_has_the_published_extras():
    methods = measure("resnet8x4", "resnet32x4").methods
    expected = {"fitnet": 16_768, "ofd": 86_912, "reviewkd": 1_808_774, "dhkd": 25_700, "kd": 0}
    assert {name: methods[name].parameters for name in expected} == expected
    assert [name for name, cost in methods.items() if isinstance(cost, str)] == ["fgfi"]  # it needs boxes


def shown(monkeypatch, capsys, width, *args, **kwargs):
    monkeypatch.setenv("COLUMNS", str(width))
    listing.show(*args, **kwargs)
    return capsys.readouterr().out


def words(text):
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
def test_methods_fit_the_terminal_with_paper_taps_and_settings(monkeypatch, capsys, width):
    out = shown(monkeypatch, capsys, width, "methods")
    assert max(map(len, out.splitlines())) <= width
    text = words(out)
    for method in METHODS.values():
        assert words(method.paper) in text
    assert "sees stage_last / logits, stage_last" in text
    assert "sees feature / feature before training" in text
    assert 'peers ["same"], temperature 1.0' in text
    assert "margin 1.0, stages null" in text


def test_without_a_pair_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(listing, "measure", lambda *_: pytest.fail("measured"))
    assert "FLOP" not in shown(monkeypatch, capsys, 80)


@pytest.mark.parametrize("width", [80, 120])
def test_the_costs_of_a_pair_fit_the_terminal(monkeypatch, capsys, measured, width):
    calls = []
    monkeypatch.setattr(listing, "measure", lambda *args: calls.append(args) or measured)
    out = shown(
        monkeypatch, capsys, width, "methods", student=STUDENT, teacher=TEACHER, num_classes=10, size=16
    )
    assert calls == [(STUDENT, TEACHER, 10, 16)]
    assert max(map(len, out.splitlines())) <= width
    text = words(out)
    assert f"methods for {STUDENT} under {TEACHER}, 10 classes, 16×16 pixels" in text
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line and not line[:2].isspace()}
    vid = measured.methods["vid"]
    assert rows["vid"][1:4] == [f"{vid.parameters:,}", "–", f"{vid.step:.2f}"]
    assert rows["crd"][2:4] == ["51.6", "MB"]
    assert rows["fsp"][1:4] == ["–"] * 3
    assert text.count("refuses this pair: ") == 3
    assert f"{measured.teacher_forward / 1e9:.3g} GFLOPs" in text


def test_a_pair_must_be_whole_and_asked_of_methods():
    for what, pair in (
        ("methods", {"student": STUDENT}),
        ("models", {"student": STUDENT, "teacher": TEACHER}),
    ):
        with pytest.raises(ValueError, match="--student NAME --teacher NAME"):
            listing.show(what, **pair)
    with pytest.raises(ValueError, match="resnet8x4"):
        listing.show("methods", student="resnet8x5", teacher=TEACHER)


def test_sizes_are_in_the_nearest_unit():
    assert [listing.size_words(n) for n in (0, 8, 1_290, 51_600_000)] == ["–", "0.1 kB", "1.3 kB", "51.6 MB"]


def test_defaults_are_written_as_a_config_has_them():
    values = (1.0, 1e-7, True, None, ("same",), "auto")
    assert [listing.as_written(v) for v in values] == ["1.0", "1e-07", "true", "null", '["same"]', "auto"]


def test_the_command_line_passes_the_pair_on(monkeypatch):
    from typer.testing import CliRunner

    from understudy.cli import app

    calls = []
    monkeypatch.setattr(listing, "show", lambda what, **pair: calls.append((what, pair)))
    arguments = ["list", "methods", "--student", "a", "--teacher", "b", "--classes", "7", "--size", "64"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert calls == [
        ("methods", {"name": None, "student": "a", "teacher": "b", "num_classes": 7, "size": 64})
    ]


def test_a_cost_is_never_below_one_where_it_is_a_cost(measured: PairCosts):
    steps = [cost.step for cost in measured.methods.values() if isinstance(cost, Cost)]
    assert all(step >= 1 and math.isfinite(step) for step in steps)
