"""Batches of one image, tried before a run: a batch norm might refuse an epoch's last one after all the others."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from operator import itemgetter

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from understudy.config import Config
from understudy.data.loader import TrainLoader
from understudy.engine.distiller import Distiller
from understudy.methods import METHODS
from understudy.methods.schedule import Weight
from understudy.methods.term import Term


def check_smallest(distiller: Distiller, loader: TrainLoader, config: Config) -> None:
    """Refuses batches of one image where a batch norm is given one number a channel (ASPP, an MLP's).

    A copy of the distiller is given one, with all terms that have a weight in any epoch. A user's own method is left
    out unless it has a batch norm: its loss may do other things besides (count, write).

    Raises:
        ValueError: as said, with what to change.
    """
    step = loader.steps_per_epoch - 1  # the last one is the smallest
    shares = loader.shares(step)
    if distiller.divided or 1 not in map(sum, shares):
        return
    counts = next(counts for counts in shares if sum(counts) == 1)
    before = sum(part[loader.rank] for part in shares[: shares.index(counts)])
    rows = slice(before, before + counts[loader.rank])
    part = next(loader.epoch(0, step)).each(itemgetter(rows))
    with torch.random.fork_rng(devices=[loader.device] if loader.device.type == "cuda" else []):
        twin = _twin(distiller, loader, config.train.epochs)
        try:
            twin(**part.inputs, counts=counts)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"batches must have two images or more for {config.student.model} and its losses, in which a batch "
                f"norm is given one number an image and channel, got one in step {step + 1} of an epoch "
                f"({len(loader.image_set)} images, train.batch_size {loader.batch_size}). {_way_out(loader, step)}"
            ) from None
        finally:
            twin.close()


def _way_out(loader: TrainLoader, step: int) -> str:
    ways = ["choose another train.batch_size"]
    if loader.global_batch_size(step) < loader.batch_size and 1 not in map(sum, loader.shares(0)):
        ways.insert(0, "set train.drop_last=true")
    if loader.parts > 1:
        ways.append(f"train.accumulate below {loader.parts}")
    text = ", or ".join(ways)
    return text[0].upper() + text[1:]


def _twin(distiller: Distiller, loader: TrainLoader, epochs: int) -> Distiller:
    """Returns a copy that may be spoiled, whose terms all count from the first epoch on."""
    twin = copy.deepcopy(distiller).train()
    tried = (t for t in twin.terms if any(t.weight.at(epoch) for epoch in range(epochs)))
    twin.terms = tuple(
        replace(t, weight=Weight())
        for t in tried
        if type(t.method) in METHODS.values() or _normalises(twin, t)
    )
    if twin.needs_prepare:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that one batch has no image of
            twin.prepare([next(loader.epoch(0))])
    return twin


def _normalises(distiller: Distiller, term: Term) -> bool:
    """Returns whether a term's heads hold a batch norm."""
    return any(isinstance(m, _BatchNorm) for m in distiller.heads[term.label].modules())
