"""How the teachers of a job answer: in which precision they run, and where their answers are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from understudy.build import Built, augmentation, build, memory_format, process
from understudy.config import AUTO, Config, TeacherConfig, load_config
from understudy.data.images import ImageSet
from understudy.engine.distributed import Ranks
from understudy.engine.stream import Stream
from understudy.methods.term import build_terms
from understudy.teacher.answers import Answers
from understudy.teacher.assemble import Images, assemble_blocks, can_answer_ahead, identify, view_source
from understudy.teacher.auto import auto_table
from understudy.teacher.blocks import Blocks
from understudy.teacher.fingerprint import Fingerprint
from understudy.teacher.layout import TableDtype
from understudy.teacher.memory import MemoryTable, Table
from understudy.teacher.precision import PrecisionChoice, choose_precision
from understudy.teacher.table import ViewTable

OFF, MEMORY = "off", "memory"
_SAMPLE = 32  # images on which bf16 is tried


@dataclass(frozen=True, slots=True)
class Guidance:
    """One teacher whose answers do not wait for the student."""

    name: str
    config: TeacherConfig
    blocks: Blocks
    """The teacher in blocks, packing rows of a table (of answers that no table keeps, if it is off)."""
    fingerprint: Fingerprint | None
    """What a table belongs to; ``None`` where there will be none on a disk."""


def settle_precision(built: Built, images: ImageSet, ranks: Ranks) -> Built:
    """Returns ``built`` with every teacher in its precision; collective: the first process tries for all.

    Args:
        built: with what the config leaves open.
        images: the training images, where the teachers run.
        ranks: the processes that train together.

    ``teacher.precision: auto`` is fp32 where the student trains in fp32, so that nothing depends on a clock. Where it
    trains in bf16 the teacher does, too, if :func:`understudy.teacher.precision.choose_precision` finds it right and
    faster.
    """
    guides = built.distiller.guides
    choices = ranks.first(lambda: {name: _choice(built, name, images) for name in guides.networks})
    for name, choice in choices.items():
        guides.run_in(name, choice.precision)
    settled = {
        f"{built.config.guide_key(name)}.precision": choice.precision for name, choice in choices.items()
    }
    return replace(
        built,
        config=built.config.replaced(**settled),
        notes=(*built.notes, *(choice.note for choice in choices.values() if choice.note)),
    )


def one_precision(config: Config, earlier: Iterable[Path]) -> dict[str, str]:
    """Returns the precision of the teacher for all runs of a study or a search, as a change to their config.

    Each would choose anew by a clock, and runs that are compared might have different teachers.

    Args:
        config: one of the runs, its teacher with weights.
        earlier: configs of runs that there are already; what the first one chose holds.
    """
    teacher = config.teacher
    if teacher is None or teacher.precision != AUTO or config.train.precision == "fp32":
        return {}
    for file in earlier:
        stored = load_config(file).teacher
        if stored is not None and stored.precision != AUTO:
            return {"teacher.precision": stored.precision}
    with process(config) as device:
        built = build(config, device)
        settled = settle_precision(built, built.data.train.to(device), Ranks()).config.teacher
        built.distiller.close()
    assert settled is not None
    return {"teacher.precision": settled.precision}


def attach_answers(
    built: Built,
    stream: Stream,
    folder: Path,
    ranks: Ranks,
    *,
    runs: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Built:
    """Gives a job's stream the teachers' answers, out of tables where the config has them; collective.

    Teachers that must show maps are left to be asked in the step.

    Args:
        built: with every precision settled.
        stream: of the job; :meth:`Stream.close` closes the tables.
        folder: of the run, beside which ``auto`` puts tables unless ``teacher.tables`` says where.
        ranks: the processes that train together.
        runs: how many jobs with the same views share the tables, this one counted.
        say: tells the user what happens to a table while it is used.

    Returns:
        ``built`` with every ``teacher.table`` chosen.

    Raises:
        ValueError: a table is another teacher's, or cannot be made; or one was asked for that cannot be.
    """
    images = stream.loader.image_set
    names = built.distiller.guides.networks
    guided = ranks.together(lambda: [g for name in names if (g := guide(built, name, images))])
    epochs = built.config.train.epochs
    asked = {g.name: _last_asked(stream, g.name, epochs) for g in guided}
    places = ranks.first(lambda: {g.name: _place(g, folder, asked[g.name], runs) for g in guided})
    stream.answers = ranks.together(
        lambda: {
            g.name: Answers(
                stream.loader, *_opened(built, g, images, places[g.name][0]), epochs=asked[g.name], say=say
            )
            for g in guided
        }
    )
    networks = built.distiller.guides.networks.items()
    maps = [name for name, network in networks if network.dense]
    told = [f"{name} answers with maps, which no table keeps: it runs in every step" for name in maps]
    boxes = [name for name, network in networks if network.detects]
    told += [
        f"{name} scores the student's own boxes, which no table knows: it runs in every step"
        for name in boxes
    ]
    given = {name: built.config.guides[name].table for name in names}
    unread = {name: OFF if table == AUTO else table for name, table in given.items()}
    chosen = unread | {name: table for name, (table, _) in places.items()}
    return replace(
        built,
        config=built.config.replaced(
            **{f"{built.config.guide_key(name)}.table": table for name, table in chosen.items()}
        ),
        notes=(*built.notes, *told, *(note for _, note in places.values() if note)),
    )


def without_auto_tables(config: Config) -> Config:
    """Returns a config whose teachers keep answers only where it names a table."""
    off = {
        f"{config.guide_key(name)}.table": OFF for name, guide in config.guides.items() if guide.table == AUTO
    }
    return config.replaced(**off)


def guide(built: Built, name: str, images: ImageSet) -> Guidance | None:
    """Returns one teacher over the training images, ``None`` if it must be asked in the step.

    Args:
        built: with every precision settled.
        name: of the teacher.
        images: the training images, where the teacher runs.

    Raises:
        ValueError: a table is asked for that cannot be kept.
    """
    guides, config = built.distiller.guides, built.config.guides[name]
    key, roles = f"{built.config.guide_key(name)}.table", guides.step_roles(name)
    if not roles:
        return None
    divided = "the teacher is divided among the processes, who must ask it at once (teacher.shard)"
    by_batch = "the teacher's batch norms take the statistics of each batch (teacher_bn)"
    why = by_batch if guides.by_batch(name) else divided if name in guides.divided else None
    why = why or asked_in_step(built.config)
    if why is not None:
        if config.table not in (AUTO, OFF):
            raise ValueError(f"{key} must be off where {why}, got {config.table}. Set it to off")
        return None
    if guides.networks[name].detects:
        if config.table not in (AUTO, OFF):
            raise ValueError(
                f"{key} must be off where the teacher scores the student's own boxes, got {config.table}. Set it to off"
            )
        return None
    dense = guides.networks[name].dense
    if dense or not can_answer_ahead(roles):
        if config.table not in (AUTO, OFF):
            maps = ", ".join(role for role in roles if dense or not can_answer_ahead([role]))
            raise ValueError(
                f"{key} must be off where a term reads maps ({maps}), got {config.table}: "
                "they would take a hundred times the space. Set it to off"
            )
        return None
    if config.table not in (AUTO, OFF) and not augmentation(built.config.data, built.data).finite:
        raise ValueError(
            f"{key} must be off where no view comes again, got {config.table}. Set it to "
            "off, or data.augment.fixed to a number of views an image"
        )
    blocks = _blocks(built, name, images, None if config.table == OFF else config.table_dtype)
    on_disk = config.table not in (OFF, MEMORY)
    return Guidance(name, config, blocks, identify(blocks, guides.networks[name].module) if on_disk else None)


def kept(losses: Iterable[Mapping[str, Any]]) -> frozenset[tuple[str | None, str]]:
    """Returns what a table would keep of the teachers under these terms: runs of which it is the same share a table.

    Args:
        losses: of a config.

    Returns:
        pairs of a term's ``teacher:`` and ``logits`` or ``feature`` (from which logits follow); nobody is in it whom
        no term asks, or who must show maps or see each batch, since such a teacher is asked in every step.

    Example:
        >>> from understudy.guidance import kept
        >>> kept([{"name": "ce"}, {"name": "kd"}]) == kept([{"name": "dkd"}]), kept([{"name": "at"}])
        (True, frozenset())
    """
    roles: dict[str | None, set[str]] = {}
    terms = build_terms(losses)
    for term in terms:
        if term.reads_teacher:
            roles.setdefault(term.teacher, set()).update(term.method.teacher_roles)
    by_batch = {term.teacher for term in terms if term.method.teacher_by_batch}
    vectors = {name: read for name, read in roles.items() if can_answer_ahead(read) and name not in by_batch}
    return frozenset((name, "feature" if "feature" in read else "logits") for name, read in vectors.items())


def check_tables(config: Config, methods: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Refuses one table for methods of which each would keep other answers in it.

    Args:
        config: of them all.
        methods: their losses by name.

    Raises:
        ValueError: a ``teacher.table`` names a folder, and one method reads logits alone, another a feature.
    """
    for name, teacher in config.guides.items():
        if teacher.table in (AUTO, OFF, MEMORY):
            continue
        readers: dict[str, str] = {}
        for method, losses in methods.items():
            for asked, stored in kept(losses):
                if asked in (None, name):
                    readers.setdefault(stored, method)
        if len(readers) > 1:
            each = ", ".join(f"{method}: {stored}" for stored, method in readers.items())
            key = config.guide_key(name)
            raise ValueError(
                f"{key}.table must be auto where methods read different answers ({each}), got {teacher.table}: a table "
                f"keeps one kind. Set {key}.table to auto, and {key}.tables to the folder where the tables are to lie"
            )


def asked_in_step(config: Config) -> str | None:
    """Returns why every teacher must see the very batch of a step, whatever it shows; ``None`` if it need not.

    Args:
        config: with every automatic choice about the data made.
    """
    if config.data.mix is not None:
        return "images are mixed (data.mix)"
    return (
        "images are not held in memory (data.resident, data.augment.whole)"
        if config.data.resident is False
        else None
    )


def open_table(guidance: Guidance, path: Path) -> ViewTable:
    """Returns a teacher's table on a disk.

    Raises:
        ValueError: it is another teacher's, or belongs to other data; or there can be no table.
    """
    assert guidance.fingerprint is not None
    try:
        return ViewTable(path, guidance.fingerprint, guidance.blocks.layout)
    except OSError as error:
        raise ValueError(
            f"the table of {guidance.name} must be in a folder that can be made and read, got {path} "
            f"({error.strerror or error}). Set table: of the teacher to another folder, or to off (of a run that is "
            "resumed, in its config.yaml)"
        ) from error


def tables_folder(config: TeacherConfig, folder: Path) -> Path:
    """Returns where ``auto`` keeps the tables of what is run in ``folder``: a run, a study, a search, several seeds."""
    return Path(config.tables) if config.tables is not None else folder.parent / "tables"


def _choice(built: Built, name: str, images: ImageSet) -> PrecisionChoice:
    wanted: Literal["auto", "fp32", "bf16"] = built.config.guides[name].precision
    divided = name in built.distiller.guides.divided  # this process alone cannot try it
    if wanted == AUTO and (divided or built.config.train.precision == "fp32"):
        return PrecisionChoice("fp32", "")
    if wanted != AUTO:
        return PrecisionChoice(wanted, "")
    module = built.distiller.guides.teachers[name].module
    sample = view_source(module, _images(built, images)).sample(_SAMPLE)
    return choose_precision(module, sample)


def _images(built: Built, image_set: ImageSet) -> Images:
    data, train = built.data, built.config.train
    form = memory_format(train, torch.device(train.device))
    return Images(image_set, augmentation(built.config.data, data), data.mean, data.std, form)


def _blocks(built: Built, name: str, images: ImageSet, dtype: TableDtype | None) -> Blocks:
    guides = built.distiller.guides
    return assemble_blocks(
        guides.teachers[name],
        _images(built, images),
        guides.step_roles(name),
        size=built.config.guides[name].batch_size,
        dtype=dtype,
    )


def _place(guidance: Guidance, folder: Path, epochs: int, runs: int) -> tuple[str, str]:
    """Returns where the answers of a teacher that is asked in so many epochs are kept (``off``, ...), and a note."""
    config = guidance.config
    if config.table != AUTO:
        return config.table, ""
    if epochs == 0:  # no term that reads it ever begins
        return OFF, ""
    assert guidance.fingerprint is not None
    path, note = auto_table(
        guidance.blocks.layout, guidance.fingerprint, tables_folder(config, folder), epochs=epochs, runs=runs
    )
    return OFF if path is None else str(path), note


def _opened(built: Built, guidance: Guidance, images: ImageSet, place: str) -> tuple[Blocks, Table | None]:
    """Returns the teacher in blocks and its table, if it has one."""
    if place == OFF:  # answers as the teacher gives them, since nothing keeps them
        return _blocks(built, guidance.name, images, None), None
    if place == MEMORY:
        return guidance.blocks, MemoryTable(guidance.blocks.layout, guidance.blocks.source.device)
    return guidance.blocks, open_table(guidance, Path(place))


def _last_asked(stream: Stream, name: str, epochs: int) -> int:
    """Returns the number of the epoch after the last one in which a teacher is asked."""
    return max((epoch + 1 for epoch in range(epochs) if name in stream.asked(epoch)), default=0)
