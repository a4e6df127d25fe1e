import pytest
import torch

from understudy.heads.tokens import as_map


def test_tokens_are_laid_out_row_by_row():
    tokens = torch.arange(2 * 6 * 3.0).view(2, 6, 3)[:, :4]
    image = as_map(tokens)
    assert image.shape == (2, 3, 2, 2)
    for row in range(2):
        for column in range(2):
            assert torch.equal(image[:, :, row, column], tokens[:, 2 * row + column])


def test_a_class_token_in_front_is_dropped():
    tokens = torch.randn(2, 10, 5)
    assert torch.equal(as_map(tokens), as_map(tokens[:, 1:]))


def test_a_map_stays_what_it_is():
    image = torch.randn(2, 3, 4, 5)
    assert as_map(image) is image


def test_the_gradient_reaches_every_token_but_the_class_token():
    tokens = torch.randn(1, 5, 2, requires_grad=True)
    as_map(tokens).sum().backward()
    assert torch.equal(tokens.grad, torch.ones(1, 5, 2).index_fill(1, torch.tensor([0]), 0.0))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 7, 3), "got 7 tokens"),
        ((2, 201, 3), "got 201 tokens. Use square images and no register tokens"),
        ((2, 0, 3), "got 0 tokens"),
        ((2, 3), r"got \(2, 3\)"),
    ],
)
def test_what_is_no_map_is_one_clear_error(shape, message):
    with pytest.raises(ValueError, match=message) as error:
        as_map(torch.zeros(shape))
    assert "\n" not in str(error.value)
