import pytest
import torch

import understudy as us
from understudy.losses import kdsvd_loss
from understudy.methods.kdsvd import KDSVD


def build(student="wrn_16_1", teacher="resnet8", **settings):
    return us.Distiller(
        us.create_model(student, 10), us.create_model(teacher, 10), [{"name": "kdsvd", **settings}]
    )


def test_stages_and_number_of_vectors_reach_the_loss():
    student, teacher = (
        {f"stage_{k}": torch.randn(4, 6, 8, 8, dtype=torch.float64) for k in (1, 2, 3)} for _ in range(2)
    )
    loss = KDSVD(k=2, stages=((1, 1), (3, 3))).loss(student, teacher, None, None)
    expected = kdsvd_loss(
        [student["stage_1"], student["stage_3"]], [teacher["stage_1"], teacher["stage_3"]], k=2
    )
    assert torch.equal(loss, expected)
    assert loss > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "cnn_tiny"}, "equal channels .* got 8 in the student's stage_1 and 16 in the teacher's stage_1"),
        ({"stages": [[1, 1]]}, r"at least two pairs, got \(\(1, 1\),\)"),
        ({"stages": [[1, 1], [2, 9]]}, "got teacher stage_9"),
        ({"k": 0}, "k .* greater than or equal to 1, got 0"),
    ],
)  # fmt: skip
def test_a_pair_it_cannot_read_is_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message) as error:
        build(**options)
    assert "\n" not in str(error.value)


def test_equal_channels_may_be_picked_out_of_unequal_networks():
    distiller = build("cnn_tiny", "cnn_tiny", stages=[[1, 1], [2, 2]])
    assert distiller.terms[0].method.stages == ((1, 1), (2, 2))
