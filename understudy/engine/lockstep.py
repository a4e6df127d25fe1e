"""Several students side by side: one stream of batches and teacher's answers, a step of each in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from understudy.engine.divergence import DivergedError
from understudy.engine.loop import InterruptedRunError, Job, steps


class Member:
    """A student that takes turns with others, and its random state, which the others' steps must not touch."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.error: DivergedError | InterruptedRunError | None = None
        """What ended it, if it has not come to its last epoch."""
        self._steps = steps(job)
        self._random = _random_state(job.device)

    @property
    def position(self) -> tuple[int, int]:
        """Epochs done, and steps within the present one."""
        return self.job.epoch, self.job.step

    def step(self) -> bool:
        """Takes one step; returns whether there are more."""
        others = _random_state(self.job.device)
        _set_random_state(self.job.device, self._random)
        try:
            next(self._steps)
        except StopIteration:
            return False
        except (DivergedError, InterruptedRunError) as error:
            self.error = error
            return False
        finally:
            self._random = _random_state(self.job.device)
            _set_random_state(self.job.device, others)
        return True


def in_lockstep(members: Sequence[Member]) -> Iterator[Member]:
    """Trains all members to their ends, and yields each as it ends.

    The one that is least far goes next. So members that share a :class:`understudy.engine.stream.Stream` are shown
    each batch one after the other, and it is made once; one that was resumed behind the others catches up first.
    One that diverges or is interrupted does not keep the others.

    Args:
        members: each made where its own random state was the present one.
    """
    running = list(members)
    while running:
        member = min(running, key=lambda m: m.position)
        if not member.step():
            running.remove(member)
            yield member


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
