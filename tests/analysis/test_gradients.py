import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from understudy.analysis import feature_gradient_terms, head_gradient_terms, paper_obstacle
from understudy.losses.binary_kl import binary_kl_loss, binary_kl_norm_loss

BATCH, CLASSES, WIDTH = 9, 5, 4
LOSSES = ("ce", "binary_kl", "binary_kl_norm")


def problem(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    target = torch.randint(CLASSES, (BATCH,), generator=generator)
    return draw(BATCH, WIDTH), draw(CLASSES, WIDTH), draw(BATCH, CLASSES), target, draw(CLASSES)


def naive_loss(name, logits, teacher, target, temperature):
    """The three losses as the papers write them, in float64."""
    if name == "ce":
        return F.cross_entropy(logits, target)
    if name == "binary_kl":
        q, p = torch.sigmoid(teacher / temperature), torch.sigmoid(logits / temperature)
    else:
        q, p = torch.tensor(0.5, dtype=torch.float64), torch.sigmoid((logits - teacher) / temperature)
    divergence = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    return temperature**2 * divergence.sum() / len(logits)


def packaged_loss(name, logits, teacher, target, temperature):
    if name == "ce":
        return F.cross_entropy(logits, target)
    loss = {"binary_kl": binary_kl_loss, "binary_kl_norm": binary_kl_norm_loss}[name]
    return loss(logits, teacher, temperature=temperature)


def assert_equal_relative(got, want, relative=1e-10):
    assert (got - want).abs().max() <= relative * want.abs().max()


@pytest.mark.parametrize("reference", [naive_loss, packaged_loss])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("name", LOSSES)
def test_minus_the_sum_of_the_terms_is_the_gradient(name, temperature, with_bias, reference):
    feature, weight, teacher, target, bias = problem()
    bias = bias if with_bias else None
    feature.requires_grad_()
    weight.requires_grad_()
    loss = reference(name, F.linear(feature, weight, bias), teacher, target, temperature)
    by_weight, by_feature = torch.autograd.grad(loss, [weight, feature])
    head = head_gradient_terms(feature, weight, teacher, target, temperature, bias)
    features = feature_gradient_terms(feature, weight, teacher, target, temperature, bias)
    assert_equal_relative(-(head[f"{name}_pull"] + head[f"{name}_push"]), by_weight)
    assert_equal_relative(-(features[f"{name}_pull"] + features[f"{name}_push"]), by_feature)


@pytest.mark.parametrize("name", LOSSES)
def test_pull_is_what_goes_through_the_logit_of_the_true_class(name):
    feature, weight, teacher, target, _ = problem(seed=3)
    feature.requires_grad_()
    weight.requires_grad_()
    logits = feature @ weight.T
    (through,) = torch.autograd.grad(
        naive_loss(name, logits, teacher, target, 2.0), logits, retain_graph=True
    )
    own = F.one_hot(target, CLASSES).bool()
    for part, mask in (("pull", own), ("push", ~own)):
        force = torch.where(mask, -through, 0)
        by_weight, by_feature = torch.autograd.grad(logits, [weight, feature], force, retain_graph=True)
        assert_equal_relative(
            head_gradient_terms(feature, weight, teacher, target)[f"{name}_{part}"], by_weight
        )
        assert_equal_relative(
            feature_gradient_terms(feature, weight, teacher, target)[f"{name}_{part}"], by_feature
        )


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 20))
def test_cross_entropy_pulls_on_its_class_and_pushes_off_the_others(seed, scale):
    feature, weight, teacher, target, _ = problem(seed, scale)
    terms = feature_gradient_terms(feature, weight, teacher, target)
    # a pull is a non-negative multiple of the row of the own class
    own = weight[target]
    along = (terms["ce_pull"] * own).sum(dim=1)
    assert (along >= 0).all()
    torch.testing.assert_close(terms["ce_pull"], own * (along / own.square().sum(dim=1))[:, None])


def test_an_absent_class_is_pulled_by_nothing():
    feature, weight, teacher, _, _ = problem()
    terms = head_gradient_terms(feature, weight, teacher, torch.zeros(BATCH, dtype=torch.int64))
    for name in LOSSES:
        assert (terms[f"{name}_pull"][1:] == 0).all()
        assert (terms[f"{name}_push"][0] == 0).all()
        assert (terms[f"{name}_push"][1:] != 0).all()


@pytest.mark.parametrize("terms", [head_gradient_terms, feature_gradient_terms])
def test_a_student_equal_to_its_teacher_feels_only_the_labels(terms):
    feature, weight, _, target, bias = problem()
    forces = terms(feature, weight, F.linear(feature, weight, bias), target, bias=bias)
    assert max(forces[f"{n}_{p}"].abs().max() for n in LOSSES[1:] for p in ("pull", "push")) < 1e-15
    assert forces["ce_pull"].abs().max() > 0.01


def test_the_pull_of_a_certain_network_keeps_its_digits():
    feature, weight = torch.eye(2, dtype=torch.float64), 100 * torch.eye(2, dtype=torch.float64)
    terms = head_gradient_terms(feature, weight, torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]))
    want = (
        torch.exp(torch.tensor(-100.0, dtype=torch.float64)) / 2
    )  # 1 - p_y = e^-100, which 1 - p rounds to 0
    torch.testing.assert_close(terms["ce_pull"][0, 0], want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("terms", [head_gradient_terms, feature_gradient_terms])
def test_large_gaps_stay_finite(terms):
    feature, weight, teacher, target, _ = problem(scale=300.0)
    for force in terms(feature.float(), weight.float(), teacher.float(), target, temperature=0.1).values():
        assert force.isfinite().all()


@pytest.mark.parametrize("terms", [head_gradient_terms, feature_gradient_terms])
def test_an_empty_batch_exerts_no_force(terms):
    forces = terms(torch.zeros(0, 4), torch.ones(3, 4), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert all(bool((force == 0).all()) for force in forces.values())
    assert (paper_obstacle(torch.zeros(0, 4), torch.zeros(0, 4), torch.ones(3, 4)) == 0).all()


def test_autocast_changes_nothing():
    feature, weight, teacher, target, _ = (t.float() if t.is_floating_point() else t for t in problem())
    plain = head_gradient_terms(feature, weight, teacher, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head_gradient_terms(feature, weight, teacher, target)
    assert all(torch.equal(plain[key], inside[key]) for key in plain)


def test_obstacle_of_the_paper_is_a_gradient_only_of_shared_live_rows():
    feature, weight, _, target, _ = problem()
    other = problem(seed=1)[0]
    weight.requires_grad_()
    shared = naive_loss("binary_kl_norm", feature @ weight.T, other @ weight.T, target, 2.0)
    printed = paper_obstacle(feature, other, weight)
    assert_equal_relative(-printed, torch.autograd.grad(shared, weight)[0])

    fixed = naive_loss("binary_kl_norm", feature @ weight.T, (other @ weight.T).detach(), target, 2.0)
    trained = torch.autograd.grad(fixed, weight)[0]
    assert (printed + trained).norm() > 0.1 * trained.norm()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), temperature=st.floats(0.1, 20))
def test_obstacle_of_the_paper_opposes_every_row(seed, temperature):
    feature, weight, _, _, _ = problem(seed)
    other = problem(seed + 1)[0]
    assert ((paper_obstacle(feature, other, weight, temperature) * weight).sum(dim=1) <= 0).all()


def test_the_trained_obstacle_points_along_its_row_below_the_teacher():
    feature = weight = torch.ones(1, 1, dtype=torch.float64)
    terms = head_gradient_terms(feature, weight, 2 * feature, torch.tensor([0]))  # 0 < z = 1 < t = 2
    assert terms["binary_kl_norm_pull"].item() > 0


@pytest.mark.parametrize("terms", [head_gradient_terms, feature_gradient_terms])
def test_wrong_arguments_are_named(terms):
    feature, weight, teacher, target, _ = problem()
    with pytest.raises(
        ValueError, match=r"student_feature and weight must have shapes .* \(9, 4\) and \(5, 3\)"
    ):
        terms(feature, weight[:, :3], teacher, target)
    with pytest.raises(ValueError, match=r"got student \(9, 5\) and teacher \(9, 4\)"):
        terms(feature, weight, teacher[:, :4], target)
    with pytest.raises(ValueError, match=r"bias must have shape \(5,\).* got \(4,\)"):
        terms(feature, weight, teacher, target, bias=torch.zeros(4))
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got 0"):
        terms(feature, weight, teacher, target, temperature=0)
    with pytest.raises(ValueError, match="weight must be floating"):
        terms(feature, weight.long(), teacher, target)
    with pytest.raises(ValueError, match=r"target must be int64 of shape \(9,\)"):
        terms(feature, weight, teacher, target[:3])


def test_wrong_arguments_of_the_obstacle_are_named():
    with pytest.raises(ValueError, match=r"got student \(2, 3\) and teacher \(2, 4\)"):
        paper_obstacle(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(5, 4\)"):
        paper_obstacle(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got -1"):
        paper_obstacle(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(5, 3), temperature=-1)
