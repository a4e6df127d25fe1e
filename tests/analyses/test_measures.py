"""The analyses' own arithmetic, on numbers whose answer is known."""

import math

import pytest
import torch

from understudy.analyses import collapse, conflict, difficulty, embedding, features, fidelity, hard, transfer
from understudy.analyses.gradients import exact_gradients, measure
from understudy.analyses.pair import Head, Seen
from understudy.analysis import feature_gradient_terms, head_gradient_terms, neural_collapse
from understudy.data.images import ImageSet
from understudy.report.plots import Curves


def head(feature, weight, bias=None):
    return Head(feature, weight, bias)


def seen(student, teacher, target):
    zeros = torch.zeros(len(target), 3)
    heads = {
        "student": head(student, torch.zeros(3, student.shape[1])),
        "teacher": head(teacher, torch.zeros(3, teacher.shape[1])),
    }
    return Seen(target, zeros, heads, {}, zeros, zeros, None)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_pull_and_push_sum_to_autograd_in_float64(temperature, with_bias):
    torch.manual_seed(0)
    feature, weight = torch.randn(20, 7).double(), torch.randn(5, 7).double()
    teacher, target = 3 * torch.randn(20, 5).double(), torch.arange(20) % 5
    bias = torch.randn(5).double() if with_bias else None
    exact = exact_gradients(feature, weight, bias, teacher, target, temperature)
    for side, decompose in (("head", head_gradient_terms), ("feature", feature_gradient_terms)):
        terms = decompose(feature, weight, teacher, target, temperature, bias)
        for loss, gradients in exact.items():
            residual = terms[f"{loss}_pull"] + terms[f"{loss}_push"] + gradients[side]
            assert float(residual.norm() / gradients[side].norm()) < 1e-10


def test_the_numbers_of_the_decomposition_are_norms_signs_and_residuals():
    torch.manual_seed(0)
    layer = head(torch.randn(20, 7), torch.randn(5, 7))
    teacher, target = torch.randn(20, 5), torch.arange(20) % 5
    numbers = measure(layer, teacher, target, 2.0)
    terms = head_gradient_terms(layer.feature.double(), layer.weight.double(), teacher.double(), target, 2.0)
    assert numbers["head/ce_pull"] == pytest.approx(float(terms["ce_pull"].norm()), rel=1e-12)
    assert all(value < 1e-10 for name, value in numbers.items() if name.endswith("residual"))
    force = terms["binary_kl_norm_pull"] + terms["binary_kl_norm_push"]
    opposed = sum(float(f @ w) < 0 for f, w in zip(force, layer.weight.double(), strict=True)) / 5
    assert numbers["head/binary_kl_norm_opposed"] == opposed


def test_every_trained_head_residual_is_below_one_in_ten_billion(pair):
    from understudy.analyses.gradients import gradients

    numbers = gradients(pair).numbers
    residuals = [value for name, value in numbers.items() if name.endswith("residual")]
    assert len(residuals) == 6
    assert max(residuals) < 1e-10


def test_collapse_reports_every_head_at_every_moment(pair):
    finding = collapse(pair)
    rows = finding.sheets["measures"].rows
    assert sorted((row[0], row[1]) for row in rows) == [
        (1, "auxiliary"),
        (1, "student"),
        (2, "auxiliary"),
        (2, "student"),
        (3, "auxiliary"),
        (3, "student"),
        (3, "teacher"),
    ]
    assert all(isinstance(plot, Curves) for plot in finding.plots)
    whole = pair.see("train")
    own = neural_collapse(
        whole.heads["student"].feature,
        whole.target,
        whole.heads["student"].weight,
        whole.heads["student"].bias,
    )
    assert finding.numbers["student/nc1"] == float(own["nc1"])


def test_conflict_counts_negative_products():
    summary = conflict_module()._summary([(-2.0, 4.0, 1.0), (1.0, 1.0, 4.0)])
    assert summary == {"negative": 50.0, "cosine": pytest.approx((-1 + 0.5) / 2), "lambda": 0.25}
    assert all(math.isnan(v) for v in conflict_module()._summary([]).values())


def test_conflict_agrees_with_the_alignment_of_the_engine(pair):
    """λ and cosine of one batch, from the numbers the distiller itself reports."""
    module = conflict_module()
    batch = next(module._loader(pair).epoch(0))
    pair.distiller.train()
    torch.manual_seed(0)
    out = pair.distiller(batch.images, batch.target, index=batch.index, view=batch.view)
    products = module._products(pair, out.label_loss, out.guide_loss)
    kept = {name: tensor.clone() for name, tensor in pair.distiller.state_dict().items()}
    torch.manual_seed(0)
    pair.distiller.load_state_dict(kept)
    pair.distiller.backward(pair.distiller(batch.images, batch.target, index=batch.index, view=batch.view))
    dot, a, b = products["backbone"]
    # the engine works in float32
    assert float(pair.distiller.alignment["dot"]) == pytest.approx(dot, rel=1e-3, abs=1e-4 * math.sqrt(a * b))
    assert float(pair.distiller.alignment["norm_sq"]) == pytest.approx(a, rel=1e-4)
    pair.distiller.eval()


def conflict_module():
    import sys

    return sys.modules[conflict.__module__]


def test_directions_are_1_where_the_student_is_a_map_of_the_teacher(pair):
    module = sys_module(features)
    torch.manual_seed(0)
    teacher, target = torch.randn(60, 3) + 2, torch.arange(60) % 3
    student = teacher @ torch.randn(3, 5)  # wider, of another basis
    project, how = module.projection(pair, seen(student, teacher, target))
    torch.testing.assert_close(project(student), teacher, rtol=1e-4, atol=1e-4)
    assert "affine map" in how
    measured = module.measure(
        seen(2 * teacher, teacher, target), module.class_means(seen(student, teacher, target), 3), teacher
    )
    assert measured["norm_ratio"] == pytest.approx(2.0)
    assert measured["student_cosine"] == pytest.approx(measured["teacher_cosine"])


def test_the_runs_own_projector_is_taken(trained):
    import understudy as us

    folder = trained("dino", losses=[{"name": "ce"}, {"name": "dino"}])
    finding = us.analyze(folder, ["features"], quiet=True).findings["features"]
    assert "through the projector of the term dino" in finding.notes[0]


def sys_module(function):
    import sys

    return sys.modules[function.__module__]


def test_the_plane_separates_what_is_separable():
    torch.manual_seed(0)
    target = torch.arange(90) % 3
    feature = torch.eye(3)[target] + 0.05 * torch.randn(90, 3)
    plane = sys_module(embedding).fit_plane(feature, target, 3)
    assert plane(feature).argmax(dim=1).equal(target)
    assert plane[0](feature).shape == (90, 2)


def test_the_probe_finds_a_linear_rule():
    torch.manual_seed(0)
    feature = torch.randn(400, 4)
    target = (feature @ torch.tensor([1.0, -2.0, 0.5, 0.0]) > 0).long()
    probe = sys_module(transfer).fit_probe(feature, target, 2)
    assert float((probe(feature).argmax(dim=1) == target).float().mean()) > 0.97


@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 1), (3, 3)])
def test_other_images_get_the_channels_of_the_backbone(have, want):
    pixels = torch.randint(256, (2, have, 4, 4), dtype=torch.uint8)
    given = sys_module(transfer).as_channels(pixels, want)
    assert given.shape == (2, want, 4, 4)
    assert given.dtype == torch.uint8


def test_cost_counts_a_linear_layer():
    layer = torch.nn.Linear(6, 4)
    parameters, size, flops, latency, batch = sys_module(fidelity).cost(layer, torch.zeros(1, 6))
    assert (parameters, size, flops) == (28, 112, 2 * 6 * 4)
    assert 0 < latency < batch * 100


def images(n=400, classes=5):
    pixels = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8)
    return ImageSet.read(pixels, torch.arange(n) % classes, [str(c) for c in range(classes)], "test")


def test_noise_moves_its_share_of_labels_to_other_classes_and_always_the_same():
    whole = images(5000)
    noisy = hard.noisy_labels(whole, 0.3)
    moved = noisy.targets != whole.targets
    assert float(moved.float().mean()) == pytest.approx(0.3, abs=0.03)  # 4 standard deviations: 0.026
    gaps = ((noisy.targets - whole.targets) % 5)[moved].bincount(minlength=5).float()
    assert gaps[0] == 0
    assert gaps[1:].min() / gaps[1:].max() > 0.75
    order = torch.randperm(5000)
    assert hard.noisy_labels(whole.subset(order), 0.3).targets.equal(noisy.targets[order])
    assert not hard.noisy_labels(whole, 0.3, seed=1).targets.equal(noisy.targets)


def test_strong_augmentation_is_a_function_of_epoch_and_image():
    whole = images(30)
    state = torch.get_rng_state()
    first = hard.strongly_augmented(whole, 0).images
    assert torch.get_rng_state().equal(state)
    assert hard.strongly_augmented(whole.subset(torch.tensor([7, 3])), 0).images.equal(first[[7, 3]])
    assert not hard.strongly_augmented(whole, 1).images.equal(first)
    assert not first.equal(whole.images)


def test_both_parts_of_kd_vanish_where_student_and_teacher_agree():
    z = torch.randn(10, 3)
    same = Seen(torch.arange(10) % 3, z, {}, {}, z, z, None)
    found = sys_module(difficulty).measure(same, 4.0)
    assert found["tckd"] == pytest.approx(0, abs=1e-12)
    assert found["nckd"] == pytest.approx(0, abs=1e-12)
    assert found["tckd_gradient"] == pytest.approx(0, abs=1e-12)
