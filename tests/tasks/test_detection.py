"""Detection in a distiller: which boxes are asked about, what a term is the mean of, and which methods make sense."""

import pytest
import torch
from torch.nn import functional as F

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.interface import Batch
from understudy.losses import kd_loss
from understudy.methods import METHODS

SIZE, CLASSES, SAMPLES = (64, 64), 2, 16
OPTIONS = {"samples": SAMPLES, "proposals": 40, "anchors": [[12], [20], [28], [40], [60]]}
SAMPLED = (
    "binary_kl", "binary_kl_norm", "cosine", "dhkd", "dino", "dkd", "dual_head_kd", "feature_l2", "infonce", "kd",
    "logit_mse", "nckd", "tckd", "ttm", "wsld", "wttm",
)  # fmt: skip
LEVELS = ("ab", "at", "fgfi", "fitnet", "nst", "reviewkd", "vid")
OTHERS = {"ofd": "must have a batch norm", "kdsvd": "equal channels"}  # which would suit other pyramids
REFUSED = sorted(set(METHODS) - {"ce", *SAMPLED, *LEVELS, *OTHERS})


def distiller(losses, teacher="frcnn_small", **options):
    torch.manual_seed(0)
    student, guide = (us.create_model(name, CLASSES, **OPTIONS) for name in ("frcnn_tiny", teacher))
    return Distiller(student, guide, losses, example=torch.zeros(2, 3, *SIZE), **options)


def batch(count=3):
    """Images of which the last has no object."""
    g = torch.Generator().manual_seed(1)
    target = torch.zeros(count, 2, 8)
    target[..., 0], target[..., 7] = -1, 1
    for i in range(count - 1):
        target[i, 0] = torch.tensor([1 + i % 2, 5 + i, 8, 30, 36, 0, 700, 1])
    return torch.randn(count, 3, *SIZE, generator=g), target


def shown(d, images, target, index):
    """What student and teacher show of a batch, as the distiller asks them."""
    asked = d.task.asked(Batch(images, target, index), 7, 0)
    student = d._shown(asked)
    answers = d.guides.answers(d.terms, d.task.pointed(asked, student))
    return student, answers["teacher"]


@pytest.mark.parametrize("name", [*SAMPLED, *LEVELS])
def test_a_method_that_makes_sense_reaches_every_parameter(name):
    settings = {"dhkd": {"head": "mlp"}}.get(name, {})
    d = distiller([{"name": "ce", "label": "labels"}, {"name": name, **settings}])
    images, target = batch()
    if d.needs_prepare:
        d.prepare([(images, target)])
    out = d(images, target)
    d.backward(out)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in d.trainable_parameters())
    assert float(out.terms[name].detach()) > 0
    d.close()


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_makes_none_says_which_do(name):
    with pytest.raises(
        ValueError, match=rf"term '{name}' must read each proposal's logits .*\. Use one of"
    ) as error:
        distiller([{"name": name}])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OTHERS)
def test_a_method_that_these_pyramids_do_not_suit_says_so(name):
    with pytest.raises(ValueError, match=OTHERS[name]):
        distiller([{"name": name}])


def test_the_teacher_is_asked_about_the_students_boxes_and_answers_from_its_own_maps():
    d = distiller([{"name": "ce"}, {"name": "kd", "temperature": 1.0}])
    images, target = batch()
    index = torch.arange(3)
    student, teacher = shown(d, images, target, index)
    plain = d.setup.guide.module
    with torch.no_grad():
        maps = plain.backbone(images)
        pooled = plain.roi_heads.box_roi_pool(maps, list(student["boxes"]), [SIZE] * 3)
        logits, _ = plain.roi_heads.box_predictor(plain.roi_heads.box_head(pooled))
    torch.testing.assert_close(teacher["logits"].flatten(0, 1), logits, rtol=1e-4, atol=1e-5)
    out = d(images, target, index=index, seed=7)
    expected = kd_loss(out.logits.flatten(0, 1), logits, 1.0)
    torch.testing.assert_close(out.terms["kd"], expected, rtol=1e-3, atol=1e-7)
    assert torch.equal(out.judged, student["labels"])


@pytest.mark.parametrize("index", [None, torch.arange(3)])
def test_a_loop_of_ones_own_draws_other_boxes_in_every_step_and_the_same_ones_from_the_same_seed(index):
    d = distiller([{"name": "ce"}]).eval()
    images, target = batch()
    rounds = []
    for _ in range(2):
        torch.manual_seed(3)
        rounds.append([float(d(images, target, index=index).loss.detach()) for _ in range(3)])
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) == 3
    assert len({float(d(images, target, index=index, seed=5).loss.detach()) for _ in range(2)}) == 1


def test_the_label_term_is_the_sum_of_its_parts_and_its_settings_are_of_the_classes():
    images, target = batch()
    d = distiller([{"name": "ce"}]).eval()
    out = d(images, target)
    assert set(out.parts) == set(d.task.parts)
    torch.testing.assert_close(out.terms["ce"], sum(out.parts.values()))
    smooth = distiller([{"name": "ce", "label_smoothing": 0.2}]).eval()(images, target)
    labels, logits = out.judged.flatten(), out.logits.flatten(0, 1)
    gap = F.cross_entropy(logits, labels, label_smoothing=0.2) - F.cross_entropy(logits, labels)
    torch.testing.assert_close(smooth.terms["ce"] - out.terms["ce"], gap)


def test_fgfi_is_the_difference_near_objects_over_twice_the_locations():
    d = distiller([{"name": "ce"}, {"name": "fgfi"}]).double().eval()
    d.setup.guide.module.double()
    with torch.no_grad():
        for p in d.heads["fgfi"].parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    images, target = (tensor.double() for tensor in batch())
    student, teacher = shown(d, images, target, torch.arange(3))
    out = d(images, target, index=torch.arange(3))
    total, count = 0.0, 0
    for k, adapt in enumerate(d.heads["fgfi"]["adapters"].values(), start=1):
        ours, theirs = adapt(student[f"stage_{k}"]).detach(), teacher[f"stage_{k}"]
        height, width = ours.shape[2:]
        sides = [float(s) for s in d.student.rpn.anchor_generator.sizes[k - 1]]
        for i, rows in enumerate(target.tolist()):
            near = set()
            for row in rows:
                if row[0] < 1:
                    continue
                overlaps = {}
                for y in range(height):
                    for x in range(width):
                        for side in sides:
                            for ratio in (0.5, 1.0, 2.0):
                                h, w = side * ratio**0.5, side / ratio**0.5
                                corner = [round(v) for v in (-w / 2, -h / 2, w / 2, h / 2)]
                                moved = (x * (SIZE[1] // width), y * (SIZE[0] // height)) * 2
                                anchor = [a + b for a, b in zip(corner, moved, strict=True)]
                                overlaps[y, x, side, ratio] = _iou(anchor, row[1:5])
                best = max(overlaps.values())
                near |= {place[:2] for place, value in overlaps.items() if value > 0.5 * best}
            count += len(near)
            total += sum(float((ours[i, :, y, x] - theirs[i, :, y, x]).square().sum()) for y, x in near)
    assert count > 10
    assert float(out.terms["fgfi"].detach()) == pytest.approx(total / (2 * count), rel=1e-6)


def _iou(a, b):
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_dinos_means_are_of_the_teachers_own_proposals_and_have_the_background():
    d = distiller([{"name": "ce"}, {"name": "dino"}])
    images, target = batch()
    d.prepare([(images, target)])
    guide = d.setup.guide.module
    keys = d.task.asked(Batch(images, target), 0, 0).question[2]
    with torch.no_grad():
        own = guide(images, None, target, keys)
    means = d.heads["dino"]["means"]()
    assert means.shape == (1 + CLASSES, 256)
    for number in range(1 + CLASSES):
        expected = own["feature"][own["labels"] == number].mean(dim=0)
        torch.testing.assert_close(means[number], expected, rtol=1e-3, atol=1e-5)


def test_images_without_labels_teach_terms_that_need_none():
    d = distiller([{"name": "kd"}])
    out = d(torch.randn(2, 3, *SIZE), None)
    assert out.loss.isfinite()
    assert not out.judged.any()  # all background
    with pytest.raises(ValueError, match="term 'ce' must have labels"):
        distiller([{"name": "ce"}])(torch.randn(2, 3, *SIZE), None)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (torch.zeros(2, dtype=torch.int64), r"target must be rows \(B, M, 8\)"),
        (torch.zeros(2, 1, 5), r"target must be rows \(B, M, 8\)"),
        (torch.full((2, 1, 8), 3.0), r"targets must hold class numbers from 1 to 2, got 3"),
    ],
)
def test_wrong_targets_are_one_line(target, match):
    with pytest.raises(ValueError, match=match):
        distiller([{"name": "ce"}])(torch.randn(2, 3, *SIZE), target)


def test_half_precision_runs_and_stays_near():
    images, target = batch()
    whole, half = (
        distiller([{"name": "ce"}, {"name": "kd"}], precision=precision).eval()(images, target)
        for precision in ("fp32", "bf16")
    )
    assert half.loss.dtype == torch.float32
    assert abs(float((half.loss - whole.loss).detach())) < 0.1 * float(whole.loss.detach())


def test_more_images_than_objects_can_be_measured_in_any_parts():
    d = distiller([{"name": "ce"}]).eval()
    images, _ = batch()
    with torch.no_grad():
        d.student.roi_heads.box_predictor.cls_score.weight *= 40
        whole = d.predict(images)
        parts = torch.cat([d.predict(image[None]) for image in images])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-3)
    assert whole[..., 4].any()
