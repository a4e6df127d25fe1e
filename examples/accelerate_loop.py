"""A distiller under Hugging Face's Accelerate, on one process or several.

    pip install accelerate
    python examples/accelerate_loop.py
    torchrun --standalone --nproc-per-node 2 examples/accelerate_loop.py

Takes some seconds. Loader and optimiser are Accelerate's; the distiller is not prepared: its `backward` averages the
gradients over the processes itself, before it merges them, which a wrapper around `loss.backward()` cannot do. (On CPUs
`accelerate launch` starts one process; with GPUs it serves as torchrun does.)
"""

import os

from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from setting import accuracy, check_first_step, digits, loader, new_distiller, new_optimizer, weights
from torch import distributed as dist

if __name__ == "__main__":
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    distiller = new_distiller().to(accelerator.device)
    optimizer, batches = accelerator.prepare(new_optimizer(distiller), loader(digits()[0]))
    first = None
    for epoch in range(5):
        distiller.train()
        distiller.start_epoch()
        for images, target in batches:
            out = distiller(images, target, epoch=epoch)
            optimizer.zero_grad()
            distiller.backward(out)
            optimizer.step()
            first = first or weights(distiller)
    processes = accelerator.num_processes
    assert first is not None
    distiller.share_statistics()
    accelerator.wait_for_everyone()
    if processes > 1:
        dist.destroy_process_group()
    if accelerator.is_main_process:
        check_first_step(first, tolerance=1e-6 if processes > 1 else 0.0)  # the order of sums differs
        print(
            f"student {accuracy(distiller.deployable()):.1f}% on {processes} processes",
            flush=True,
        )
    if processes > 1:
        os._exit(0)  # gloo's threads may abort an interpreter that takes its time
