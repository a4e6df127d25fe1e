"""The analyses against values computed with independent float64 loops from the formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import understudy.analysis

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    case
    for case in json.loads((GOLDEN / "index.json").read_text())["cases"]
    if case["module"] == "understudy.analysis"
]


def evaluate(case, cast=lambda tensor: tensor):
    """Returns [(key, got, want)]; ``cast`` is applied to floating arguments."""
    with np.load(GOLDEN / case["file"]) as file:
        arrays = {name: torch.from_numpy(file[name].copy()) for name in file.files}
    given = {n: cast(arrays[n]) if arrays[n].is_floating_point() else arrays[n] for n in case["arguments"]}
    got = getattr(understudy.analysis, case["function"])(**given, **case["params"])
    if not isinstance(got, dict):
        return [("expected", got, arrays["expected"])]
    assert case["outputs"] == [f"expected_{key}" for key in got]
    return [(key, value, arrays[f"expected_{key}"]) for key, value in got.items()]


def test_every_case_has_its_function():
    assert {case["function"] for case in CASES} == {
        "class_logit_difference",
        "correlation_difference",
        "feature_gradient_terms",
        "head_gradient_terms",
        "ijckd_bound",
        "neural_collapse",
        "paper_obstacle",
        "target_gap",
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_float64_equals_the_golden_values(case):
    for key, got, want in evaluate(case):
        torch.testing.assert_close(
            got, want, rtol=case["rtol"], atol=case["atol"], msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_float32_equals_the_golden_values_to_its_rounding(case):
    # inputs are multiples of 1/256, exact in float32, and the inside is float64: only the result is rounded
    for key, got, want in evaluate(case, cast=torch.Tensor.float):
        if case["function"] != "neural_collapse":
            assert got.dtype == torch.float32, key
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=case["atol"])
