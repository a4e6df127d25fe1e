"""A network's forward under torch.compile, or as it is where that fails."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from understudy.words import first_line


class Compiled:
    """Calls a module through :func:`torch.compile`, taps included; the module itself stays as it is.

    The whole forward must make one graph. If it does not, or the backend fails, the module runs uncompiled from then
    on, with one warning. Another size of batch is another graph: an epoch's smaller last batch makes a second one.
    """

    def __init__(self, module: nn.Module, backend: str | Callable[..., Any]) -> None:
        self._module = module
        if hasattr(
            functorch_config, "donated_buffer"
        ):  # buffers that a backward overwrites: alignment has two
            functorch_config.donated_buffer = False
        dynamo_config: Any = importlib.import_module("torch._dynamo.config")  # slow, and seldom needed
        if hasattr(
            dynamo_config, "skip_nnmodule_hook_guards"
        ):  # one class's graph with other taps is another graph
            dynamo_config.skip_nnmodule_hook_guards = False
        self._run: Callable[[Tensor], Tensor] | None = torch.compile(
            module, backend=backend, fullgraph=True, dynamic=False
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the module's output."""
        if self._run is not None:
            try:
                return self._run(images)
            except Exception as error:  # foreign networks and compilers fail in any way
                reason = first_line(error)
                warnings.warn(
                    f"the student runs uncompiled: {type(error).__name__}: {reason}",
                    UserWarning,
                    stacklevel=2,
                )
                self._run = None
        return self._module(images)
