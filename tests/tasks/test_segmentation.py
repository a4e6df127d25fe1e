"""Every labelled pixel is a sample of the losses there are, and nothing else is."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import understudy as us
from understudy.interface import Batch
from understudy.methods.term import build_term
from understudy.tasks import TASKS, task_named
from understudy.tasks.segmentation import Segmentation, at_size

TASK, CLASSES, SIZE = Segmentation(), 3, (4, 5)
NAMES = ("bce", "ce", "kd", "dkd", "binary_kl", "binary_kl_norm", "dhkd", "dual_head_kd", "logit_mse", "nckd", "tckd",
         "ttm", "wsld", "wttm")  # fmt: skip


def maps(seed=0, batch=3, size=SIZE, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, CLASSES, *size, generator=g, dtype=dtype)


def masks(batch=3, size=SIZE):
    g = torch.Generator().manual_seed(9)
    target = torch.randint(0, CLASSES, (batch, *size), generator=g)
    target[torch.rand(target.shape, generator=g) < 0.3] = 255
    target[0] = 255  # a whole image that nothing is known of
    return target


def loss_of(name, student, teacher, target, **settings):
    method = build_term({"name": name, **settings}).method
    heads = nn.ModuleDict(
        {"aux": nn.Identity()}
    )  # so that dhkd's second classifier gives the student's own logits
    shown = {"logits": student, "feature": student}
    density = TASK.density(target, CLASSES)
    return TASK.loss(method, shown, {"logits": teacher}, Batch(student, target), heads, density)


def by_hand(name, student, teacher, target):
    """The mean over the labelled pixels, one at a time, in Python's own floats."""
    values = []
    for b, y, x in (target != 255).nonzero().tolist():
        s, t, c = student[b, :, y, x].tolist(), teacher[b, :, y, x].tolist(), int(target[b, y, x])
        if name == "ce":
            values.append(math.log(sum(map(math.exp, s))) - s[c])
        elif name in ("kd", "dual_head_kd"):
            p, q = ([math.exp(v / 4) for v in z] for z in (t, s))
            p, q = ([v / sum(z) for v in z] for z in (p, q))
            values.append(16 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        else:
            values.append(4 * sum(math.log(math.cosh((a - b) / 4)) for a, b in zip(s, t, strict=True)))
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("name", ["ce", "kd", "dual_head_kd", "binary_kl_norm", "dhkd"])
def test_the_loss_is_the_mean_over_labelled_pixels(name):
    student, teacher, target = maps(), maps(1), masks()
    got = float(loss_of(name, student, teacher, target))
    assert got == pytest.approx(by_hand(name, student, teacher, target), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_loss_of_classification_on_the_labelled_rows(name):
    student, teacher, target = maps(), maps(1), masks()
    kept = target.flatten() != 255
    rows = [x.permute(0, 2, 3, 1).reshape(-1, CLASSES)[kept] for x in (student, teacher)]
    method = build_term({"name": name}).method
    heads = nn.ModuleDict({"aux": nn.Identity()})
    batch = Batch(rows[0], target.flatten()[kept])
    expected = method.loss({"logits": rows[0], "feature": rows[0]}, {"logits": rows[1]}, batch, heads)
    torch.testing.assert_close(loss_of(name, student, teacher, target), expected.double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_ignored_pixels_have_no_say_whatever_the_logits_are(name):
    teacher, target = maps(1), masks()
    student = maps().requires_grad_()
    ignored = (target == 255)[:, None].expand_as(student)
    plain = loss_of(name, student, teacher, target)
    (gradient,) = torch.autograd.grad(plain, student)
    assert not gradient[ignored].any()
    assert gradient[~ignored].any()
    wild = torch.where(ignored, 1e4 * torch.randn_like(student), student.detach())
    assert torch.equal(loss_of(name, wild, teacher, target), plain.detach())


@pytest.mark.parametrize("name", NAMES)
def test_masks_without_any_label_give_zero_and_finite_gradients(name):
    student, target = maps().requires_grad_(), torch.full((3, *SIZE), 255)
    loss = loss_of(name, student, maps(1), target)
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 0
    assert not gradient.any()


def test_maps_of_any_size_meet_at_the_masks():
    student, teacher, target = maps(size=(2, 3)), maps(1, size=(8, 5)), masks()
    sized = [F.interpolate(x, SIZE, mode="bilinear", align_corners=False) for x in (student, teacher)]
    assert torch.equal(loss_of("kd", student, teacher, target), loss_of("kd", *sized, target))
    assert at_size(maps(), target).shape == maps().shape


def test_parts_of_a_batch_add_up_to_it_though_they_hold_different_numbers_of_labels():
    student, teacher, target = maps(), maps(1), masks()
    whole = loss_of("kd", student, teacher, target)
    density = TASK.density(target, CLASSES)
    method, total = build_term({"name": "kd"}).method, 0.0
    for rows in (slice(0, 1), slice(1, 3)):
        batch = Batch(student[rows], target[rows])
        part = TASK.loss(
            method, {"logits": student[rows]}, {"logits": teacher[rows]}, batch, nn.ModuleDict(), density
        )
        total += len(batch.target) / 3 * part
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)


def test_nothing_is_read_on_the_host_and_no_shape_depends_on_a_value():
    class Reads(TorchDispatchMode):
        seen = ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            aten = torch.ops.aten
            waits = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)
            self.seen += (function,) if function in waits else ()
            return function(*args, **(kwargs or {}))

    student, teacher, target = maps(), maps(1), masks()
    density = TASK.density(target, CLASSES)
    for name in NAMES:
        method, heads = build_term({"name": name}).method, nn.ModuleDict({"aux": nn.Identity()})
        shown = {"logits": student, "feature": student}
        with Reads() as reads:
            TASK.loss(method, shown, {"logits": teacher}, Batch(student, target), heads, density)
            TASK.tally(CLASSES, student.device).add(student, target)
        assert reads.seen == (), name


def distiller(losses, student="fcn_tiny", teacher="fcn_small", **options):
    torch.manual_seed(0)
    nets = [us.create_model(name, CLASSES) for name in (student, teacher)]
    return us.Distiller(*nets, losses, example=torch.zeros(2, 3, 32, 48), **options)


SUIT = ("ab", "at", "cwd", "fitnet", "ft", "nst", "ofd", "sp", "vid", *NAMES)
DO_NOT = sorted(set(us.METHODS) - {*SUIT, "fgfi", "fsp", "kdsvd"})


@pytest.mark.parametrize("name", SUIT)
def test_a_method_that_makes_sense_reaches_every_parameter(name):
    settings = {"ft": {"paraphraser_epochs": 1}, "dhkd": {"head": "mlp"}}.get(name, {})
    d = distiller([{"name": "ce", "label": "labels"}, {"name": name, **settings}])
    images, target = torch.rand(4, 3, 32, 48), torch.randint(0, CLASSES, (4, 32, 48))
    if d.needs_prepare:
        d.prepare([(images, target)])
    d.backward(d(images, target))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in d.trainable_parameters())
    d.close()


@pytest.mark.parametrize("name", DO_NOT)
def test_a_method_that_makes_none_says_which_do(name):
    with pytest.raises(
        ValueError, match=rf"term '{name}' must read each pixel's logits alone .*\. Use one of"
    ):
        distiller([{"name": name}])


def test_the_second_classifier_is_a_1x1_convolution():
    d = distiller([{"name": "ce"}, {"name": "dhkd", "head": "linear"}])
    aux = d.heads["dhkd"]["aux"]
    assert isinstance(aux, nn.Conv2d)
    assert aux.weight.shape == (CLASSES, d.network.head_layer.in_channels, 1, 1)
    assert all(not name.startswith("heads") for name in d.deployed_names())


def test_cwd_on_score_maps_needs_no_projector_and_no_labels():
    d = distiller([{"name": "cwd", "role": "logits"}])
    assert not list(d.heads.parameters())
    out = d(torch.rand(2, 3, 32, 48), None)
    assert float(out.loss.detach()) > 0
    with pytest.raises(ValueError, match="cwd with role logits must compare maps"):
        us.Distiller(*(us.create_model("cnn_tiny", 3) for _ in range(2)), [{"name": "cwd", "role": "logits"}])


def test_images_without_masks_teach_by_the_teacher_alone():
    d = distiller([{"name": "kd"}])
    assert float(d(torch.rand(2, 3, 32, 48), None).loss.detach()) > 0
    with pytest.raises(ValueError, match="term 'ce' must have labels"):
        distiller([{"name": "ce"}])(torch.rand(2, 3, 32, 48), None)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (torch.zeros(2, dtype=torch.int64), r"must be int64 masks of shape \(B, H, W\), got torch.int64 .*\(2,\)"),
        (torch.zeros(2, 32, 48, dtype=torch.uint8), r"got torch.uint8"),
        (torch.full((2, 32, 48), 3), r"masks must hold class numbers from 0 to 2, or 255 .* got 3\."),
        (torch.full((2, 32, 48), -100), r"masks must hold class numbers from 0 to 2, or 255 .* got -100\."),
        (torch.arange(48).expand(2, 32, 48).eq(7).long().neg(), r"from 0 to 2, or 255 .* got -1\."),
    ],
)  # fmt: skip
def test_wrong_targets_give_one_clear_line(target, match):
    with pytest.raises(ValueError, match=match):
        distiller([{"name": "ce"}])(torch.rand(2, 3, 32, 48), target)


def test_a_teacher_of_images_cannot_teach_pixels():
    with pytest.raises(ValueError, match="must both classify images or both pixels"):
        distiller([{"name": "kd"}], teacher="cnn_tiny")


def test_results_without_a_task_are_of_classification():
    assert task_named(None) is TASKS["classification"] is task_named("classification")
    assert task_named("segmentation") is TASKS["segmentation"]
