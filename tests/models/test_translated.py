"""A teacher of other images and classes: the translation is what a person would have computed by hand."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import understudy as us
from understudy.models import create_model, family, known_roles
from understudy.models.classes import match_classes, read_names
from understudy.models.translated import Translated, classify, merge_classes, padded
from understudy.taps import Taps, describe
from understudy.teacher.fingerprint import weights_digest
from understudy.teacher.fold import fold_batch_norms
from understudy.teacher.layout import Layout, columns

OURS = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
THEIRS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def pixels(n=2, size=8, channels=3):
    torch.manual_seed(1)
    return torch.randint(0, 256, (n, channels, size, size)).double() / 255


def normalised(images, mean, std):
    return (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


class Eye(nn.Module):
    """Shows what reaches the network."""

    def forward(self, x):
        return x


def test_normalisation_is_taken_back_and_made_anew():
    images = pixels()
    got = Translated(Eye(), OURS, THEIRS)(normalised(images, *OURS).float())
    torch.testing.assert_close(got.double(), normalised(images, *THEIRS), atol=2e-6, rtol=0)


def test_bgr_is_the_other_way_round():
    images = pixels()
    got = Translated(Eye(), OURS, THEIRS, channels="bgr")(normalised(images, *OURS).float())
    torch.testing.assert_close(got.double(), normalised(images.flip(1), *THEIRS), atol=2e-6, rtol=0)


def test_grey_becomes_three_equal_channels():
    images = pixels(channels=1)
    got = Translated(Eye(), ([0.3], [0.2]), ([0.0] * 3, [1.0] * 3), channels="rgb")(
        normalised(images, [0.3], [0.2])
    )
    torch.testing.assert_close(got, images.expand(-1, 3, -1, -1).to(got), atol=1e-6, rtol=0)


def test_colour_becomes_grey_as_pillow_makes_it():
    images = pixels()
    got = Translated(Eye(), OURS, ([0.0], [1.0]), channels="grey")(normalised(images, *OURS).float())
    array = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    grey = np.asarray(Image.fromarray(array).convert("L")).astype(float) / 255
    np.testing.assert_allclose(got[0, 0].numpy(), grey, atol=1.01 / 255)  # Pillow rounds to whole levels


@pytest.mark.parametrize("size", [16, 5])
def test_scaling_is_that_of_pillow(size):
    images = pixels(n=1)
    got = Translated(Eye(), OURS, ([0.0] * 3, [1.0] * 3), image_size=(size, size))(
        normalised(images, *OURS).float()
    )
    array = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    theirs = (
        np.asarray(Image.fromarray(array).resize((size, size), Image.Resampling.BILINEAR)).astype(float) / 255
    )
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), theirs, atol=1.01 / 255)


def test_merged_probabilities_are_sums_by_hand():
    logits = torch.randn(5, 6, dtype=torch.float64) * 3
    members = [[0, 3, 5], [1], [2, 4]]
    merged = merge_classes(logits, *padded(members)).softmax(dim=1)
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    sums = torch.stack([sum(p[:, j] for j in own) for own in members], dim=1)
    torch.testing.assert_close(merged, sums, atol=1e-12, rtol=0)


def test_merging_stays_finite_where_probabilities_vanish():
    merged = merge_classes(torch.tensor([[1e4, -1e4, -2e4]]), *padded([[0], [1, 2]]))
    assert torch.isfinite(merged).all()
    assert merged[0].tolist() == [1e4, -1e4]


def test_a_choice_of_single_classes_keeps_their_logits():
    logits = torch.randn(3, 6)
    assert torch.equal(merge_classes(logits, *padded([[4], [0]])), logits[:, [4, 0]])


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    net = create_model("resnet8x4", num_classes=6).eval()
    return Translated(net, OURS, THEIRS, image_size=(64, 64), members=[[0, 1], [4], [5, 2]])


def test_roles_are_those_of_the_network_inside(teacher):
    images = torch.randn(2, 3, 32, 32)
    found = describe(teacher, images, known=known_roles(teacher))
    inner = describe(teacher.net, torch.zeros(2, 3, 64, 64), known=known_roles(teacher.net))
    assert found.head == f"net.{inner.head}"
    assert found.num_classes == 3
    assert {r: s for r, s in found.shapes.items() if r != "logits"} == {
        r: s for r, s in inner.shapes.items() if r != "logits"
    }
    with Taps(found, ["logits", "feature", "stage_*"]) as taps:
        shown = taps.collect(teacher(images))
    with Taps(inner, ["logits", "feature", "stage_*"]) as taps:
        expected = taps.collect(teacher.net(teacher.translate_images(images)))
    for role in ("feature", "stage_1", "stage_3"):
        assert torch.equal(shown[role], expected[role])
    assert family(teacher) == family(teacher.net)


def test_batch_norms_are_folded_inside(teacher):
    images = torch.randn(2, 3, 32, 32)
    folding = fold_batch_norms(describe(teacher, images, known=known_roles(teacher)), images)
    assert len(folding.folded) == 10
    torch.testing.assert_close(folding.network.module(images), teacher(images), atol=1e-4, rtol=1e-4)


def test_a_table_sees_another_translation(teacher):
    other = Translated(teacher.net, OURS, THEIRS, image_size=(64, 64), members=[[0, 1], [4], [5]])
    resized = Translated(teacher.net, OURS, THEIRS, image_size=(48, 48), members=[[0, 1], [4], [5, 2]])
    assert weights_digest(teacher) != weights_digest(other)
    assert repr(teacher) != repr(resized)


@pytest.mark.parametrize("method", ["kd", "dhkd", "reviewkd", "dino", "crd"])
def test_methods_learn_from_it(teacher, method):
    images, target = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    student = create_model("cnn_tiny", num_classes=3)
    distiller = us.Distiller(
        student,
        teacher,
        [{"name": "ce"}, {"name": method}],
        example=images,
        train_targets=torch.arange(12) % 3,
    )
    if distiller.needs_prepare:
        distiller.prepare([(images, target)])
    out = distiller(images, target, index=torch.arange(6), view=torch.zeros(6, dtype=torch.int64))
    distiller.backward(out)
    assert torch.isfinite(out.loss)


def test_a_term_that_takes_the_classifier_refuses_other_classes(teacher):
    with pytest.raises(ValueError, match="uses the teacher's classifier"):
        us.Distiller(create_model("cnn_tiny", num_classes=3), teacher, [{"name": "simkd"}])


def shown_by(network, images):
    with Taps(network, ["feature", "logits"]) as taps, torch.no_grad():
        return taps.collect(network.module(images))


def test_logits_made_of_the_feature_are_of_our_classes(teacher):
    network = describe(teacher, torch.zeros(2, 3, 32, 32), known=known_roles(teacher))
    shown = shown_by(network, torch.randn(4, 3, 32, 32))
    torch.testing.assert_close(classify(network, shown["feature"]), shown["logits"], atol=1e-5, rtol=1e-5)
    held = columns(["feature", "logits"], shown, network)
    assert held == (("feature", 256),)
    layout = Layout(4, 1, held, "fp32")
    back = layout.unpack(layout.pack(shown), network)
    torch.testing.assert_close(back["logits"], shown["logits"], atol=1e-5, rtol=1e-5)


@pytest.fixture
def permuted(teacher):
    """The same network, of as many classes as ours in another order."""
    return Translated(teacher.net, OURS, THEIRS, image_size=(64, 64), members=[[4], [0], [5], [1], [3], [2]])


def test_class_means_of_the_classifier_are_in_the_order_of_our_classes(permuted):
    distiller = us.Distiller(
        create_model("cnn_tiny", num_classes=6),
        permuted,
        [{"name": "ce"}, {"name": "dino", "means": "classifier"}],
        example=torch.zeros(2, 3, 32, 32),
    )
    rows = permuted.net.fc.weight.detach()[[4, 0, 5, 1, 3, 2]]
    assert torch.equal(distiller.heads["dino"]["means"](), rows)


def test_class_means_of_the_classifier_are_refused_where_classes_are_merged(teacher):
    with pytest.raises(ValueError, match="one row for each class, got classes that are made of several"):
        us.Distiller(
            create_model("cnn_tiny", num_classes=3),
            teacher,
            [{"name": "ce"}, {"name": "dino", "means": "classifier"}],
            example=torch.zeros(2, 3, 32, 32),
        )


def test_what_the_teacher_gets_right_is_judged_in_our_classes(permuted):
    images = torch.randn(40, 3, 32, 32)
    network = describe(permuted, images[:2], known=known_roles(permuted))
    feature = shown_by(network, images)["feature"]
    fc = permuted.net.fc
    fc.bias.data = -fc.weight.data @ feature.mean(dim=0)  # so that it answers with several classes
    answer = permuted(images).argmax(dim=1)
    assert len(answer.unique()) > 2
    distiller = us.Distiller(
        create_model("cnn_tiny", num_classes=6),
        permuted,
        [{"name": "ce"}, {"name": "dino", "correct_only": True}],
        example=images[:2],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that it never answers with
        distiller.prepare([(images, answer)])
    means = distiller.heads["dino"]["means"]()
    for k in answer.unique().tolist():
        expected = feature[answer == k].mean(dim=0)
        torch.testing.assert_close(means[k], expected, atol=1e-4, rtol=1e-4)


NAMES = ["tabby", "beagle", "lynx", "poodle"]


def test_classes_are_matched_by_name_number_and_list():
    assert match_classes(["poodle", "lynx"], "name", NAMES, 4) == [[3], [2]]
    assert match_classes(["cat", "dog"], [[0, 2], ["beagle", 3]], NAMES, 4) == [[0, 2], [1, 3]]
    cranes = ["crane", "dog", "crane"]
    with pytest.raises(ValueError, match=r"the name of 0 and 2\. Give the number"):
        match_classes(["crane"], "name", cranes, 3)
    assert match_classes(["dog"], "name", cranes, 3) == [[1]]
    assert match_classes(["cat", "dog"], {"dog": 1, "cat": ["lynx", 0]}, NAMES, 4) == [[2, 0], [1]]
    assert match_classes(["0", "1"], {0: 7, 1: 5}, None, 9) == [[7], [5]]


@pytest.mark.parametrize(
    ("ours", "mapping", "names", "message"),
    [
        (["cat", "dog", "cow"], {"cat": 0}, NAMES, "got nothing for 'dog' and 1 more"),
        (["cat"], {"cat": 0, "cta": 1}, NAMES, "got 'cta'. Did you mean 'cat'"),
        (["cat"], {"cat": "taby"}, NAMES, "got 'taby'. Did you mean 'tabby'"),
        (["cat"], {"cat": "tabby"}, None, r"Give teacher\.classes\.names, or numbers"),
        (["cat"], {"cat": 4}, NAMES, "classes 0 to 3, got 4"),
        (["cat"], {"cat": []}, NAMES, "at least one class of the teacher's"),
        (["cat", "dog"], {"cat": [0, 1], "dog": 1}, NAMES, "got 1 for 'cat' and 'dog'"),
        (["cat", "dog"], [0], NAMES, "one entry for each of the 2 classes, got 1"),
        (["cat"], "name", NAMES, "got 'cat'"),
        (["cat"], "name", None, r"teacher\.classes\.names must be given"),
    ],
)
def test_a_map_that_does_not_fit_is_named(ours, mapping, names, message):
    with pytest.raises(ValueError, match=message) as caught:
        match_classes(ours, mapping, names, 4)
    assert "\n" not in str(caught.value)


def test_names_are_read_from_files(tmp_path):
    (tmp_path / "a.txt").write_text("tabby\nlynx\n\n")
    (tmp_path / "a.json").write_text('["tabby", "lynx"]')
    (tmp_path / "b.json").write_text('{"1": "lynx", "0": "tabby"}')
    (tmp_path / "c.json").write_text('{"a": 1}')
    assert all(read_names(tmp_path / f) == ["tabby", "lynx"] for f in ("a.txt", "a.json", "b.json"))
    with pytest.raises(ValueError, match=r"c\.json must be a JSON list of names"):
        read_names(tmp_path / "c.json")
    with pytest.raises(ValueError, match="must be a list or a file"):
        read_names(tmp_path / "none.txt")
