"""Dino, and what it shares with cosine and infonce: where the class means come from."""

import pytest
import torch

import understudy as us
from understudy.engine.distiller import Distiller

WITH_MEANS = ("cosine", "dino", "infonce")


def build(name, *, student="cnn_tiny", classes=4, class_means=None, **settings):
    torch.manual_seed(0)
    models = us.create_model(student, classes), us.create_model("cnn_small", classes)
    example = torch.zeros(2, 3, 16, 16)
    losses = [{"name": "ce"}, {"name": name, **settings}]
    return Distiller(*models, losses, example=example, class_means=class_means)


def data(n=60, classes=4):
    g = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, 16, 16, generator=g), torch.arange(n) % classes


def opinionated(distiller, images):
    """Lets the teacher answer with every class: an untrained one gives all images the same."""
    fc = distiller.setup.teacher.module.fc
    feature, _ = features(distiller, images)
    fc.bias.data = -fc.weight @ feature.mean(dim=0)
    return features(distiller, images)


def features(distiller, images):
    network = distiller.setup.teacher
    with us.Taps(network, ["feature", "logits"]) as taps, torch.no_grad():
        shown = taps.collect(network.module(images))
    return shown["feature"], shown["logits"]


@pytest.mark.parametrize("name", WITH_MEANS)
def test_prepare_averages_the_teachers_features_of_each_class(name):
    distiller = build(name)
    images, target = data()
    assert distiller.needs_prepare
    with pytest.raises(ValueError, match="class means, got none"):
        distiller(images, target)
    distiller.prepare([(images[:25], target[:25]), (images[25:], target[25:])])
    assert not distiller.needs_prepare
    feature, _ = features(distiller, images)
    expected = torch.stack([feature[target == k].mean(dim=0) for k in range(4)])
    torch.testing.assert_close(distiller.heads[name]["means"](), expected)


@pytest.mark.parametrize("name", WITH_MEANS)
def test_images_the_teacher_gets_wrong_may_be_left_out(name):
    distiller = build(name, correct_only=True)
    images, target = data()
    feature, logits = opinionated(distiller, images)
    right = torch.arange(60) % 3 != 0
    target = torch.where(right, logits.argmax(1), (logits.argmax(1) + 1) % 4)
    assert {0, 1, 2, 3} == set(target[right].tolist())
    distiller.prepare([(images, target)])
    expected = torch.stack([feature[right & (target == k)].mean(dim=0) for k in range(4)])
    torch.testing.assert_close(distiller.heads[name]["means"](), expected)
    distiller.backward(distiller(images, target))  # the taps are as they were


@pytest.mark.parametrize("name", WITH_MEANS)
def test_the_means_may_be_those_of_augmented_images_in_four_decimals(name):
    images, target = data()
    seen = images.flip(3) * 0.5
    for augment in (False, True):
        distiller = build(name, class_means_augment=augment)
        distiller.prepare([(images, target)], [(seen, target)])
        feature, _ = features(distiller, seen if augment else images)
        expected = torch.stack([feature[target == k].mean(dim=0) for k in range(4)])
        means = distiller.heads[name]["means"]()
        # half of the last decimal, and float32's rounding of a folded teacher
        torch.testing.assert_close(means, expected, atol=6e-5 if augment else 1e-5, rtol=0)
        tenthousandths = means.double() * 10_000
        rounded = bool((tenthousandths - tenthousandths.round()).abs().max() < 1e-2)
        assert rounded == augment


def test_a_run_averages_over_the_images_of_its_first_epoch(digits_config, monkeypatch):
    prepared, stepped = [], []
    prepare, forward = Distiller.prepare, Distiller.forward

    def watched_prepare(self, batches, augmented=None):
        prepared.extend((b.images, b.index, b.view) for b in augmented)
        prepare(self, batches, augmented)

    def watched_forward(self, images, targets, **given):
        stepped.append((images, given["index"], given["view"]))
        return forward(self, images, targets, **given)

    monkeypatch.setattr(Distiller, "prepare", watched_prepare)
    monkeypatch.setattr(Distiller, "forward", watched_forward)
    losses = [{"name": "ce"}, {"name": "dino", "class_means_augment": True}]
    us.distill({**digits_config, "losses": losses}, quiet=True, **{"train.epochs": 1})
    assert len(prepared) == len(stepped) > 1
    for ours, theirs in zip(prepared, stepped, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", WITH_MEANS)
def test_the_teachers_classifier_may_stand_for_the_means(name):
    given = torch.randn(4, 64)
    distiller = build(name, means="classifier", class_means=given)
    assert not distiller.needs_prepare
    rows = distiller.setup.teacher.module.fc.weight
    assert torch.equal(distiller.heads[name]["means"](), rows)
    assert torch.equal(build(name, class_means=given).heads[name]["means"](), given)
    distiller.heads[name]["means"].means.zero_()
    assert rows.any()  # a copy: the teacher is nobody's to change


@pytest.mark.parametrize("correct_only", [False, True])
def test_a_class_without_images_is_said_aloud(correct_only):
    distiller = build("dino", correct_only=correct_only)
    images, _ = data()
    target = opinionated(distiller, images)[1].argmax(1)
    kept = target != 2
    kind = "correctly classified image" if correct_only else "training image"
    with pytest.warns(UserWarning, match=f"no {kind} of class 2: "):
        distiller.prepare([(images[kept], target[kept])])
    assert not distiller.heads["dino"]["means"]()[2].any()


@pytest.mark.parametrize(
    ("student", "kind", "parameters"),
    [
        ("cnn_small", "released", 0),
        ("cnn_tiny", "released", 2 * 24 + 24 * 64 + 64),
        ("cnn_tiny", "paper", 24 * 64 + 64 + 2 * 64),
    ],
)
def test_only_different_widths_get_a_projector(student, kind, parameters):
    heads = build("dino", student=student, projector=kind).heads["dino"]
    assert sum(p.numel() for p in heads.parameters()) == parameters


def test_means_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"class means must have shape \(4, 64\) .* got \(4, 63\)"):
        build("dino", class_means=torch.zeros(4, 63))
