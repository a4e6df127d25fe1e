"""Image classifiers of Hugging Face's transformers: out of a local folder, or from the hub where that is asked for."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from understudy.models.heads import replace_head
from understudy.words import first_line


class HuggingFaceClassifier(nn.Module):
    """A classifier of transformers as an ordinary module: images ``(B, C, H, W)`` in, logits ``(B, C)`` out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        return self.model(pixel_values=images).logits


def hugging_face_model(
    name: str, num_classes: int, *, in_channels: int = 3, pretrained: bool = False, **kwargs: Any
) -> HuggingFaceClassifier:
    """Returns an image classifier of transformers with ``num_classes`` logits.

    No code of the model's repository is ever run, and of weights only safetensors are read.

    Args:
        name: a folder that holds ``config.json`` (what ``save_pretrained`` writes), or a name on the hub.
        num_classes: length of the logits.
        in_channels: of the images.
        pretrained: reads the weights that lie beside ``config.json``; for a name on the hub it downloads both, which
            nothing else does. If they were made for another number of classes, the head starts anew.
        kwargs: for the model's configuration.

    Raises:
        ValueError: transformers is not installed; there is no such folder, or the hub does not answer; it is no image
            classifier; a weight is missing.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise ValueError(
            f"hf/{name} must have transformers installed, got none. Install the extra: pip install '.[hf]'"
        ) from None
    local = Path(name).expanduser().is_dir()
    place = str(Path(name).expanduser()) if local else name
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"hf/{name} must be a folder, got none there. Check the path")
    auto = transformers.AutoModelForImageClassification
    with _quiet(transformers), _named(name, pretrained and not local, local):
        kwargs |= {} if in_channels == 3 else {"num_channels": in_channels}
        given = {} if pretrained else {"num_labels": num_classes}
        config = transformers.AutoConfig.from_pretrained(
            place, local_files_only=local or not pretrained, trust_remote_code=False, **kwargs, **given
        )
        if not pretrained:
            return HuggingFaceClassifier(auto.from_config(config, trust_remote_code=False))
        net, info = auto.from_pretrained(
            place,
            config=config,
            local_files_only=local,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    wrapped = HuggingFaceClassifier(net)
    head = replace_head(wrapped, f"hf/{name}", net.config.num_labels, num_classes)
    beyond = [key for key in info["missing_keys"] if not f"model.{key}".startswith(f"{head}.")]
    if beyond:
        raise ValueError(f"hf/{name} must hold all weights but the head's, got none for {sorted(beyond)[0]}")
    return wrapped


@contextmanager
def _named(name: str, fetched: bool, local: bool) -> Iterator[None]:
    """Turns what transformers raises into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = first_line(error).rstrip(".")
        if local:
            raise ValueError(
                f"hf/{name} must be an image classifier saved by save_pretrained with safetensors, got: {reason}. "
                "Save it again"
            ) from error
        advice = (
            "Check the name and the network, or give a folder that holds the model"
            if fetched
            else "Set pretrained: true to fetch it from the hub, or give a folder that holds the model"
        )
        raise ValueError(
            f"hf/{name} must be on this machine or be fetched, got: {reason}. {advice}"
        ) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keeps transformers and its hub client from printing; what was set before comes back."""
    theirs, hub = transformers.utils.logging, logging.getLogger("huggingface_hub")
    level, hub_level, bars = theirs.get_verbosity(), hub.level, theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    hub.setLevel(logging.ERROR)  # it announces every retry
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            theirs.enable_progress_bar()
