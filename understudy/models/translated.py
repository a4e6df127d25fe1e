"""A network in a world of its own: it gets our images as it knows them, and answers in our classes.

A teacher stands behind it while it teaches, a student also in what is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.interface import Network

Channels: TypeAlias = Literal["grey", "rgb", "bgr"]
"""What the channels of an image are, in their order."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's conversion to grey


class Translated(nn.Module):
    """A network behind the translation of images and classes that it needs.

    Ours are images normalised as the data are. They are taken back to the range 0 to 1, get the channels and the size
    the network was trained on, and are normalised as it was. Scaling is bilinear and antialiased; it commutes with
    the normalisations, so the same decoded view reaches both networks. The logits of the network's own classes are
    merged into ours (:func:`merge_classes`).

    The network stays what it is: :func:`understudy.taps.describe` looks inside.

    Args:
        net: any classifier.
        ours: mean and standard deviation of every channel that our images are normalised by (0 to 1).
        theirs: likewise for the network; ``None``: as ours, where the number of channels is the same.
        image_size: height and width the network wants; ``None``: as ours.
        channels: of the network's images; ``None``: as ours. Ours are grey or RGB, by their number.
        members: for each of our classes the numbers of the network's classes that it is made of; ``None``: they
            are the same.

    Raises:
        ValueError: the numbers of channels and of means do not agree.

    Shape:
        images: ``(B, C, H, W)``; output: ``(B, number of our classes)``.

    Example:
        >>> import torch
        >>> from understudy.models import create_model
        >>> from understudy.models.translated import Translated
        >>> net = create_model("cnn_tiny", num_classes=6)
        >>> ours, theirs = ([0.5], [0.25]), ([0.48, 0.46, 0.41], [0.23, 0.22, 0.23])
        >>> teacher = Translated(net, ours, theirs, image_size=(32, 32), channels="rgb", members=[[0, 1], [4]])
        >>> teacher(torch.zeros(3, 1, 16, 16)).shape
        torch.Size([3, 2])
    """

    net: nn.Module
    our_mean: Tensor
    our_std: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        ours: tuple[Sequence[float], Sequence[float]],
        theirs: tuple[Sequence[float], Sequence[float]] | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        channels: Channels | None = None,
        members: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        own: Channels = "grey" if len(ours[0]) == 1 else "rgb"
        self.channels: Channels = channels or own
        self.our_channels: Channels = own
        self.image_size = image_size
        self._theirs = theirs or ours  # as they were written: the buffers are in float32
        count = 1 if self.channels == "grey" else 3
        theirs = theirs or ours
        if len(theirs[0]) != count or len(theirs[1]) != count:
            raise ValueError(
                f"a network of {self.channels} images must have {count} means and standard deviations, got "
                f"{len(theirs[0])} and {len(theirs[1])}. Give both"
            )
        for name, values in (
            ("our_mean", ours[0]),
            ("our_std", ours[1]),
            ("mean", theirs[0]),
            ("std", theirs[1]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
        self.num_members = 0 if members is None else len(members)
        if members is not None:
            index, absent = padded(members)
            self.register_buffer("members", index)
            self.register_buffer("absent", absent)

    @property
    def only_normalises(self) -> bool:
        """Whether size, channels and classes are ours."""
        return self.image_size is None and self.channels == self.our_channels and not self.num_members

    @property
    def merges(self) -> bool:
        """Whether one of our classes is made of several of the network's."""
        return bool(self.num_members) and self.get_buffer("members").shape[1] > 1

    @property
    def preprocess(self) -> dict[str, Any]:
        """What the network gets, as the keys of a config say it: ``mean``, ``std``, ``image_size``, ``channels``.

        ``image_size`` is ``None`` where it is ours.
        """
        mean, std = (list(values) for values in self._theirs)
        return {"mean": mean, "std": std, "image_size": self.image_size, "channels": self.channels}

    def extra_repr(self) -> str:
        """Returns what is translated; the fingerprint of a teacher's table reads it."""
        size = "as ours" if self.image_size is None else "×".join(map(str, self.image_size))
        return f"channels={self.our_channels}->{self.channels}, image_size={size}, classes={self.num_members or 'ours'}"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of our classes."""
        return self.translate_logits(self.net(self.translate_images(images)))

    def translate_images(self, images: Tensor) -> Tensor:
        """Returns our images ``(B, C, H, W)`` as the network knows them."""
        pixels = _channels(images * self.our_std + self.our_mean, self.our_channels, self.channels)
        if self.image_size is not None and tuple(pixels.shape[-2:]) != self.image_size:
            pixels = F.interpolate(pixels, self.image_size, mode="bilinear", antialias=True)
        return (pixels - self.mean) / self.std

    def translate_logits(self, logits: Tensor) -> Tensor:
        """Returns the network's logits as those of our classes."""
        if not self.num_members:
            return logits
        index, absent = self.get_buffer("members"), self.get_buffer("absent")
        return merge_classes(logits, index, absent)


def merge_classes(logits: Tensor, members: Tensor, absent: Tensor) -> Tensor:
    r"""Returns the logits of classes that are unions of others.

    .. math:: z'_k = \log \sum_{j \in S_k} e^{z_j}

    Softmax of the result is the probability of each union, given that it is one of them: probabilities are added, in
    log space. A class of a single member keeps its logit, so that a loss of sigmoids sees what it always saw.

    Args:
        logits: of the members.
        members: for each union the numbers of its members, filled up with any.
        absent: true where ``members`` is only filled up.

    Shape:
        logits: ``(B, C, ...)``; members, absent: ``(K, M)`` int64 and bool; output: ``(B, K, ...)``.
    """
    if members.shape[1] == 1:
        return logits.index_select(1, members[:, 0])
    absent = absent.view(*absent.shape, *[1] * (logits.dim() - 2))
    parts = logits[:, members].masked_fill(absent, float("-inf"))  # (B, K, M)
    return parts.logsumexp(dim=2)


def padded(members: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Returns :func:`merge_classes`' tensors for lists of members."""
    longest = max(map(len, members))
    index = torch.tensor([[*own, *[own[0]] * (longest - len(own))] for own in members])
    return index, torch.arange(longest) >= torch.tensor([[len(own)] for own in members])


def classify(network: Network, feature: Tensor) -> Tensor:
    """Returns the logits of our classes that a network's last layer makes of features, in float32 or wider.

    The layer is not called: taps that stand on it stay silent.

    Args:
        network: that ends in a linear layer.
        feature: ``(B, D)``.
    """
    head = network.classifier
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    bias = None if head.bias is None else head.bias.to(dtype)
    with torch.no_grad(), torch.autocast(feature.device.type, enabled=False):
        logits = F.linear(feature.to(dtype), head.weight.to(dtype), bias)
    module = network.module
    return module.translate_logits(logits) if isinstance(module, Translated) else logits


def class_rows(network: Network) -> tuple[Tensor, Tensor | None]:
    """Returns weight ``(K, D)`` and bias ``(K,)`` of a network's last layer, a row for each of our classes.

    Raises:
        ValueError: one of our classes is made of several of the network's.
    """
    head, module = network.classifier, network.module
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    if not isinstance(module, Translated) or not module.num_members:
        return weight, bias
    if module.merges:
        raise ValueError(
            "the teacher's classifier must have one row for each class, got classes that are made of several of its "
            "own (teacher.classes). Use means: class_means"
        )
    rows = module.get_buffer("members")[:, 0]
    return weight[rows], None if bias is None else bias[rows]


def options_of(module: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a network is built with again: those given, and what its weights brought."""
    options = {**given, **getattr(untranslated(module), "brought", {})}
    options.pop("weights_backbone", None)  # torchvision's to begin with: its own weights come instead
    return options


def untranslated(module: nn.Module) -> nn.Module:
    """Returns the network inside a :class:`Translated`, any other as it is."""
    return module.net if isinstance(module, Translated) else module


def _channels(images: Tensor, given: Channels, wanted: Channels) -> Tensor:
    if given == wanted:
        return images
    if given == "grey":
        return images.expand(-1, 3, -1, -1)
    if wanted == "bgr":
        return images.flip(1)
    red, green, blue = (part * channel for part, channel in zip(_LUMA, images.split(1, dim=1), strict=True))
    return red + green + blue
