import copy

import pytest
import torch

from understudy.heads.crd_memory import CRDMemory

LABELS = torch.tensor([2, 0, -1, 1, 0, 0, -1, 2, 0, 1])


def test_rows_start_uniform_within_the_published_bound():
    torch.manual_seed(0)
    memory = CRDMemory(torch.arange(2000) % 5, 5, 12)
    for bank in (memory.student, memory.teacher):
        assert bank.shape == (2000, 12)
        assert bank.abs().max() <= 0.5  # 1/sqrt(12/3)
        assert float(bank.std()) == pytest.approx(0.5 / 3**0.5, rel=0.02)
    assert not torch.equal(memory.student, memory.teacher)


def test_negatives_are_all_images_of_other_classes_equally_often():
    torch.manual_seed(0)
    memory, num = CRDMemory(LABELS, 4, 3), 30000
    drawn = memory.negatives(torch.arange(4), num)  # class 3 has no image: any is its negative
    assert drawn.shape == (4, num)
    for label, row in enumerate(drawn):
        allowed = ((label != LABELS) & (LABELS >= 0)).nonzero().flatten()
        counts = torch.bincount(row, minlength=len(LABELS))
        assert torch.equal(counts.nonzero().flatten(), allowed)
        expected = num / len(allowed)
        chi2 = ((counts[allowed] - expected) ** 2 / expected).sum()
        assert chi2 < 30  # 7 degrees of freedom or fewer: p < 1e-4


def test_the_draw_follows_torchs_generator():
    memory = CRDMemory(LABELS, 3, 3)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(memory.negatives(torch.tensor([0, 1]), 50))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_training_on_one_class_has_no_negatives():
    with pytest.raises(ValueError, match="at least two classes for its negatives, got 1"):
        CRDMemory(torch.tensor([1, 1, -1]), 3, 4)


def test_only_training_mode_writes():
    memory = CRDMemory(LABELS, 3, 4).eval()
    before = copy.deepcopy(memory.state_dict())
    v, index, others = torch.eye(2, 4), torch.tensor([0, 3]), torch.tensor([[1], [1]])
    found = memory.normalizers(v, v, index, others, 0.5)
    memory.update(index, v, v, 0.5)
    assert all(torch.equal(before[key], tensor) for key, tensor in memory.state_dict().items())
    memory.train()
    kept = memory.normalizers(v, v, index, others, 0.5)
    assert torch.equal(torch.stack(found), torch.stack(kept))
    memory.update(index, v, v, 0.5)
    assert {key for key, tensor in memory.state_dict().items() if not torch.equal(before[key], tensor)} == {
        "student",
        "teacher",
        "student_normalizer",
        "teacher_normalizer",
    }


def test_the_constants_are_those_of_the_first_batch_for_ever():
    memory = CRDMemory(LABELS, 3, 4)
    index, others = torch.tensor([0, 3]), torch.tensor([[1], [1]])
    first = memory.normalizers(torch.eye(2, 4), torch.eye(2, 4), index, others, 0.5)
    memory.student.add_(1.0)
    later = memory.normalizers(-torch.eye(2, 4), torch.eye(2, 4), index, others, 0.5)
    assert torch.equal(torch.stack(first), torch.stack(later))


def test_what_follows_from_the_data_is_not_saved():
    assert set(CRDMemory(LABELS, 3, 4).state_dict()) == {
        "student",
        "teacher",
        "student_normalizer",
        "teacher_normalizer",
    }
