"""Detectors: what they show of boxes, what they draw, and whose arithmetic it is."""

import json

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import FrozenBatchNorm2d

import understudy as us
from understudy.models import Detector, detector_names
from understudy.models.published import published
from understudy.models.translated import options_of
from understudy.taps import describe
from understudy.tasks.detection import Detection
from understudy.teacher.fold import fold_batch_norms

SIZE = (64, 96)
OPTIONS = {"samples": 16, "proposals": 40}


def detector(name="frcnn_tiny", seed=0, **options):
    torch.manual_seed(seed)
    return us.create_model(name, 3, **OPTIONS | options).double()


def images(count=2, seed=3):
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(*objects, most=3):
    """A target of one image: rows of class and box."""
    target = torch.zeros(most, 8, dtype=torch.float64)
    target[:, 0], target[:, 7] = -1, 1
    for row, (number, *box) in zip(target, objects, strict=False):
        row[0], row[1:5] = number, torch.tensor(box)
    return target


def targets():
    return torch.stack([rows((2, 4, 6, 30, 40), (1, 50, 10, 80, 30)), rows()])


def asked(net, keys=(5, 6), target=None):
    target = targets() if target is None else target
    return net(images(len(target)), None, target, torch.tensor(keys))


def test_boxes_are_scored_by_the_heads_on_the_networks_own_maps():
    """The teacher's logits on the student's proposals equal a direct forward of its heads on those boxes."""
    student, teacher = detector(), detector("frcnn_small", seed=1).eval()
    boxes = asked(student)["boxes"]
    shown = teacher(images(), boxes)
    maps, size = teacher.backbone(images()), [SIZE, SIZE]
    feature = teacher.roi_heads.box_head(teacher.roi_heads.box_roi_pool(maps, list(boxes), size))
    logits, _ = teacher.roi_heads.box_predictor(feature)
    assert torch.equal(shown["logits"].flatten(0, 1), logits)
    assert torch.equal(shown["feature"].flatten(0, 1), feature)
    assert torch.equal(shown["stage_1"], maps["0"])
    assert torch.equal(shown["stage_5"], maps["pool"])


def test_the_parts_are_torchvisions_losses_on_the_same_boxes():
    """With as many boxes in each image the mean over images is torchvision's mean over all."""
    net = detector().train()
    shown = asked(net)
    heads = net.roi_heads
    pooled = heads.box_roi_pool(net.backbone(images()), list(shown["boxes"]), [SIZE, SIZE])
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    whole = list(targets())
    wanted = [_best(row[row[:, 0] > 0, 1:5], b) for row, b in zip(whole, shown["boxes"], strict=True)]
    goals = heads.box_coder.encode(wanted, list(shown["boxes"]))
    label, place = fastrcnn_loss(logits, deltas, list(shown["labels"]), goals)
    parts = Detection().pieces(shown)
    torch.testing.assert_close(parts["ce_class"], label, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts["ce_box"], place, rtol=1e-9, atol=0)
    assert float(place.detach()) > 0


def _best(objects, boxes):
    """The object that overlaps each box most; the box itself where there is none."""
    from torchvision.ops import box_iou

    return objects[box_iou(boxes, objects).argmax(dim=1)] if len(objects) else boxes


def test_a_draw_holds_a_quarter_of_objects_at_most_and_both_kinds():
    shown = asked(detector())
    labels = shown["labels"]
    assert labels.shape == (2, 16)
    assert set(labels[0].tolist()) == {0, 1, 2}  # the objects themselves are among the proposals
    assert 0 < int((labels[0] > 0).sum()) <= 4
    assert labels[1].tolist() == [0] * 16  # an image without objects
    assert shown["anchor_labels"].shape == (2, 256)
    assert set(shown["anchor_labels"][0].tolist()) == {0, 1}
    assert set(shown["anchor_labels"][1].tolist()) == {0}


def test_a_draw_depends_on_the_key_of_its_image_alone():
    net = detector().eval()  # so that norms do not see the batch
    both = asked(net)
    torch.manual_seed(123)
    alone = net(images()[1:], None, targets()[1:], torch.tensor([6]))
    other = net(images()[1:], None, targets()[1:], torch.tensor([7]))
    assert torch.equal(alone["labels"][0], both["labels"][1])
    torch.testing.assert_close(alone["boxes"][0], both["boxes"][1], rtol=1e-9, atol=1e-9)
    assert not torch.equal(other["boxes"], alone["boxes"])


def test_without_proposals_the_objects_or_one_background_box_are_drawn_again_and_again():
    net = detector()
    net.rpn.score_thresh = 1.1  # nothing is proposed
    shown = asked(net)
    given = targets()[0, :2]
    for box, label in zip(shown["boxes"][0], shown["labels"][0], strict=True):
        assert any(torch.equal(box, row[1:5]) and int(label) == int(row[0]) for row in given)
    assert shown["labels"][1].tolist() == [0] * 16
    assert shown["boxes"][1].unique(dim=0).tolist() == [[0, 0, 1, 1]]
    found = net.eval()(images())
    assert found.shape == (2, 100, 6)
    assert not found.any()


def test_what_is_found_is_what_torchvision_finds():
    net = detector().eval()
    with torch.no_grad():
        net.roi_heads.box_predictor.cls_score.weight *= 40  # so that something is sure
        found = net(images())
        maps = net.backbone(images())
        proposals, _ = net._proposals(maps, SIZE)
        results, _ = net.roi_heads(maps, proposals, [SIZE, SIZE])
    assert any(len(result["boxes"]) for result in results)
    for rows_, result in zip(found, results, strict=True):
        count = len(result["boxes"])
        assert torch.equal(rows_[:count, :4], result["boxes"])
        assert torch.equal(rows_[:count, 4], result["scores"])
        assert rows_[:count, 5].tolist() == result["labels"].tolist()
        assert not rows_[count:].any()


def test_every_parameter_learns():
    net = detector().train()
    sum(Detection().pieces(asked(net)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_batch_norms_are_folded_as_elsewhere():
    network = describe(detector("frcnn_small").eval(), images())
    folding = fold_batch_norms(network, images())
    assert not folding.kept
    assert len(folding.folded) == 9
    boxes = torch.tensor([[[1.0, 2, 30, 40]], [[5, 5, 90, 60]]], dtype=torch.float64)
    plain, folded = network.module(images(), boxes), folding.network.module(images(), boxes)
    for role in ("logits", "feature", "stage_1", "stage_5"):
        torch.testing.assert_close(plain[role], folded[role], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", detector_names())
def test_every_name_makes_a_network_of_levels(name):
    small = {} if name.startswith("frcnn") else {"pyramid": 16, "head": 32}
    net = us.create_model(name, 4, samples=8, proposals=20, **small)
    network = describe(net, torch.zeros(2, 3, *SIZE))
    assert isinstance(net, Detector)
    assert network.detects
    assert network.num_classes == 5  # and the background
    assert [network.shapes[f"stage_{k}"][1:] for k in range(1, 6)] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
    ]


def test_torchvisions_networks_have_their_own_parameters():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as theirs

    ours = us.create_model("torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", 90)
    plain = theirs(weights=None, weights_backbone=None, num_classes=91)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert ours.eval()(torch.zeros(1, 3, *SIZE)).shape == (1, 100, 6)


def test_a_pretrained_detector_is_built_again_without_its_pretrained_weights(monkeypatch):
    name = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"
    fresh = us.create_model(name, 90).state_dict()
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: fresh)
    net = us.create_model(name, 3, pretrained=True)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert us.create_model(name, 3).state_dict().keys() != net.state_dict().keys()
    again = us.create_model(name, 3, **options_of(net, {}))
    again.load_state_dict(net.state_dict())
    images = torch.rand(1, 3, *SIZE)
    assert again.eval()(images).equal(net.eval()(images))
    assert options_of(us.create_model(name, 3), {"a": 1}) == {"a": 1}


def test_pretrained_detectors_say_how_they_see_images_without_being_fetched():
    known = published("torchvision/fasterrcnn_resnet50_fpn", pretrained=True)
    assert known.mean == (0.485, 0.456, 0.406)
    assert known.num_classes == len(known.classes) == 90
    assert known.classes[0] == "person"


def test_a_version_of_torchvisions_weights_has_its_own_image_size():
    e2e = published("torchvision/regnet_y_16gf", pretrained=True, version="IMAGENET1K_SWAG_E2E_V1")
    assert e2e.image_size == (384, 384)
    assert published("torchvision/regnet_y_16gf", pretrained=True).image_size == (224, 224)


def test_weights_that_a_run_wrote_say_what_their_network_was_built_with(tmp_path):
    name, file = "fasterrcnn_resnet18", tmp_path / "student.safetensors"
    narrow = {"frozen_norm": True, "pyramid": 16, "head": 32}
    net = us.create_model(name, 3, **narrow)
    save_file(net.state_dict(), file, {"model": name, "options": json.dumps(narrow)})
    again = us.create_model(name, 3, weights=file)
    assert again.state_dict().keys() == net.state_dict().keys()
    assert any(isinstance(m, FrozenBatchNorm2d) for m in again.modules())
    with pytest.raises(ValueError, match="weights must fit the model"):
        us.create_model(name, 3, weights=file, pyramid=32)
    with pytest.raises(ValueError, match="weights must fit the model"):
        us.create_model("fasterrcnn_resnet34", 3, weights=file)


def test_norms_and_modules_can_be_frozen():
    net = us.create_model(
        "fasterrcnn_resnet18", 3, frozen_norm=True, frozen=["conv1", "layer1"], pyramid=16, head=32
    )
    still = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert still
    assert all(name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in still)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    with pytest.raises(ValueError, match=r"options.frozen must name modules of resnet18, got 'layer9'"):
        us.create_model("fasterrcnn_resnet18", 3, frozen=["layer9"])
    with pytest.raises(ValueError, match="must get images with 3 channels"):
        us.create_model("fasterrcnn_resnet18", 3, in_channels=1)
