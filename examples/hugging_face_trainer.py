"""A distiller in a subclass of Hugging Face's `Trainer`.

    pip install '.[hf]' accelerate
    python examples/hugging_face_trainer.py

Takes some seconds. One method is replaced: `training_step`, in which `distiller.backward` takes the place of
`accelerator.backward(loss)`. The optimiser holds `distiller.trainable_parameters()`, DHKD's second head among them.
"""

import tempfile
from typing import Any

import torch
from setting import (
    BATCH,
    accuracy,
    check_first_step,
    digits,
    loader,
    new_distiller,
    new_optimizer,
    weights,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments


class DistillationTrainer(Trainer):
    """Trains a `us.Distiller`."""

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        distiller: Any = self.accelerator.unwrap_model(model)
        distiller.train()
        images, target = (part.to(self.args.device) for part in inputs)
        out = distiller(images, target, epoch=int(self.state.epoch or 0))
        parts = (
            self.current_gradient_accumulation_steps
        )  # of a batch; both sides are aligned once, in the last
        distiller.backward(out, last=self.accelerator.sync_gradients, scale=1 / parts)
        return out.loss.detach() / parts

    def get_train_dataloader(self) -> DataLoader:
        return loader(self.train_dataset)  # only so that all examples see one order


class FirstStep(TrainerCallback):
    """Keeps the weights after the first step."""

    seen: dict[str, Tensor] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen = self.seen or weights(kwargs["model"])


if __name__ == "__main__":
    distiller, first = new_distiller(), FirstStep()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=5, per_device_train_batch_size=BATCH, lr_scheduler_type="constant",
            max_grad_norm=0.0, use_cpu=True, save_strategy="no", logging_strategy="no", report_to="none",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = DistillationTrainer(
            distiller, arguments, train_dataset=digits()[0], callbacks=[first],
            optimizers=(new_optimizer(distiller), None),
        )  # fmt: skip
        torch.manual_seed(0)
        trainer.train()
    assert first.seen is not None
    check_first_step(first.seen)
    print(f"student {accuracy(distiller.deployable()):.1f}%")
