import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.gradients import align_features, align_gradients, coefficient, conflict, merge
from understudy.losses import binary_kl_norm_loss

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {
    case["case"]: case
    for case in json.loads((GOLDEN / "index.json").read_text())["cases"]
    if case["module"] == "understudy.gradients"
}
MODES = ("none", "released", "backbone", "paper")
PROJECTING = ("released", "backbone", "paper")
ROLES = {
    "conv": "backbone",
    "shift": "backbone",
    "head.weight": "main",
    "head.bias": "main",
    "aux.weight": "aux",
    "aux.bias": "aux",
}
SHAPES = {
    "conv": (4, 3, 3, 3),
    "shift": (4,),
    "head.weight": (5, 4),
    "head.bias": (5,),
    "aux.weight": (5, 4),
    "aux.bias": (5,),
}


def gradients(dtype=torch.float64, opposed=True):
    """Returns label and teacher gradients, in conflict everywhere (or nowhere)."""
    generator = torch.Generator().manual_seed(0)
    draw = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
    other = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
    sign = -1 if opposed else 1
    ce = {n: draw[n] for n in SHAPES if ROLES[n] != "aux"}
    kd = {n: sign * 0.7 * draw[n] + 0.1 * other[n] for n in ("conv", "shift")}
    kd["aux.weight"] = sign * 0.5 * draw["head.weight"] + 0.1 * other["aux.weight"]
    kd["aux.bias"] = other["aux.bias"]
    return tuple({n: g.to(dtype) for n, g in side.items()} for side in (ce, kd))


def of(role, *sides):
    names = [n for n in SHAPES if ROLES[n] == role]
    return tuple(torch.cat([side[n].flatten() for n in names]) for side in sides)


# Golden vectors


def load(name, dtype):
    case = CASES[name]
    with np.load(GOLDEN / case["file"]) as file:
        arrays = {key: torch.from_numpy(file[key].copy()) for key in file.files}
    return case, {k: v.to(dtype) if v.is_floating_point() else v for k, v in arrays.items()}


def agree(case, got, want):
    tolerance = {"rtol": case["rtol"], "atol": case["atol"]}
    if got.dtype == torch.float32:
        tolerance = {"rtol": 0.0, "atol": 1e-5 + 1e-3 * float(want.abs().max())}
    torch.testing.assert_close(got, want, **tolerance)


def network(arrays):
    """Returns parameters, feature and both losses of the small network of the golden cases."""
    parts = [f"{part}_{kind}" for part in ("backbone", "main", "aux") for kind in ("weight", "bias")]
    parameters = {name: arrays[name].clone().requires_grad_() for name in parts}
    feature = torch.tanh(
        F.linear(arrays["inputs"], parameters["backbone_weight"], parameters["backbone_bias"])
    )
    return parameters, feature


def both_losses(arrays, constants, parameters, feature):
    main = F.linear(feature, parameters["main_weight"], parameters["main_bias"])
    aux = F.linear(feature, parameters["aux_weight"], parameters["aux_bias"])
    ce = constants["ce_weight"] * F.cross_entropy(main, arrays["target"])
    return ce, constants["alpha"] * binary_kl_norm_loss(
        aux, arrays["teacher_logits"], constants["temperature"]
    )


def differentiate(loss, parameters):
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return dict(zip(parameters, found, strict=True))


def test_the_index_holds_all_cases():
    functions = [case["function"] for case in CASES.values()]
    assert functions.count("align_gradients") >= 9
    assert functions.count("align_features") >= 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["function"] == "align_gradients"])
def test_merged_gradients_equal_the_golden_ones(name, dtype):
    case, arrays = load(name, dtype)
    roles = case["constants"]["roles"]
    ce, kd = ({p: arrays[f"{side}_gradient_{p}"] for p in roles} for side in ("ce", "kd"))
    merged, info = align_gradients(ce, kd, roles, **case["params"])
    agree(case, info["lambda"], arrays["expected_lambda"])
    for parameter in roles:
        agree(case, merged[parameter], arrays[f"expected_{parameter}"])


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["function"] == "align_gradients"])
def test_the_whole_step_of_the_golden_network_gives_the_merged_gradients(name):
    case, arrays = load(name, torch.float64)
    parameters, feature = network(arrays)
    ce, kd = both_losses(arrays, case["constants"], parameters, feature)
    merged, _ = align_gradients(
        differentiate(ce, parameters),
        differentiate(kd, parameters),
        case["constants"]["roles"],
        **case["params"],
    )
    for parameter in parameters:
        agree(case, merged[parameter], arrays[f"expected_{parameter}"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["function"] == "align_features"])
def test_merged_feature_gradients_equal_the_golden_ones(name, dtype):
    case, arrays = load(name, dtype)
    merged, info = align_features(arrays["ce_gradient_features"], arrays["kd_gradient_features"])
    agree(case, merged, arrays["expected_features"])
    agree(case, info["lambda"], arrays["expected_lambda"])


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["function"] == "align_features"])
def test_the_whole_feature_step_of_the_golden_network_is_one_backbone_backward(name):
    case, arrays = load(name, torch.float64)
    parameters, feature = network(arrays)
    cut = feature.detach().requires_grad_()
    ce, kd = both_losses(arrays, case["constants"], parameters, cut)
    heads = [p for name, p in parameters.items() if not name.startswith("backbone")]
    a, *of_ce = torch.autograd.grad(ce, [cut, *heads], allow_unused=True)
    b, *of_kd = torch.autograd.grad(kd, [cut, *heads], allow_unused=True)
    merged, _ = align_features(a, b)
    body = [parameters["backbone_weight"], parameters["backbone_bias"]]
    got = [*torch.autograd.grad(feature, body, merged), *merge(of_ce, of_kd)]
    for parameter, gradient in zip(parameters, got, strict=True):
        agree(case, gradient, arrays[f"expected_{parameter}"])


# Properties


def test_released_is_the_gradient_of_the_reweighted_sum_of_losses():
    _, arrays = load("align_gradients-0", torch.float64)
    constants = CASES["align_gradients-0"]["constants"]
    parameters, feature = network(arrays)
    ce, kd = both_losses(arrays, constants, parameters, feature)
    kd = kd - 3 * ce  # a certain conflict, on the main head too
    a, b = differentiate(ce, parameters), differentiate(kd, parameters)
    for name in ("main_weight", "main_bias"):
        b[name] = None
    merged, info = align_gradients(a, b, constants["roles"], mode="released")
    assert info["lambda"] > 0
    again = differentiate((1 + info["lambda"]) * ce + kd, parameters)
    for name in ("backbone_weight", "backbone_bias", "aux_weight", "aux_bias"):
        torch.testing.assert_close(merged[name], again[name])
    torch.testing.assert_close(merged["main_weight"], (1 + info["lambda"]) * a["main_weight"])


def test_backbone_leaves_nothing_that_opposes_the_labels():
    ce, kd = gradients()
    merged, info = align_gradients(ce, kd, ROLES, mode="backbone")
    m, a, b = of("backbone", merged, ce, kd)
    assert a @ b < 0
    torch.testing.assert_close((m - a) @ a, torch.zeros(()).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(info["lambda"], -(a @ b) / (a @ a))
    assert torch.equal(merged["head.weight"], ce["head.weight"])
    assert torch.equal(merged["aux.weight"], kd["aux.weight"])


def test_released_projects_less_than_needed_by_the_share_of_the_main_head():
    ce, kd = gradients()
    merged, info = align_gradients(ce, kd, ROLES, mode="released")
    (m, a, b), (w,) = of("backbone", merged, ce, kd), of("main", ce)
    n = a @ a + w @ w
    torch.testing.assert_close(info["norm_sq"], n)
    torch.testing.assert_close((m - a) @ a, (a @ b) * (w @ w) / n)
    torch.testing.assert_close(merged["head.bias"], (1 + info["lambda"]) * ce["head.bias"])


def test_paper_frees_every_row_of_the_auxiliary_head_and_nothing_else():
    ce, kd = gradients()
    kd["aux.weight"][2] = ce["head.weight"][2]  # one class without a conflict
    merged, info = align_gradients(ce, kd, ROLES, mode="paper")
    assert info["lambda"].shape == info["dot"].shape == info["norm_sq"].shape == (5,)
    rows = (merged["aux.weight"] * ce["head.weight"]).sum(dim=1)
    assert rows.min() > -1e-12
    assert info["lambda"][2] == 0
    assert torch.equal(merged["aux.weight"][2], kd["aux.weight"][2])
    assert (info["lambda"][[0, 1, 3, 4]] > 0).all()
    assert torch.equal(merged["aux.bias"], kd["aux.bias"])
    assert torch.equal(merged["conv"], ce["conv"] + kd["conv"])
    assert torch.equal(merged["head.weight"], ce["head.weight"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e-3, 7.0, 65536.0])
def test_scaling_both_losses_scales_every_merged_gradient(mode, scale):
    ce, kd = gradients()
    merged, info = align_gradients(ce, kd, ROLES, mode=mode)
    scaled, info_scaled = align_gradients(
        {n: scale * g for n, g in ce.items()}, {n: scale * g for n, g in kd.items()}, ROLES, mode=mode
    )
    torch.testing.assert_close(info_scaled["lambda"], info["lambda"])
    for name, gradient in merged.items():
        torch.testing.assert_close(scaled[name], scale * gradient)


@pytest.mark.parametrize("mode", MODES)
def test_without_a_conflict_the_result_is_the_plain_sum_bit_for_bit(mode):
    ce, kd = gradients(opposed=False)
    merged, info = align_gradients(ce, kd, ROLES, mode=mode)
    assert (info["lambda"] == 0).all()
    for name, gradient in merged.items():
        assert torch.equal(gradient, ce.get(name, 0) + kd.get(name, 0)), name


def test_none_is_the_plain_sum_and_reports_the_conflict():
    ce, kd = gradients()
    merged, info = align_gradients(ce, kd, ROLES, mode="none")
    a, b = of("backbone", ce, kd)
    assert torch.equal(merged["conv"], ce["conv"] + kd["conv"])
    assert info["lambda"].item() == 0.0
    torch.testing.assert_close(info["cosine"], F.cosine_similarity(a, b, dim=0))
    torch.testing.assert_close(info["dot"], a @ b)


def test_lists_give_what_dictionaries_give():
    ce, kd = gradients()
    names = ["conv", "shift"]
    a, b = [ce[n] for n in names], [kd[n] for n in names]
    strength = coefficient(*conflict(a, b, main=[ce["head.weight"], ce["head.bias"]]))
    merged, info = align_gradients(ce, kd, ROLES, mode="released")
    assert torch.equal(strength, info["lambda"])
    for got, name in zip(merge(a, b, strength), names, strict=True):
        assert torch.equal(got, merged[name])


def test_features_are_projected_like_one_backbone_tensor():
    ce, kd = gradients()
    merged, info = align_features(ce["conv"], kd["conv"])
    want, info_want = align_gradients(
        {"conv": ce["conv"]}, {"conv": kd["conv"]}, {"conv": "backbone"}, mode="backbone"
    )
    assert torch.equal(merged, want["conv"])
    assert info.keys() == info_want.keys()
    assert all(torch.equal(info[k], info_want[k]) for k in info)


# Degenerate cases


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("absent", ["ce", "kd"])
@pytest.mark.parametrize("how", ["missing", "None", "zero"])
def test_if_one_loss_has_no_gradient_the_other_one_is_left(mode, absent, how):
    sides = dict(zip(("ce", "kd"), gradients(), strict=True))
    side = sides[absent]
    sides[absent] = {
        "missing": {},
        "None": dict.fromkeys(side),
        "zero": {n: torch.zeros_like(g) for n, g in side.items()},
    }[how]
    merged, info = align_gradients(sides["ce"], sides["kd"], ROLES, mode=mode)
    (left,) = (s for key, s in sides.items() if key != absent)
    assert (info["lambda"] == 0).all()
    assert info["cosine"] == 0
    for name, gradient in left.items():
        assert torch.equal(merged[name], gradient)


@pytest.mark.parametrize("mode", MODES)
def test_a_parameter_that_no_loss_reaches_stays_absent(mode):
    ce, kd = gradients()
    roles = ROLES | {"unused": "backbone", "unused.head": "main"}
    merged, _ = align_gradients(ce | {"unused": None}, kd, roles, mode=mode)
    assert merged.keys() == SHAPES.keys()


@pytest.mark.parametrize("mode", ["none", "released", "backbone"])
def test_without_a_backbone_the_numbers_lie_with_the_gradients(mode):
    gradient = torch.ones(2, 3, device="meta")
    _, info = align_gradients({"m": gradient}, {"a": gradient}, {"m": "main", "a": "aux"}, mode=mode)
    assert {number.device.type for number in info.values()} == {"meta"}


def test_no_gradients_at_all_are_no_error():
    merged, info = align_gradients({}, {}, ROLES)
    assert merged == {}
    assert info["lambda"].item() == 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_non_finite_gradients_are_passed_on(mode, value, side):
    sides = gradients()
    sides[side]["conv"].view(-1)[5] = value
    merged, _ = align_gradients(*sides, ROLES, mode=mode)
    assert not merged["conv"].view(-1)[5].isfinite()


def test_a_gradient_whose_square_underflows_gives_no_nan():
    tiny = {"conv": torch.full((3,), 1e-30)}
    merged, info = align_gradients(tiny, {"conv": -tiny["conv"]}, {"conv": "backbone"}, mode="backbone")
    assert info["lambda"].item() == 0.0
    assert merged["conv"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_keep_their_precision_and_lambda_is_at_least_float32(mode, dtype):
    ce, kd = gradients(dtype)
    merged, info = align_gradients(ce, kd, ROLES, mode=mode)
    assert all(g.dtype == dtype for g in merged.values())
    assert info["lambda"].dtype == torch.float32
    exact, _ = align_gradients(
        {n: g.double() for n, g in ce.items()}, {n: g.double() for n, g in kd.items()}, ROLES, mode=mode
    )
    for name, gradient in merged.items():
        torch.testing.assert_close(
            gradient.double(), exact[name], rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("mode", MODES)
def test_inputs_are_left_as_they_were(mode):
    ce, kd = gradients()
    align_gradients(ce, kd, ROLES, mode=mode)
    for side, again in zip((ce, kd), gradients(), strict=True):
        assert all(torch.equal(side[n], again[n]) for n in side)


class HostReads(TorchDispatchMode):
    """Counts reads of a tensor's value on the host."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += func.overloadpacket.__name__ in (
            "_local_scalar_dense",
            "equal",
            "is_nonzero",
            "nonzero",
        )
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_read_on_the_host(mode):
    ce, kd = gradients()
    with HostReads() as mode_of_reads:
        align_gradients(ce, kd, ROLES, mode=mode)
        align_features(ce["conv"], kd["conv"])
    assert mode_of_reads.found == 0


# Errors


def test_error_for_an_unknown_mode_and_for_features():
    with pytest.raises(
        ValueError, match=r"one of none, released, backbone, paper, got 'pcgrad'\. Choose one"
    ):
        align_gradients({}, {}, {}, mode="pcgrad")
    with pytest.raises(ValueError, match=r"got 'feature'\. For 'feature' call align_features"):
        align_gradients({}, {}, {}, mode="feature")


def test_error_for_roles_that_are_unknown_or_missing():
    ce, kd = gradients()
    with pytest.raises(ValueError, match="roles must be backbone, main, aux, got 'head' for conv"):
        align_gradients(ce, kd, ROLES | {"conv": "head"})
    with pytest.raises(ValueError, match="must have a role, got none for stray"):
        align_gradients(ce, kd | {"stray": torch.ones(1)}, ROLES)


def test_error_of_mode_paper_without_two_heads_of_one_shape():
    ce, kd = gradients()
    two = {"aux.second": torch.ones(5, 4)}
    with pytest.raises(
        ValueError, match=r"one matrix of role 'aux', got aux.weight, aux.second\. Use a linear"
    ):
        align_gradients(ce, kd | two, ROLES | {"aux.second": "aux"}, mode="paper")
    with pytest.raises(ValueError, match="one matrix of role 'aux', got none"):
        align_gradients({"conv": ce["conv"]}, {}, {"conv": "backbone", "head.weight": "main"}, mode="paper")
    with pytest.raises(ValueError, match=r"got main \(5, 4\) and aux \(5, 3\)"):
        align_gradients(ce, kd | {"aux.weight": torch.ones(5, 3)}, ROLES, mode="paper")


def test_error_for_feature_gradients_of_two_shapes():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        align_features(torch.ones(2, 3), torch.ones(2, 4))
