"""What a recipe asks for, in words: budget, cost, data, teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.config import ArmConfig, Config
from understudy.recipes import Recipe, Row, find_recipe, images_trained, recipe_names

IMAGES = (
    "images: training images that all runs of a recipe go through (epochs × images × arms × seeds), the student alone "
    "among the arms, each teacher that must be trained once. --scale S takes S² of them."
)


@dataclass(frozen=True, slots=True)
class Line:
    """A recipe in the list of all."""

    name: str
    title: str
    rows: int
    images: str
    """As people read it; ``–`` where nothing can be run."""
    needs: str
    """The data, and how many teachers are trained."""
    refusal: str | None
    """Why it cannot be run."""


def recipe_table() -> list[Line]:
    """Returns a line for every recipe."""
    lines = []
    for name in recipe_names():
        recipe, _ = find_recipe(name)
        rows = recipe.rows()
        refusal = rows[0].refusal
        images = "–" if refusal is not None else count_words(total_images(recipe, rows))
        needs = "–" if refusal is not None else f"{recipe.budget.data['name']}, {_teachers(recipe, rows)}"
        lines.append(Line(name, recipe.title, len(rows), images, needs, refusal))
    return lines


def about_recipe(recipe: Recipe, rows: Sequence[Row]) -> list[str]:
    """Returns budget, needs, notes and what was left out, a line each."""
    lines = []
    config = next((row.config for row in rows if row.config is not None), None)
    if config is not None:
        lines.append(f"budget: {budget_words(recipe, config)}")
        lines.append(f"needs: {needed(recipe)}")
        lines.append(
            f"all rows: {count_words(total_images(recipe, rows))} images trained, teachers among them"
        )
    lines += [f"note: {note}" for note in recipe.notes]
    silent = {arm.name: arm.unpublished for arm in recipe.table.arms if arm.unpublished is not None}
    lines += [f"no published value for {name}: {reason}" for name, reason in silent.items()]
    lines += [f"left out: {name}: {reason}" for name, reason in recipe.table.left_out.items()]
    return lines


def budget_words(recipe: Recipe, config: Config) -> str:
    """Returns the budget in a line."""
    train, light = config.train, recipe.budget.lr_light
    optimizer, schedule = train.optimizer, train.schedule
    rate = f"{recipe.budget.train['optimizer']['lr']:g}" + (
        f" ({light:g} for light students)" if light else ""
    )
    steps = ", ".join(map(str, schedule.milestones))
    return (
        f"{config.data.name}, {train.epochs} epochs of batch {train.batch_size}, {optimizer.name} {rate}, momentum "
        f"{optimizer.momentum:g}{' (Nesterov)' if optimizer.nesterov else ''}, weight decay "
        f"{optimizer.weight_decay:g}, times {schedule.gamma:g} after epochs {steps}; {recipe.table.seeds} seeds"
    )


def needed(recipe: Recipe) -> str:
    """Returns which data and weights a recipe needs."""
    data = recipe.budget.data["name"]
    if recipe.budget.pretrained_teacher:
        source = (
            "torchvision's"
            if all(m.startswith("torch") for m in recipe.budget.models.values())
            else ("torchvision's and timm's")
        )
        guide = f"{source} teacher weights are downloaded"
    else:
        guide = "each teacher is trained first on the same budget, unless --teachers DIR has its weights"
    return f"{data} in data.root; {guide}; a GPU is advised"


def total_images(recipe: Recipe, rows: Sequence[Row]) -> int:
    """Returns the training images of all rows, and of every teacher once."""
    jobs = [*(row.config for row in rows if row.config is not None), *teacher_jobs(rows)]
    return sum(images_trained(job, recipe.budget.images) for job in jobs)


def teacher_jobs(rows: Sequence[Row]) -> list[Config]:
    """Returns the jobs that train the teachers of rows, each once."""
    jobs = [row.teacher_job() for row in rows if row.config is not None]
    return list({job.yaml(): job for job in jobs if job is not None}.values())


def _teachers(recipe: Recipe, rows: Sequence[Row]) -> str:
    if recipe.budget.pretrained_teacher:
        return "downloaded teachers"
    count = len(teacher_jobs(rows))
    return f"{count} teacher{'s' if count > 1 else ''} first"


def arms_of(config: Config) -> list[ArmConfig]:
    """Returns the arms of a row's study."""
    methods = [] if config.study is None else config.study.methods
    return [arm for arm in methods if isinstance(arm, ArmConfig)]


def count_words(images: int) -> str:
    """Returns a number of images as people read it.

    Example:
        >>> from understudy.recipes.overview import count_words
        >>> count_words(2_160_000_000), count_words(12_500_000), count_words(9_000)
        ('2,160 million', '12.5 million', '9,000')
    """
    if images < 1_000_000:
        return f"{images:,}"
    return f"{images / 1e6:,.0f} million" if images >= 100_000_000 else f"{images / 1e6:.3g} million"
