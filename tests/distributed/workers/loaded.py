"""One job on two processes with everything that data may be: `loaded.py FOLDER`; writes the order of the images."""

import json
import os
import sys
from pathlib import Path

import torch
from PIL import Image

import understudy as us
from understudy.engine import loop
from understudy.engine.distributed import Ranks
from understudy.engine.launch import join


def write_pictures(folder):
    """Thirty pictures in three classes, most of them of the first."""
    for i in range(30):
        g = torch.Generator().manual_seed(i)
        pixels = torch.randint(0, 256, (20, 20, 3), dtype=torch.uint8, generator=g)
        path = folder / "pictures" / "abc"[max(i - 17, 0) // 6] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)


def config(folder, output):
    """Three steps an epoch, the last of three images: too few to divide. No dropout, which knows the process."""
    return us.load_config(
        {
            "seed": 3,
            "data": {
                "name": "imagefolder",
                "train": str(folder / "pictures"),
                "image_size": 16,
                "val": 0.1,
                "resident": False,
                "workers": 1,
                "augment": {"pad": 2, "randaugment": {"ops": 1}},
                "mix": {"name": "cutmix"},
                "balance": 0.5,
                "label_noise": {"share": 0.2},
            },
            "teacher": {"model": "cnn_small"},
            "student": {"model": "cnn_tiny"},
            "losses": [{"name": "ce"}, {"name": "dkd"}, {"name": "feature_l2", "class_balanced": True}],
            "train": {
                "epochs": 2,
                "batch_size": 12,
                "threads": 1,
                "device": "cpu",
                "optimizer": {"lr": 1e-4},  # so that rounding does not grow
            },
            "output": str(folder / output),
        }
    )


def seen(run):
    """Returns index, view, both labels and the pixels' sum of every image a run shows, over all processes."""
    ranks, step, found = Ranks(), loop._forward_backward, []

    def noted(job, batch, *rest):
        step(job, batch, *rest)
        counts = ranks.share(batch.index).counts
        columns = (batch.index, batch.view, batch.target, batch.partner, batch.images.double().sum((1, 2, 3)))
        found.append([ranks.gather(column, counts).tolist() for column in columns] + [batch.kept])

    loop._forward_backward = noted
    try:
        us.distill(run, quiet=True)
    finally:
        loop._forward_backward = step
    return found


def main(folder):
    join(torch.device("cpu"))
    found = seen(config(folder, "two"))
    (folder / f"seen-{Ranks().rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself
