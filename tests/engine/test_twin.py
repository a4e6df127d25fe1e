"""One vectorised backward pass leaves the gradients of two: of every method, wherever the sides' paths part."""

import pytest
import torch

import understudy as us
from understudy.engine.backward import twin_gradients
from understudy.methods import METHODS

SETTINGS = {"cc": {"width": 8}, "crd": {"negatives": 6, "width": 8}, "ft": {"paraphraser_epochs": 1}}
GUIDES = sorted(
    n
    for n, m in METHODS.items()
    if n != "ce" and not m.needs_boxes and m.one_class is not False and n != "bce"
)


def batch(n=12, size=16):
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(n, 3, size, size, generator=g, dtype=torch.float64),
        torch.arange(n) % 4,
        torch.arange(n),
    )


def distiller_of(terms, **options):
    torch.manual_seed(0)
    names = ("wrn_16_1", "resnet8") if terms[0]["name"] in ("fsp", "kdsvd") else ("cnn_tiny", "cnn_small")
    student, teacher = (us.create_model(name, 4) for name in names)
    distiller = us.Distiller(
        student,
        teacher,
        [{"name": "ce"}, *terms],
        example=torch.zeros(2, 3, 16, 16),
        train_targets=torch.arange(12) % 4,
        **options,
    ).double()
    teacher.double()
    if distiller.needs_prepare:
        distiller.prepare([batch()])
    return distiller


def gradients(distiller, parts=1):
    """Those of one step, and what is known of the alignment."""
    torch.manual_seed(3)
    distiller.zero_grad()
    images, target, index = batch()
    for i in range(parts):
        rows = slice(len(images) * i // parts, len(images) * (i + 1) // parts)
        out = distiller(images[rows], target[rows], index=index[rows])
        distiller.backward(out, last=i == parts - 1, scale=1 / parts)
    return {n: p.grad for n, p in distiller.named_parameters()} | dict(distiller.alignment)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values() if g is not None)
    for name, expected in theirs.items():
        assert (ours[name] is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(ours[name], expected, rtol=1e-9, atol=1e-12 * largest, msg=name)


@pytest.mark.parametrize("name", GUIDES)
def test_each_methods_two_gradients_are_those_of_two_passes(name):
    distiller = distiller_of([{"name": name, **SETTINGS.get(name, {})}], align="backbone")
    parameters = distiller.trainable_parameters()
    images, target, index = batch()
    out = distiller(images, target, index=index)
    two = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for loss in (out.label_loss, out.guide_loss)
    ]
    one = twin_gradients(out.label_loss, out.guide_loss, parameters)
    for ours, theirs in zip(one, two, strict=True):
        assert_same(dict(enumerate(ours)), dict(enumerate(theirs)))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("align", ["released", "backbone", "paper"])
def test_a_step_is_the_same(align, parts):
    terms = [{"name": "dhkd", "head": "linear", "weight": 3.0}]
    steps = [gradients(distiller_of(terms, align=align, twin=twin), parts) for twin in (False, True)]
    assert_same(*steps)
    assert "lambda" in steps[0]


def test_it_is_refused_a_compiled_student():
    """Inductor's backward has no batching rules."""
    distiller = distiller_of([{"name": "dkd"}], align="released", twin=True)
    with pytest.raises(ValueError, match=r"gradients\.twin must be off where train\.compile is on"):
        distiller.compile_student("aot_eager")


def test_a_side_without_a_gradient_leaves_the_other_alone():
    distiller = distiller_of(
        [{"name": "dhkd", "head": "linear", "weight": {"from_epoch": 2}}], align="backbone", twin=True
    )
    plain = distiller_of([{"name": "dhkd", "head": "linear", "weight": {"from_epoch": 2}}])
    assert_same(gradients(distiller), gradients(plain))


@pytest.mark.parametrize("align", ["none", "feature"])
def test_where_there_is_one_pass_it_changes_nothing(align):
    steps = [gradients(distiller_of([{"name": "dkd"}], align=align, twin=twin)) for twin in (False, True)]
    assert_same(*steps)


def test_a_run_takes_it_from_its_config(digits_config, monkeypatch):
    seen = []

    def watched(*sides):
        seen.append(len(sides))
        return twin_gradients(*sides)

    monkeypatch.setattr("understudy.engine.backward.twin_gradients", watched)
    losses = [{"name": "ce"}, {"name": "dhkd"}]
    config = {**digits_config, "losses": losses, "gradients": {"align": "backbone", "twin": True}}
    us.distill(config, quiet=True, **{"train.epochs": 1})
    assert len(seen) == 5  # 144 images in batches of 32
