"""Names, order and defaults of the losses' arguments: recipes, configs and other people's calls hold on to them."""

import inspect
from importlib import import_module

import pytest

from understudy import losses

LOGITS = "student_logits, teacher_logits"
SIGNATURES = {
    "ab_loss": "student_features, teacher_features, margin=1.0",
    "at_loss": "student_features, teacher_features, p=2",
    "binary_kl_loss": f"{LOGITS}, temperature=2.0, reduction='mean'",
    "binary_kl_norm_loss": f"{LOGITS}, temperature=2.0, reduction='mean'",
    "cc_loss": "student_embedding, teacher_embedding",
    "cosine_direction_loss": "student_feature, class_means, target, class_balanced=False",
    "crd_loss": (
        "student_embedding, teacher_embedding, student_memory, teacher_memory, index, negative_index, "
        "student_normalizer, teacher_normalizer, temperature=0.07"
    ),
    "crd_normalizer": "embedding, memory, index, negative_index, temperature=0.07",
    "crd_update": "memory, index, embedding, momentum=0.5",
    "cwd_loss": "student_feature, teacher_feature, temperature=4.0",
    "dino_loss": (
        "student_feature, teacher_feature, class_means, target, teacher_norm_scale=1.0, class_balanced=False"
    ),
    "dist_loss": f"{LOGITS}, beta=1.0, gamma=1.0, temperature=1.0",
    "dkd_loss": f"{LOGITS}, target, alpha=1.0, beta=8.0, temperature=4.0, reduction='mean'",
    "dml_loss": "student_logits, peer_logits, temperature=1.0",
    "feature_l2_loss": "student_feature, teacher_feature, target=None, class_balanced=False",
    "fgfi_loss": "student_feature, teacher_feature, mask",
    "fgfi_mask": "anchors, boxes, shape, threshold=0.5",
    "fsp_loss": "student_features, teacher_features",
    "ft_loss": "student_factor, teacher_factor",
    "hcl_loss": "student_features, teacher_features",
    "hint_loss": "student_feature, teacher_feature",
    "infonce_direction_loss": "student_feature, class_means, target, class_balanced=False",
    "kd_loss": f"{LOGITS}, temperature=4.0, reduction='mean'",
    "kdsvd_loss": "student_features, teacher_features, k=1",
    "logit_mse_loss": f"{LOGITS}, reduction='mean'",
    "nckd_loss": f"{LOGITS}, target, temperature=4.0, reduction='mean'",
    "nst_loss": "student_features, teacher_features",
    "ofd_loss": "student_feature, teacher_feature, margin",
    "ofd_margin": "weight, bias",
    "pixel_loss": f"{LOGITS}, target, loss, ignore_index=255, **params",
    "pkt_loss": "student_feature, teacher_feature, eps=1e-07",
    "rkd_loss": "student_feature, teacher_feature, distance_weight=25.0, angle_weight=50.0",
    "sifn_loss": "student_feature, previous_feature, step=1.0",
    "sp_loss": "student_feature, teacher_feature",
    "srrl_loss": (
        "student_feature, teacher_feature, student_logits, teacher_logits, feature_weight=1.0, logit_weight=1.0"
    ),
    "standardise_logits": "logits, eps=1e-07",
    "tckd_loss": f"{LOGITS}, target, temperature=4.0, reduction='mean'",
    "ttm_loss": f"{LOGITS}, gamma=0.1, reduction='mean'",
    "vid_loss": "predicted_mean, log_scale, teacher_feature, eps=1e-05",
    "wsld_loss": f"{LOGITS}, target, temperature=2.0, reduction='mean'",
    "wttm_loss": f"{LOGITS}, gamma=0.1, reduction='mean'",
}
UNCHECKED = ("cosine_direction", "dino", "dkd", "feature_l2", "infonce_direction", "nckd", "tckd", "wsld")


def signature(function):
    """Returns the arguments of a function as they are called, without their types."""
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters)


def test_every_public_loss_is_in_the_table():
    public = {name for name in dir(losses) if inspect.isfunction(getattr(losses, name))}
    assert public == set(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_and_defaults_are_the_specified_ones(name):
    assert signature(getattr(losses, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", UNCHECKED)
def test_the_unchecked_function_takes_the_same(name):
    module = import_module(getattr(losses, f"{name}_loss").__module__)
    assert signature(getattr(module, name)) == SIGNATURES[f"{name}_loss"]
