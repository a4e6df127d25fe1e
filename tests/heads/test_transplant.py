import copy
import pickle

import torch
from torch import nn

from understudy.heads import Transplant, map_connector


def transplant():
    torch.manual_seed(0)
    return Transplant(map_connector("1x1", 3, 4), nn.Linear(4, 2))


def test_gradients_pass_through_the_classifier_and_leave_it_alone():
    head, shown = transplant(), torch.randn(5, 3, 2, 2, requires_grad=True)
    head(shown).square().sum().backward()
    assert shown.grad.any()
    assert head.connect[0].weight.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in head.classifier.parameters())


def test_the_teachers_own_layer_is_copied():
    layer = nn.Linear(4, 2)
    head = Transplant(nn.Identity(), layer)
    assert layer.weight.requires_grad
    with torch.no_grad():
        layer.weight.zero_()
    assert head.classifier.weight.any()


def test_the_connected_map_of_a_forward_pass_is_handed_out_once():
    head, shown = transplant(), torch.randn(5, 3, 2, 2)
    logits = head(shown)
    connected = head.connected(shown)
    torch.testing.assert_close(head.classify(connected), logits)
    assert int(head.connect[1].num_batches_tracked) == 1
    head.connected(shown)
    assert int(head.connect[1].num_batches_tracked) == 2


def test_another_tensor_is_connected_anew():
    head, shown, other = transplant(), torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    head(shown)
    torch.testing.assert_close(head.connected(other), copy.deepcopy(head).connect(other))


def test_nothing_is_kept_without_gradients_or_in_copies():
    head, shown = transplant(), torch.randn(5, 3, 2, 2)
    with torch.no_grad():
        head(shown)
    assert head._last is None
    head(shown)
    for copied in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert copied._last is None
        torch.testing.assert_close(copied(shown), head(shown))


def test_tokens_are_laid_out_as_a_map():
    head, tokens = transplant(), torch.randn(5, 5, 3)
    grid = tokens[:, 1:].mT.reshape(5, 3, 2, 2)
    torch.testing.assert_close(head(tokens), head(grid))
