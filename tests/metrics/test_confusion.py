import pytest
import torch
from sklearn import metrics

from understudy.metrics import confusion_matrix, correct


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    # five of six classes occur as labels: the row of the last is empty
    return torch.randn(100, 6, generator=generator), torch.randint(5, (100,), generator=generator)


def test_matrix_equals_scikit_learn(predictions):
    logits, target = predictions
    want = metrics.confusion_matrix(target, logits.argmax(dim=1), labels=range(6))
    assert confusion_matrix(logits, target).tolist() == want.tolist()


def test_rows_are_true_classes_and_columns_predictions():
    logits = torch.tensor([[0.0, 0.0, 1.0]])
    assert confusion_matrix(logits, torch.tensor([1])).nonzero().tolist() == [[1, 2]]


def test_trace_is_the_top_1_count(predictions):
    assert confusion_matrix(*predictions).trace() == correct(*predictions, k=(1,)).sum()


def test_matrices_of_batches_add_up(predictions):
    logits, target = predictions
    parts = confusion_matrix(logits[:33], target[:33]) + confusion_matrix(logits[33:], target[33:])
    assert torch.equal(parts, confusion_matrix(logits, target))


def test_an_empty_batch_gives_zeros():
    assert confusion_matrix(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).tolist() == [[0] * 3] * 3


def test_no_value_is_read_on_the_host():
    # a meta tensor has no values: reading one raises
    matrix = confusion_matrix(
        torch.empty(4, 10, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    )
    assert matrix.shape == (10, 10)
    assert matrix.dtype == torch.int64


def test_a_label_outside_the_classes_is_named():
    with pytest.raises(ValueError, match=r"target must lie in \[0, 2\), got 2"):
        confusion_matrix(torch.zeros(1, 2), torch.tensor([2]))
