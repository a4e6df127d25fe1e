"""One student for each of several seeds, side by side under one teacher."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from understudy.build import Built, data_seed, joined, process, untrained
from understudy.config import Config
from understudy.engine.console import Console
from understudy.engine.divergence import DivergedError
from understudy.engine.lockstep import Member, in_lockstep
from understudy.engine.loop import InterruptedRunError, Job, stopped_by_signals
from understudy.files import write_json
from understudy.guidance import tables_folder
from understudy.job import Run, claim_folder, conclude, finished, note, open_job, stored_config, take_up
from understudy.metrics import summarise
from understudy.tasks import TASKS


def side_by_side(verb: str, config: Config, quiet: bool, anyway: bool = False) -> Run:
    """Trains one student for each of ``train.seeds``, in lockstep, into ``output/seed-N``.

    Each run is what it would be on its own, to the last bit on a CPU, and can be resumed or evaluated on its own. A
    seed that is finished is not run again; one that diverges does not keep the others.
    """
    assert config.train.seeds is not None
    guides = config.guides.items()
    random = [config.guide_key(n) for n, guide in guides if untrained(guide)]
    if random:
        raise ValueError(
            f"{random[0]} must have weights for several seeds to share it, got none. Set {random[0]}.weights"
        )
    folder, stop, ranks = Path(config.output), threading.Event(), joined(config)
    runs: dict[int, Run] = {}
    with stopped_by_signals(stop), process(config) as device, ExitStack() as held:
        ranks.first(partial(claim_folder, held, folder, config))
        opened: dict[int, tuple[Member, Built]] = {}
        first: tuple[Job, Built] | None = None
        for seed in config.train.seeds:
            own = _alone(config, seed)
            if ranks.first(partial(finished, own)) is not None:
                continue
            stored = ranks.first(partial(stored_config, Path(own.output), own))
            with process(stored or own):
                job, built = open_job(held, own, stored, device, stop, quiet, first, f"seed {seed}: ")
                first = first or (job, built)
                take_up(verb, job, built, anyway)
                opened[seed] = Member(job), built
        if not opened and not (folder / "seeds.json").exists():  # each was resumed on its own
            ranks.first(partial(_summed_up, folder, config))
            raise ValueError(
                f"all seeds were there already, finished, and are summed up now in {folder / 'seeds.json'}. Nothing is "
                "left to train"
            )
        if not opened:
            raise ValueError(
                f"output must not hold finished runs, got {folder}. Choose another output=, or delete the folder"
            )
        assert first is not None
        torch.set_num_threads(first[1].config.train.threads or torch.get_num_threads())  # as it began
        failures = _trained(verb, opened, runs)
        interrupted = [error for error in failures if not isinstance(error, DivergedError)]
        if interrupted:  # those runs go on
            raise interrupted[0]
        metrics = ranks.first(partial(_summed_up, folder, config))
        if failures:
            raise failures[0]
    Console(quiet=quiet or not ranks.is_first).say(
        f"{len(config.train.seeds)} seeds: {metrics['summary']}; {folder / 'seeds.json'}"
    )
    return Run(folder, config, next(iter(runs.values())).student, metrics)


def _trained(
    verb: str, opened: Mapping[int, tuple[Member, Built]], runs: dict[int, Run]
) -> list[DivergedError | InterruptedRunError]:
    """Trains all members; fills ``runs`` with those that came to their ends and returns what ended the others."""
    failures = []
    for member in in_lockstep([member for member, _ in opened.values()]):
        job, (_, built) = member.job, opened[member.job.seed]
        if member.error is None:
            runs[job.seed] = conclude(verb, job, built)
        else:
            note(verb, job, built, member.error)
            failures.append(member.error)
    return failures


def _alone(config: Config, seed: int) -> Config:
    """Returns the config of one of ``train.seeds``."""
    output, changes = Path(config.output), {}
    for name, guide in config.guides.items():
        changes[f"{config.guide_key(name)}.tables"] = str(tables_folder(guide, output))
    return config.replaced(
        seed=seed,
        output=str(output / f"seed-{seed}"),
        **{"train.seeds": None, "data.seed": data_seed(config), **changes},
    )


def _summed_up(folder: Path, config: Config) -> dict[str, Any]:
    """Writes ``seeds.json``: the last measurement of every seed, mean and standard deviation of those that finished."""
    last, diverged = {}, []
    for seed in config.train.seeds or []:
        result = finished(_alone(config, seed))
        if result is None:
            diverged.append(seed)
        else:
            last[seed] = result["last"]
    scores = [f"{part}/{task.primary}" for part in ("test", "val") for task in TASKS.values()]
    names = [name for name in scores if last and all(name in line for line in last.values())]
    table: dict[str, Any] = {"format": 1, "seeds": [{"seed": s, **line} for s, line in last.items()]}
    if diverged:
        table["diverged"] = diverged
    table["summary"] = "trained; there are no test or held-out images to measure" if last else "all diverged"
    for name in names[:1]:
        line = summarise([line[name] for line in last.values()])
        table |= {"metric": name, "mean": line.mean, "std": line.std}
        spread = f" ± {line.std:.2f}" if line.std is not None else ""
        table["summary"] = f"{name} {line.mean:.2f}{spread}%"
    write_json(folder / "seeds.json", table)
    return table
