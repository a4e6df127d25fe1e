"""Divided students and teachers beside whole ones: `sharding.py FOLDER`; writes FOLDER/found-RANK.json."""

import json
import os
import sys
from pathlib import Path

import torch

import understudy as us
from understudy.engine import loop
from understudy.engine.distributed import Ranks
from understudy.engine.launch import join

LOSSES = {
    "labels and logits": [{"name": "ce"}, {"name": "dhkd", "head": "mlp"}],
    "stages alone, to the middle of a piece": [{"name": "fitnet", "stages": [[1, 1]]}],
    "relations": [{"name": "ce"}, {"name": "rkd"}, {"name": "dist"}],
    "a classifier that is replaced": [{"name": "simkd"}],
    "class means": [{"name": "ce"}, {"name": "dino"}],
}


def networks(seed):
    torch.manual_seed(seed)
    return us.create_model("cnn_tiny", 10), us.create_model("resnet8", 10)


def images(rank):
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(4, 3, 32, 32, generator=generator), (torch.arange(4) + rank) % 10


def difference(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) if a.numel() else 0.0


def step(losses, ranks, parts=1, **divided):
    """Returns a distiller after the backward of one batch, cut in parts."""
    student, teacher = networks(ranks.rank)  # of different weights: the first one's count
    for p, q in zip(teacher.parameters(), networks(0)[1].parameters(), strict=True):
        p.data = q.data
    distiller = us.Distiller(student, teacher, losses, example=images(0)[0], **divided)
    torch.manual_seed(5)
    distiller.share_state()
    distiller.prepare([(torch.randn(20, 3, 32, 32), torch.arange(20) % 10)])
    for part in range(parts):
        x, target = images(ranks.rank)
        torch.manual_seed(6)
        out = distiller(x + part, target, index=target)
        distiller.backward(out, last=part == parts - 1, scale=1 / parts)
    return distiller


def steps(ranks):
    """Largest relative differences between a divided distiller and a whole one."""
    found = {}
    torch.set_default_dtype(torch.float64)
    for name, losses in LOSSES.items():
        for parts in (1, 2):
            whole = step(losses, ranks, parts)
            ours = step(losses, ranks, parts, shard=True, sharded_teachers=["teacher"])
            assert ours.divided
            assert not whole.divided
            assert ours.trainable_names() == whole.trainable_names()
            expected = dict(zip(whole.trainable_names(), whole.trainable_parameters(), strict=True))
            gradients = {
                n: torch.zeros_like(p) if p.grad is None else p.grad
                for n, p in zip(ours.trainable_names(), ours.trainable_parameters(), strict=True)
            }
            gradients = ours.whole_state(gradients)
            floor = max(float(p.grad.abs().max()) for p in expected.values() if p.grad is not None)
            worst = max(
                float((gradients[n] - (0 if p.grad is None else p.grad)).abs().max()) / floor
                for n, p in expected.items()
            )
            x, _ = images(3 + ranks.rank)
            ours.eval()
            whole.eval()
            with torch.no_grad():
                with ours.assembled():
                    for _ in range(1 + ranks.rank):  # as often as each likes
                        logits = ours.predict(x)
                plain, expected_logits = ours.deployable().eval()(x), whole.predict(x)
            state, theirs = ours.whole_state(), whole.state_dict()
            assert state.keys() == theirs.keys()
            found[f"{name}, {parts} parts"] = {
                "gradients": worst,
                "norm": abs(float(ours.gradient_norm() / whole.gradient_norm()) - 1),
                "predictions": difference(logits, expected_logits),
                "deployed": difference(plain, expected_logits),
                "state": max(difference(state[n].double(), theirs[n].double()) for n in state),
            }
            ours.zero_grad()
            assert not any(p.grad is not None for p in ours.trainable_parameters())
            ours.close()
            whole.close()
    torch.set_default_dtype(torch.float32)
    return found


def held(ranks):
    """How much of a teacher and a student a process holds, before, within and after a pass."""
    student, teacher = us.create_model("resnet8x4", 10), us.create_model("resnet14", 10)
    distiller = us.Distiller(
        student, teacher, [{"name": "ce"}, {"name": "kd"}], shard=True, sharded_teachers=["teacher"]
    )
    module = distiller.guides.teachers["teacher"].module
    shown = {}

    def count(when):
        for name, network in (("teacher", module), ("student", student)):
            own = sum(
                p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in network.parameters()
            )
            shown[f"{name} {when}"] = own / sum(p.numel() for p in network.parameters())

    count("before")
    module.layer2.register_forward_hook(lambda *a: count("within"))
    distiller(torch.randn(4, 3, 32, 32), torch.arange(4))
    count("after")
    return shown


def config(output, **changes):
    return us.load_config(
        {
            "seed": 3,
            "data": {"name": "digits", "limit": 150, "val": 0.1},
            "teacher": {"model": "cnn_small"},
            "student": {"model": "cnn_tiny"},
            "losses": [{"name": "ce"}, {"name": "dhkd", "head": "linear"}, {"name": "dino", "weight": 0.1}],
            "train": {
                "epochs": 3,
                "batch_size": 37,
                "ema": 0.9,
                "clip_norm": 1.0,
                "threads": 1,
                "device": "cpu",
                "optimizer": {"name": "adamw", "lr": 0.01},
                "keep_checkpoints": 2,
                "divergence": "rewind",
            },
            "output": str(output),
        },
        changes,
    )


DIVIDED = {"train.shard": True, "teacher.shard": True}


def stopped(config, after):
    """Runs a job that is asked to stop after some steps."""
    real, seen = loop._forward_backward, []

    def counted(job, *rest):
        real(job, *rest)
        seen.append(1)
        if len(seen) == after:
            job.stop.set()

    loop._forward_backward = counted
    try:
        us.distill(config, quiet=True)
    except loop.InterruptedRunError:
        return
    finally:
        loop._forward_backward = real
    raise AssertionError("the run was to be stopped")


def runs(folder):
    """Whole jobs: divided, stopped and resumed, and evaluated."""
    us.distill(config(folder / "whole"), quiet=True)
    us.distill(config(folder / "divided", **DIVIDED), quiet=True)
    stopped(config(folder / "resumed", **DIVIDED), 6)
    us.resume(folder / "resumed", quiet=True)
    stopped(config(folder / "for-one", **DIVIDED), 6)
    return {"measured": us.evaluate(folder / "divided", quiet=True)}


def refusals(folder):
    """What a user is told who asks for what cannot be."""
    said = {}
    for name, changes in {
        "align": {"train.shard": True, "gradients.align": "backbone"},
        "compile": {"train.shard": True, "train.compile": True},
        "snapshot": {
            "train.shard": True,
            "losses": [{"name": "ce"}, {"name": "sifn", "previous": "snapshot"}],
        },
        "table": {"teacher.shard": True, "teacher.table": str(folder / "table")},
    }.items():
        try:
            us.distill(config(folder / name, **changes), quiet=True)
        except ValueError as error:
            said[name] = str(error)
    return said


def work(folder):
    join(torch.device("cpu"))
    ranks = Ranks()
    found = {"steps": steps(ranks), "held": held(ranks), **runs(folder), "refusals": refusals(folder)}
    (folder / f"found-{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]))
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself
