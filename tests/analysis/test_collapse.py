import numpy as np
import pytest
import torch

from understudy.analysis import neural_collapse

KEYS = (
    "nc1",
    "nc1_ratio",
    "nc2_norm_means",
    "nc2_norm_weights",
    "nc2_angle_means",
    "nc2_angle_weights",
    "nc2_etf_means",
    "nc2_etf_weights",
    "nc3",
    "nc3_frobenius",
    "nc4",
)


def collapsed(num_classes=5, width=8, per_class=6, seed=0):
    """The end state: features at the corners of a rotated, shifted simplex, weights along them."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(width, num_classes, generator=generator, dtype=torch.float64))
    simplex = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    corners = simplex @ basis.T * (num_classes / (num_classes - 1)) ** 0.5  # rows of length 1
    centre = torch.randn(width, generator=generator, dtype=torch.float64)
    target = torch.arange(num_classes).repeat(per_class)
    weight = 2 * corners
    return 3 * corners[target] + centre, target, weight, -weight @ centre


def noisy(size, seed=1):
    feature, target, weight, bias = collapsed()
    generator = torch.Generator().manual_seed(seed)

    def shaken(tensor):
        return tensor + size * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    return shaken(feature), target, shaken(weight), shaken(bias)


def naive(feature, target, weight, bias):
    """The definitions in NumPy, with the pseudo-inverse of the whole matrix, over the present classes."""
    h, y, w, b = (t.numpy() for t in (feature, target, weight, bias))
    present = sorted(set(y.tolist()))
    c = len(present)
    mu = np.stack([h[y == k].mean(0) for k in present])
    w, b, y = w[present], b[present], np.array([present.index(k) for k in y])
    m = mu - mu.mean(0)
    within = sum(np.outer(d, d) for d in h - mu[y]) / len(h)
    between = sum(np.outer(d, d) for d in m) / c
    mt, wt = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (m, w))
    off = ~np.eye(c, dtype=bool)
    etf = np.eye(c) - np.ones((c, c)) / c

    def spread(x):
        lengths = np.linalg.norm(x, axis=1)
        return lengths.std() / lengths.mean()

    def normed(x):
        return x / np.linalg.norm(x)

    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / c,
        "nc1_ratio": np.trace(within) / np.trace(between),
        "nc2_norm_means": spread(m),
        "nc2_norm_weights": spread(w),
        "nc2_angle_means": np.abs((mt @ mt.T)[off] + 1 / (c - 1)).mean(),
        "nc2_angle_weights": np.abs((wt @ wt.T)[off] + 1 / (c - 1)).mean(),
        "nc2_etf_means": np.linalg.norm(normed(m @ m.T) - normed(etf)),
        "nc2_etf_weights": np.linalg.norm(normed(w @ w.T) - normed(etf)),
        "nc3": np.linalg.norm(mt - wt, axis=1).mean(),
        "nc3_frobenius": np.linalg.norm(normed(w) - normed(m)),
        "nc4": np.mean((h @ w.T + b).argmax(1) != ((h[:, None] - mu) ** 2).sum(2).argmin(1)),
    }


@pytest.mark.parametrize(("num_classes", "width"), [(2, 2), (2, 6), (5, 5), (5, 8), (10, 32)])
def test_every_measure_is_0_at_a_collapsed_simplex(num_classes, width):
    measures = neural_collapse(*collapsed(num_classes, width))
    assert tuple(measures) == KEYS
    for key, value in measures.items():
        assert value.dtype == torch.float64
        assert value.shape == ()
        assert abs(float(value)) < 1e-12, key


@pytest.mark.parametrize("key", KEYS)
def test_every_measure_grows_away_from_the_simplex(key):
    near, far = (neural_collapse(*noisy(size))[key] for size in (0.03, 3.0))
    assert float(far) > 0.05
    assert float(near) < float(far) / 3


@pytest.mark.parametrize(("num_classes", "width", "per_class"), [(3, 7, 4), (8, 3, 5), (6, 6, 1)])
def test_measures_equal_the_definitions_written_out(num_classes, width, per_class):
    generator = torch.Generator().manual_seed(num_classes)
    target = torch.arange(num_classes).repeat(per_class)
    feature = torch.randn(len(target), width, generator=generator, dtype=torch.float64) + 5
    weight = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    want = naive(feature, target, weight, bias)
    for key, value in neural_collapse(feature, target, weight, bias).items():
        assert float(value) == pytest.approx(want[key], rel=1e-9, abs=1e-12), key


def test_absent_classes_are_left_out_with_their_rows():
    feature, target, weight, bias = noisy(0.5)
    kept = (target != 1) & (target != 4)
    got = neural_collapse(feature[kept], target[kept], weight, bias)
    rows = torch.tensor([0, 2, 3])
    renumbered = torch.searchsorted(rows, target[kept])
    want = neural_collapse(feature[kept], renumbered, weight[rows], bias[rows])
    assert all(torch.equal(got[key], want[key]) for key in KEYS)
    written_out = naive(feature[kept], target[kept], weight, bias)
    assert float(got["nc1"]) == pytest.approx(written_out["nc1"], rel=1e-9)


def test_a_rotation_of_the_feature_space_changes_nothing():
    feature, target, weight, bias = noisy(0.5)
    turn, _ = torch.linalg.qr(
        torch.randn(8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    )
    before, after = (
        neural_collapse(feature, target, weight, bias),
        neural_collapse(feature @ turn, target, weight @ turn, bias),
    )
    for key in KEYS:
        torch.testing.assert_close(after[key], before[key], rtol=1e-9, atol=1e-12)


def test_the_order_of_samples_and_the_scale_of_features_do_not_matter():
    feature, target, weight, _ = noisy(0.5)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(3))
    before, after = (
        neural_collapse(feature, target, weight),
        neural_collapse(7 * feature[order], target[order], weight),
    )
    for key in KEYS:
        torch.testing.assert_close(after[key], before[key], rtol=1e-9, atol=1e-12)


def test_the_bias_decides_in_nc4_alone():
    feature, target, weight, bias = collapsed()
    flat = torch.full_like(bias, 0.0)
    flat[2] = 1e6  # the classifier always says 2, the means are right
    measures = neural_collapse(feature, target, weight, flat)
    assert float(measures["nc4"]) == pytest.approx(0.8)
    assert all(float(measures[key]) < 1e-12 for key in KEYS[:-1])


def test_half_precision_is_measured_in_float64():
    feature, target, weight, bias = (t.half() if t.is_floating_point() else t for t in noisy(0.5))
    half = neural_collapse(feature, target, weight, bias)
    double = neural_collapse(feature.double(), target, weight.double(), bias.double())
    assert all(torch.equal(half[key], double[key]) for key in KEYS)


def test_a_trained_module_can_be_passed_as_it_is():
    head = torch.nn.Linear(8, 5)
    feature, target, _, _ = collapsed()
    measures = neural_collapse(feature.float(), target, head.weight, head.bias)
    assert not any(value.requires_grad for value in measures.values())


def test_coinciding_class_means_are_nan_and_not_collapsed():
    target = torch.tensor([0, 0, 1, 1])
    feature = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    measures = neural_collapse(feature, target, torch.eye(2))
    for key in ("nc1", "nc2_norm_means", "nc2_etf_means", "nc3_frobenius"):
        assert measures[key].isnan(), key
    assert measures["nc1_ratio"].isinf()
    assert measures["nc2_norm_weights"] == 0


def test_wrong_arguments_are_named():
    feature, target, weight, bias = collapsed()
    with pytest.raises(
        ValueError, match=r"feature and weight must have shapes .* got \(30, 8\) and \(5, 7\)"
    ):
        neural_collapse(feature, target, weight[:, :7])
    with pytest.raises(ValueError, match=r"bias must have shape \(5,\)"):
        neural_collapse(feature, target, weight, bias[:4])
    with pytest.raises(ValueError, match=r"target must lie in \[0, 4\), got 4"):
        neural_collapse(feature, target, weight[:4])
    with pytest.raises(ValueError, match="at least two classes"):
        neural_collapse(feature, torch.zeros_like(target), weight)
    with pytest.raises(ValueError, match="feature must be finite"):
        neural_collapse(feature * torch.nan, target, weight)
