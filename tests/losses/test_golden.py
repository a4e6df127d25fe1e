"""Every golden vector of ``understudy.losses``: value and gradient, in float64 and in float32."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy import losses

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {
    case["case"]: case
    for case in json.loads((GOLDEN / "index.json").read_text())["cases"]
    if case["module"] == "understudy.losses"
}
LEARNS_ON_THE_TEACHER_SIDE = {"cc_loss", "crd_loss"}


def load(name, dtype):
    case = CASES[name]
    with np.load(GOLDEN / case["file"]) as file:
        arrays = {key: torch.from_numpy(file[key].copy()) for key in file.files}
    inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in arrays.items()
        if not key.startswith(("expected", "grad_"))
    }
    return case, arrays, inputs


def call(case, inputs):
    arguments = {
        name: [inputs[f"{name}_{i}"] for i in range(case["list_arguments"][name])]
        if name in case["list_arguments"]
        else inputs[name]
        for name in case["arguments"]
    }
    return getattr(losses, case["function"])(**arguments, **case["params"])


def tolerance(case, want, dtype):
    if dtype is torch.float64:
        return {"rtol": case["rtol"], "atol": case["atol"]}
    temperature = case["params"].get("temperature", 1.0)
    return {"rtol": 0.0, "atol": 1e-5 + 1e-6 * temperature**2 + 1e-3 * float(want.abs().max())}


def test_every_function_of_the_index_has_at_least_three_cases():
    functions = [case["function"] for case in CASES.values()]
    assert len(CASES) >= 108
    assert min(functions.count(name) for name in functions) >= 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_equal_the_golden_ones(name, dtype):
    case, arrays, inputs = load(name, dtype)
    learned = [inputs[key].requires_grad_() for key in case["gradients"]]

    got = call(case, inputs)

    want = arrays["expected"]
    torch.testing.assert_close(got.detach(), want, **tolerance(case, want, dtype), check_dtype=False)
    for key, gradient in zip(
        case["gradients"], torch.autograd.grad(got, learned) if learned else (), strict=True
    ):
        want = arrays[f"grad_{key}"]
        torch.testing.assert_close(gradient, want, **tolerance(case, want, dtype), check_dtype=False)


@pytest.mark.parametrize(
    "name",
    [n for n, c in CASES.items() if c["gradients"] and c["function"] not in LEARNS_ON_THE_TEACHER_SIDE],
)
def test_nothing_flows_back_into_the_teacher(name):
    case, _, inputs = load(name, torch.float64)
    for value in inputs.values():
        if value.is_floating_point():
            value.requires_grad_()
    others = [k for k, v in inputs.items() if v.is_floating_point() and k not in case["gradients"]]
    assert others
    got = call(case, inputs)
    assert torch.autograd.grad(got, [inputs[k] for k in others], allow_unused=True) == (None,) * len(others)
