import pytest
from torch import nn

from understudy.heads import map_shape
from understudy.interface import Network

NETWORK = Network(nn.Identity(), None, {}, {"stage_1": (8, 4, 6), "stage_2": (17, 12), "feature": (5,)})


def test_a_map_is_itself_and_tokens_are_laid_out():
    assert map_shape(NETWORK, "stage_1") == (8, 4, 6)
    assert map_shape(NETWORK, "stage_2") == (12, 4, 4)


@pytest.mark.parametrize(
    ("role", "message"), [("preact_1", "must show 'preact_1', got none"), ("feature", "must be a map")]
)
def test_what_is_no_map_is_one_clear_error(role, message):
    with pytest.raises(ValueError, match=message) as error:
        map_shape(NETWORK, role)
    assert "\n" not in str(error.value)
