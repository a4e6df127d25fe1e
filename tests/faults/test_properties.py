"""Whatever the input: the readers of configs and checkpoints refuse it in one line, and losses stay finite."""

import json

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import understudy as us
from understudy.config import Config, load_config, parse_overrides
from understudy.engine.checkpoint import load_checkpoint, save_checkpoint

EXAMPLES = settings(max_examples=150, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3)
)
keys = st.sampled_from(
    [
        f"{section}.{name}"
        for section in ("train", "data")
        for name in ("epochs", "name", "val", "ema", "augment")
    ]
    + [
        "seed",
        "losses",
        "student",
        "teacher",
        "teachers",
        "train.optimizer.lr",
        "losses.0.weight",
        "method",
        "study",
    ]
    + ["train.divergence", "generations", "output", "gradients.align", "train.schedule.milestones", "x.y"]
)
GOOD = {"data": {"name": "digits"}, "student": {"model": "cnn_tiny"}}


def one_line(error):
    assert "\n" not in " ".join(str(error).split())
    assert str(error)


@EXAMPLES
@given(key=keys, value=values)
def test_any_value_anywhere_is_a_config_or_one_line(key, value):
    try:
        config = load_config(GOOD, {key: value})
    except ValueError as error:
        one_line(error)
    else:
        assert load_config(yaml.safe_load(config.yaml())) == config


@EXAMPLES
@given(values)
def test_any_value_for_a_whole_config_is_one_line(value):
    try:
        assert isinstance(load_config(value if isinstance(value, dict) else {"data": value}), Config)
    except ValueError as error:
        one_line(error)


@EXAMPLES
@given(st.text(max_size=40))
def test_any_text_for_an_override_is_read_or_one_line(text):
    try:
        assert len(parse_overrides([text])) == 1
    except ValueError as error:
        one_line(error)


@EXAMPLES
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_for_a_config_is_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        load_config(path)
    except ValueError as error:
        one_line(error)


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "a: &a [*a]", "a: " + "{b: " * 3000])
def test_nesting_without_end_is_one_line(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match="a config must"):
        load_config(tmp_path / "c.yaml")


def test_aliases_that_unfold_to_gigabytes_are_refused_at_once(tmp_path):
    levels = [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    (tmp_path / "c.yaml").write_text("\n".join(["a: &a [x]", *levels]))
    with pytest.raises(ValueError, match="at most 100000 entries"):
        load_config(tmp_path / "c.yaml")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "checkpoints" / "last.pt"
    for epoch in (1, 2):
        save_checkpoint(path, {"epoch": epoch, "model": {"w": torch.arange(300.0)}})
    return path, path.read_bytes()


TRIED = 1500


def test_the_checkpoint_reader_takes_no_other_byte(saved, table):
    """A part changed, taken out, put in or doubled: every time it is refused, and the whole one is named."""
    path, content = saved
    tried = 0

    @settings(EXAMPLES, max_examples=TRIED)
    @given(st.data())
    def fuzz(data):
        nonlocal tried
        place = data.draw(st.integers(0, len(content) - 1))
        end = data.draw(st.integers(place, min(len(content), place + 300)))
        middle = data.draw(st.binary(max_size=20) | st.just(content[place:end] * 2))
        spoiled = content[:place] + middle + content[end:]
        if spoiled == content:
            return
        tried += 1
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"must be whole.*after epoch 1, is whole") as error:
            load_checkpoint(path)
        one_line(error.value)

    fuzz()
    assert tried > TRIED // 2
    table("checkpoint reader, fuzzed", f"over {TRIED // 2}", "refused, the one before is named")


LOSSES = {
    "kd": lambda s, t, y: us.losses.kd_loss(s, t, temperature=4.0),
    "dkd": lambda s, t, y: us.losses.dkd_loss(s, t, y, alpha=1.0, beta=8.0, temperature=4.0),
    "dist": lambda s, t, y: us.losses.dist_loss(s, t),
    "binary_kl": lambda s, t, y: us.losses.binary_kl_loss(s, t),
    "binary_kl_norm": lambda s, t, y: us.losses.binary_kl_norm_loss(s, t),
    "logit_mse": lambda s, t, y: us.losses.logit_mse_loss(s, t),
    "ttm": lambda s, t, y: us.losses.ttm_loss(s, t),
}
logits = st.lists(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=4, max_size=4
).map(torch.tensor)


@pytest.mark.parametrize("name", LOSSES)
@settings(EXAMPLES, max_examples=60)
@given(student=logits, teacher=logits, target=st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_losses_of_any_logits_are_finite_with_a_finite_gradient(name, student, teacher, target):
    student.requires_grad_()
    loss = LOSSES[name](student, teacher, torch.tensor(target))
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert loss >= -1e-3 * (1 + abs(loss.item()))
    assert torch.isfinite(gradient).all()


@EXAMPLES
@given(student=logits, target=st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_a_student_that_is_its_teacher_has_nothing_to_learn(student, target):
    for name in ("kd", "dkd", "binary_kl", "binary_kl_norm", "logit_mse"):
        assert LOSSES[name](student, student.clone(), torch.tensor(target)).abs() < 1e-3, name


def test_results_with_any_text_are_escaped_in_the_page(tmp_path):
    """Names come from data sets and folders; the page must show them, not run them."""
    from understudy.report import write_run_report

    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    result = {
        "format": 1, "name": evil, "model": evil, "status": "finished", "verb": "distill", "classes": [evil, "b"],
        "message": evil, "last": {"epoch": 1, "test/acc1": 50.0}, "confusion": [[1, 2], [3, 4]],
        "best": {"epoch": 1, "chosen_on": evil}, "teacher": {"model": evil},
        "divergence": {"policy": evil, "events": [{"epoch": 1, "step": 2, "what": evil, "did": evil}]},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"epoch": 1, f"train/{evil}": 1.0, "train/loss": 1.0}) + "\n"
    )
    (tmp_path / "config.yaml").write_text(evil)
    (tmp_path / "environment.json").write_text(json.dumps({evil: evil}))
    page = write_run_report(tmp_path).read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
