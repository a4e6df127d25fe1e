import pytest
import torch

from understudy.losses import dml_loss, kd_loss


@pytest.fixture
def three():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)


def test_one_peer_alone_or_in_a_list_is_kd_without_a_temperature(three):
    mine, peer, _ = three
    assert torch.equal(dml_loss(mine, peer), kd_loss(mine, peer, 1.0))
    assert torch.equal(dml_loss(mine, [peer]), kd_loss(mine, peer, 1.0))


def test_several_peers_are_averaged(three):
    mine, first, second = three
    want = (kd_loss(mine, first, 2.0) + kd_loss(mine, second, 2.0)) / 2
    torch.testing.assert_close(dml_loss(mine, (first, second), temperature=2.0), want)


def test_peers_learn_nothing_from_this_term(three):
    mine, first, second = (side.clone().requires_grad_() for side in three)
    gradients = torch.autograd.grad(dml_loss(mine, [first, second]), [mine, first, second], allow_unused=True)
    assert [g is not None for g in gradients] == [True, False, False]


def test_error_without_peers_and_for_a_peer_of_another_shape(three):
    with pytest.raises(ValueError, match="at least one peer, got none"):
        dml_loss(three[0], [])
    with pytest.raises(ValueError, match=r"got student \(6, 5\) and peer \(6, 4\)"):
        dml_loss(three[0], [three[1], three[2][:, :4]])
