"""mIoU and pixel accuracy, against scikit-learn and by hand; counts add up."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from understudy.metrics import class_iou, mean_iou, pixel_accuracy, pixel_confusion

CLASSES = 5


@pytest.fixture
def answers():
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, CLASSES, (6, 7, 9), generator=g)
    predicted = torch.where(torch.rand(target.shape, generator=g) < 0.6, target, (target + 1) % CLASSES)
    target[torch.rand(target.shape, generator=g) < 0.2] = 255
    return predicted, target


def test_scores_are_those_of_scikit_learn(answers):
    predicted, target = answers
    kept = target != 255
    table = pixel_confusion(predicted, target, CLASSES)
    truth, given = target[kept].numpy(), predicted[kept].numpy()
    assert np.array_equal(table.numpy(), confusion_matrix(truth, given, labels=range(CLASSES)))
    assert class_iou(table).numpy() == pytest.approx(jaccard_score(truth, given, average=None), rel=1e-12)
    assert mean_iou(table) == pytest.approx(100 * jaccard_score(truth, given, average="macro"), rel=1e-12)
    assert pixel_accuracy(table) == pytest.approx(100 * accuracy_score(truth, given), rel=1e-12)


def test_tables_of_parts_add_up_exactly(answers):
    predicted, target = answers
    parts = [pixel_confusion(p, t, CLASSES) for p, t in zip(predicted, target, strict=True)]
    assert torch.equal(sum(parts), pixel_confusion(predicted, target, CLASSES))


def test_the_mean_of_the_images_own_scores_is_another_number(answers):
    each = [mean_iou(pixel_confusion(p, t, CLASSES)) for p, t in zip(*answers, strict=True)]
    assert sum(each) / len(each) != pytest.approx(mean_iou(pixel_confusion(*answers, CLASSES)), abs=1e-3)


def test_a_class_that_does_not_occur_does_not_count():
    table = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert class_iou(table)[2].isnan()
    assert mean_iou(table) == pytest.approx(100 * (3 / 4 + 4 / 5) / 2)


def test_a_class_that_is_only_predicted_does_count():
    assert mean_iou(torch.tensor([[3, 1], [0, 0]])) == pytest.approx(100 * (3 / 4 + 0) / 2)


def test_nothing_labelled_scores_zero():
    table = pixel_confusion(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 255), CLASSES)
    assert not table.any()
    assert mean_iou(table) == pixel_accuracy(table) == 0.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"must have one shape, got \(2, 2\) and \(2, 3\)"):
        pixel_confusion(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), 2)
