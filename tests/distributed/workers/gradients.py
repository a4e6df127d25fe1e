"""Writes the first step's gradients of many jobs into a file: `gradients.py OUT all|ALIGN`, as one of N processes."""

import sys

import jobs
import same

REFUSALS = ("gradients.align must not be paper", "gradients.align must not be feature")


def all_steps(aligns):
    """Yields names and what came out; on any number of processes the same."""
    columns = jobs.global_batch(11)  # uneven on 2 and on 4
    for label, losses in jobs.term_lists().items():
        for align in aligns:
            try:
                distiller = jobs.distiller_of(losses, align)
                result = jobs.step(distiller, columns)
            except ValueError as error:
                if not any(refusal in str(error) for refusal in REFUSALS):
                    raise
                continue
            yield f"{label} / {align}", result
            yield f"{label} / {align}, buffers", dict(distiller.named_buffers())
    for align in jobs.ALIGNS:
        distiller, columns = jobs.conflict(align)
        yield f"conflict / {align}", jobs.step(distiller, columns)
    ends = [{"name": "ce"}, {"name": "dhkd", "head": "linear", "weight": {"until_epoch": 1}}]
    for align in ("none", "backbone"):
        distiller = jobs.distiller_of(ends, align)
        for epoch in (0, 1, 0):
            yield (
                f"a term that ends / {align}, epoch {epoch}",
                jobs.step(distiller, jobs.global_batch(12), epoch),
            )
    several = [
        {"name": "ce"},
        {"name": "dhkd", "head": "mlp"},
        {"name": "rkd"},
        {"name": "crd", "negatives": 9},
    ]
    for size in (5, 3, 2):  # too few for four processes, or for two
        yield f"{size} images", jobs.step(jobs.distiller_of(several, "backbone"), jobs.global_batch(size))
    yield "two parts", jobs.step(jobs.distiller_of(several, "backbone"), jobs.global_batch(20), parts=2)


if __name__ == "__main__":
    chosen = sys.argv[2]
    same.run(lambda: all_steps(jobs.ALIGNS if chosen == "all" else (chosen,)))
