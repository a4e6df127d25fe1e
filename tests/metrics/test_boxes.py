"""Average precision: against numbers worked out by hand, in pixels of the images as they were read."""

import pytest
import torch

from understudy.metrics import detection_scores

pytest.importorskip("pycocotools", reason="the extra detection is not installed")


def target(*rows, most=3, scale=1.0):
    whole = torch.zeros(most, 8)
    whole[:, 0], whole[:, 7] = -1, scale
    for place, row in zip(whole, rows, strict=False):
        place[:7] = torch.tensor(row)
    return whole


def found(*rows, most=4):
    whole = torch.zeros(most, 6)
    for place, row in zip(whole, rows, strict=False):
        place[:] = torch.tensor(row)
    return whole


def test_a_miss_and_a_false_alarm_are_half_of_the_precision_each():
    # two objects of one class; the best answer is wrong, the second is right, the other object is missed:
    # recall reaches 1/2 at precision 1/2, so 51 of 101 points are 1/2 and the others 0
    truth = target((1, 0, 0, 50, 50, 0, 2500), (1, 60, 0, 110, 50, 0, 2500))
    said = found((0, 60, 50, 110, 0.9, 1), (0, 0, 50, 50, 0.8, 1))
    scores, by_class = detection_scores(said[None], truth[None], 1)
    assert scores["ap50"] == pytest.approx(100 * 51 * 0.5 / 101)
    assert by_class == [pytest.approx(scores["ap"])]
    assert scores.keys() == {"ap", "ap50", "ap75", "ap_medium"}


def test_the_mean_over_iou_counts_how_well_a_box_fits():
    # 50 x 40 within 50 x 50: IoU 0.8, right at 7 of 10 thresholds (0.50 to 0.80)
    truth, said = target((1, 0, 0, 50, 50, 0, 2500)), found((0, 0, 50, 40, 0.9, 1))
    scores, _ = detection_scores(said[None], truth[None], 1)
    assert (scores["ap50"], scores["ap75"]) == (pytest.approx(100), pytest.approx(100))
    assert scores["ap"] == pytest.approx(70)


def test_sizes_and_places_are_those_of_the_images_as_read():
    truth = target((1, 0, 0, 10, 10, 0, 1600), scale=0.25)  # 40 x 40 pixels before
    scores, _ = detection_scores(found((0, 0, 10, 10, 0.9, 1))[None], truth[None], 1)
    assert scores == pytest.approx({"ap": 100, "ap50": 100, "ap75": 100, "ap_medium": 100})


def test_what_is_measured_is_left_as_it_was():
    truth, said = target((1, 0, 0, 8, 8, 0, 64), scale=2.0)[None], found((0, 0, 8, 8, 0.9, 1))[None].double()
    before = said.clone()
    first = detection_scores(said, truth, 1)
    assert torch.equal(said, before)
    assert detection_scores(said, truth, 1) == first


def test_a_detection_in_a_crowd_counts_for_nothing():
    crowd = (0, 60, 0, 110, 50, 1, 2500)
    truth = target((1, 0, 0, 50, 50, 0, 2500), crowd)
    said = found((60, 0, 110, 50, 0.9, 1), (0, 0, 50, 50, 0.8, 1))
    assert detection_scores(said[None], truth[None], 1)[0]["ap"] == pytest.approx(100)
    without = target((1, 0, 0, 50, 50, 0, 2500))
    assert detection_scores(said[None], without[None], 1)[0]["ap"] == pytest.approx(50)


def test_nothing_found_is_nothing_and_nothing_to_find_is_no_score():
    truth = torch.stack([target((2, 0, 0, 20, 20, 0, 400)), target()])
    scores, by_class = detection_scores(torch.zeros(2, 4, 6), truth, 2)
    assert scores == {"ap": 0, "ap50": 0, "ap75": 0, "ap_small": 0}
    assert by_class == [None, 0.0]
    scores, by_class = detection_scores(found((0, 0, 9, 9, 0.9, 1))[None], target()[None], 2)
    assert scores == {"ap": 0, "ap50": 0, "ap75": 0}
    assert by_class == [None, None]
