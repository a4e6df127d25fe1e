"""Presets: `method: NAME` in a config stands for a list of terms, with the papers' CIFAR-100 settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from understudy.interface import Align


@dataclass(frozen=True, slots=True)
class Preset:
    """A list of terms and how their gradients are merged."""

    losses: tuple[Mapping[str, Any], ...]
    align: Align = "none"
    note: str = ""
    """Where the numbers come from."""


_CE = {"name": "ce"}
_RAMP_DKD = {"value": 1.0, "warmup_epochs": 20, "warmup_start": 1}  # DKD counts epochs from 1
_RAMP_PP = {"value": 1.0, "warmup_epochs": 20, "warmup_start": 0}  # the KD++ family from 0
_DINO = {"name": "dino", "weight": 1.0}

PRESETS: dict[str, Preset] = {
    "binary_kl": Preset(({"name": "binary_kl"},), note="DHKD Figure 2: the teacher's logits alone"),
    "ce": Preset((_CE,), note="labels alone"),
    "ce+binary_kl": Preset((_CE, {"name": "binary_kl"}), note="DHKD Figure 2: both losses on one head"),
    "dhkd": Preset((_CE, {"name": "dhkd"}), align="released", note="DHKD App. F; alpha 1 of {0.5, 1, 2}"),
    "dhkd++": Preset(
        (_CE, {"name": "dhkd"}, _DINO), align="released", note="our combination; no published weights"
    ),
    "dkd": Preset(
        (_CE, {"name": "dkd", "weight": _RAMP_DKD}), note="DKD App. A; beta 8, see suggest_dkd_beta"
    ),
    "dkd++": Preset(
        (_CE, {"name": "dkd", "weight": _RAMP_PP}, _DINO), note="KD++ App. A; weights of the pairs differ"
    ),
    "dual_head_kd": Preset((_CE, {"name": "dual_head_kd"}), note="DHKD Table 6; weight unpublished"),
    "kd": Preset(
        ({"name": "ce", "weight": 0.1}, {"name": "kd", "weight": 0.9}), note="CRD's and DKD's KD: .1, .9, T 4"
    ),
    "kd++": Preset(
        (_CE, {"name": "kd", "weight": _RAMP_PP}, _DINO), note="KD++ App. A; weights of the pairs differ"
    ),
    "logit_mse": Preset((_CE, {"name": "logit_mse"}), note="our choice of weight"),
}
