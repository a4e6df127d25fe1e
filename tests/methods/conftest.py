"""A pair of small networks in float64 with one term between them, and what both show, read independently."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.taps import Taps

CLASSES = 5


class Bench:
    """A distiller of cross-entropy and one other term, always the same for the same arguments."""

    def __init__(self, name, student="cnn_tiny", teacher="cnn_small", size=16, weight=1.0, **settings):
        self.name = name
        torch.manual_seed(0)
        nets = [
            m if isinstance(m, nn.Module) else us.create_model(m, num_classes=CLASSES).double()
            for m in (student, teacher)
        ]
        for norm in (m for net in nets for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, std=0.3)
        self.images = torch.randn(6, 3, size, size, dtype=torch.float64)
        self.target = torch.arange(6) % CLASSES
        self.distiller = Distiller(
            *nets, [{"name": "ce"}, {"name": name, "weight": weight, **settings}], example=self.images
        ).double()

    @property
    def heads(self):
        return self.distiller.heads[self.name]

    @property
    def method(self):
        return self.distiller.terms[1].method

    def prepare(self):
        self.distiller.prepare([(self.images, self.target)])

    def term(self):
        """The weighted term of one forward pass, as the distiller computes it."""
        return self.distiller(self.images, self.target).terms[self.name]

    def shown(self):
        """All roles of student and teacher for the images, read by taps of its own."""
        out = []
        for network in (self.distiller.setup.student, self.distiller.setup.teacher):
            roles = [role for role in network.shapes if role != "logits"]
            with Taps(network, [*roles, "logits"]) as taps:
                out.append(taps.collect(network.module(self.images)))
        return out

    def step(self, lr=0.1):
        """One step of SGD through the engine."""
        optimizer = torch.optim.SGD(self.distiller.trainable_parameters(), lr=lr)
        self.distiller.backward(self.distiller(self.images, self.target))
        optimizer.step()
        return dict(self.distiller.named_parameters())

    def step_by_hand(self, loss, lr=0.1):
        """The same step of a loss given as a function of what both networks show."""
        loss(*self.shown()).backward()
        with torch.no_grad():
            for parameter in self.distiller.trainable_parameters():
                parameter -= lr * parameter.grad
        return dict(self.distiller.named_parameters())


def batch_norm(x, norm):
    """Batch norm in training mode, written out."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    scale, shift = (p.view(1, -1, 1, 1) for p in (norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


def cross_entropy(logits, target):
    """Cross-entropy, written out."""
    return -torch.log_softmax(logits, dim=1)[torch.arange(len(target)), target].mean()


@pytest.fixture
def bench():
    return Bench


@pytest.fixture
def written_out():
    """Layers written out in elementary operations."""

    class Layers:
        bn = staticmethod(batch_norm)
        ce = staticmethod(cross_entropy)

        @staticmethod
        def conv_bn(x, conv, norm):
            return batch_norm(F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding), norm)

    return Layers


@pytest.fixture
def real_pair():
    """ResNet32x4 teaching ResNet8x4 on CIFAR-100: the pair that published sizes are of."""

    def build(name, **settings):
        student, teacher = (us.create_model(m, num_classes=100) for m in ("resnet8x4", "resnet32x4"))
        return Distiller(student, copy.deepcopy(teacher), [{"name": "ce"}, {"name": name, **settings}])

    return build


@pytest.fixture
def vit():
    """A small vision transformer with a class token, for images of 16x16 pixels."""
    vision = pytest.importorskip("torchvision").models.vision_transformer.VisionTransformer
    torch.manual_seed(3)
    return vision(16, 4, num_layers=4, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=CLASSES).double()
