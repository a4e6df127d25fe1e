"""A distiller in a PyTorch Lightning module.

    pip install lightning
    python examples/lightning_module.py

Takes some seconds. Lightning's automatic optimisation calls `loss.backward()`; a distiller merges two gradients in its
own `backward`, so the module optimises manually (`automatic_optimization = False`). Everything else is Lightning's.
"""

import logging
from typing import Any

import lightning
import torch
from setting import accuracy, check_first_step, digits, loader, new_distiller, new_optimizer, weights
from torch import Tensor

import understudy as us


class Distillation(lightning.LightningModule):
    """A student under its teacher."""

    def __init__(self, distiller: us.Distiller) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.distiller = distiller

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return new_optimizer(self.distiller)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        out = self.distiller(*batch, epoch=self.current_epoch)
        optimizer.zero_grad()
        self.distiller.backward(out)
        optimizer.step()
        self.log_dict({"loss": out.loss, **out.terms})


class FirstStep(lightning.Callback):
    """Keeps the weights after the first step."""

    seen: dict[str, Tensor] | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen = self.seen or weights(pl_module.distiller)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, first = Distillation(new_distiller()), FirstStep()
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", callbacks=[first], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(digits()[0]))
    assert first.seen is not None
    check_first_step(first.seen)
    print(f"student {accuracy(module.distiller.deployable()):.1f}%")
