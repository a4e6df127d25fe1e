"""The one unit that trains: student, the terms' heads, and the frozen teacher beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.engine.backward import Backward, StepOutput
from understudy.engine.compiled import Compiled
from understudy.engine.distributed import Ranks, Share
from understudy.engine.guides import ONLY, Guides, by_name, check_networks, check_teachers, seen_by
from understudy.engine.relations import GlobalBatch
from understudy.engine.sharding import Shards
from understudy.heads.snapshot import FeatureSnapshot
from understudy.interface import Align, Batch, Network, Outputs, Setup
from understudy.methods.term import Term, build_terms, judging_terms
from understudy.models import family, known_roles
from understudy.taps import Taps, describe, pair_stages, without_hooks
from understudy.tasks import task_of
from understudy.widest import widened


class Distiller(nn.Module):
    """A student under a teacher, as an ordinary module.

    ``forward`` gives the losses of a batch, :meth:`backward` their (aligned) gradients, :meth:`deployable` the plain
    student. The student is tapped, never edited. The teacher is frozen in place and is no submodule: it is not in
    ``state_dict()`` and no wrapper sees it. What runs is a copy of it with the batch norms folded.
    A copy of a distiller (``copy.deepcopy``, as ``AveragedModel`` makes one) has student and heads of its own, and the
    same teacher.

    Where torch.distributed has a process group, each process gives its part of the batch, and ``backward`` leaves all
    of them the gradients of the global batch: wrap nothing, step every process's optimiser alike, and seed all
    processes alike. Then ``forward``, ``backward``, ``prepare`` and ``start_epoch`` are collective. The first forward
    gives all processes the first one's weights.

    Args:
        student: any classifier whose forward maps images to logits: ``(B, C)``, or a map ``(B, C, h, w)`` of any size,
            which makes the task segmentation; or a :class:`understudy.models.Detector`.
        teacher: likewise, its weights loaded (some methods copy parts of it: ``simkd``, ``ijckd``, ``srrl``, ``ofd``);
            ``None`` for terms that need none; or several by name. A term then says which one it learns from
            (``teacher: NAME``); without that it learns from the mean of all logits.
        losses: the terms, as in a config (``[{"name": "ce"}, {"name": "dhkd", "weight": 1.0}]``).
        align: how the gradients of labels and teacher are merged (docs/methods.md, Gradient alignment).
        twin: whether the two gradients that ``released``, ``backbone`` and ``paper`` merge come of one vectorised
            backward pass, not of two.
        example: one image batch, for the dry run that finds the taps; by default zeros at 32×32.
        class_means: ``(C, D)`` the teacher's class means, for ``dino``; else call :meth:`prepare`.
        train_targets: label of every training image by its index (-1: not trained on), for terms that keep a row of
            memory an image.
        student_taps: module paths by role, where finding them automatically fails.
        teacher_taps: likewise (for several teachers by name).
        precision: ``bf16`` runs both networks under autocast; heads and losses stay in float32.
        same_family: whether both networks are of one family; by default judged by their classes.
        multilabel: whether an image may have several classes; targets are then rows of 1, 0 and -1 (not known).
        sync_bn: with several processes, whether batch norms see the images of all, so that their number changes
            nothing but rounding; otherwise each normalises its own images (faster), and the first one's running
            statistics count.
        shard: with several processes, leave each one its rows of the student's parameters (FSDP2); needs ``align``
            ``none``. What an optimiser holds are those rows, :meth:`whole_state` gathers them.
        sharded_teachers: names of the teachers of which each process keeps its rows (one alone is ``teacher``).

    Raises:
        ValueError: unknown methods or settings, taps that do not exist, networks that do not suit a term.

    Example:
        >>> import torch, understudy as us
        >>> student, teacher = (us.create_model("cnn_tiny", num_classes=4) for _ in range(2))
        >>> distiller = us.Distiller(student, teacher, [{"name": "ce"}, {"name": "dhkd"}], align="backbone")
        >>> out = distiller(torch.rand(8, 3, 32, 32), torch.arange(8) % 4)
        >>> sorted(out.terms)
        ['ce', 'dhkd']
        >>> distiller.backward(out)
        >>> all(p.grad is not None for p in distiller.trainable_parameters())
        True
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Mapping[str, nn.Module] | None = None,
        losses: Iterable[Mapping[str, Any]] = ({"name": "ce"},),
        *,
        align: Align = "none",
        twin: bool = False,
        example: Tensor | None = None,
        class_means: Tensor | None = None,
        train_targets: Tensor | None = None,
        student_taps: Mapping[str, str] | None = None,
        teacher_taps: Mapping[str, Any] | None = None,
        precision: str = "fp32",
        same_family: bool | None = None,
        multilabel: bool = False,
        sync_bn: bool = True,
        shard: bool = False,
        sharded_teachers: Iterable[str] = (),
    ) -> None:
        super().__init__()
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {precision!r}. Use one of them")
        terms = build_terms(losses)
        modules = by_name(teacher)
        check_teachers(terms, modules)
        check_networks(student, modules)
        example = _default_example(student) if example is None else example
        example = example.to(next(student.parameters(), example).device)
        if class_means is not None and len(modules) > 1:
            raise ValueError(
                "class_means must be of the only teacher, got several teachers. Leave them out: prepare() finds them"
            )
        self.student = student
        network = describe(student, example, known=known_roles(student), overrides=student_taps)
        taps = (teacher_taps or {}) if isinstance(teacher, Mapping) else {ONLY: teacher_taps}
        guides = {
            name: describe(
                module, _beside(module, example), known=known_roles(module), overrides=taps.get(name)
            )
            for name, module in modules.items()
        }
        self._setups = {
            name: _setup(network, guide, class_means, train_targets, same_family)
            for name, guide in {**guides, None: next(iter(guides.values()), None)}.items()
        }
        self.task = task_of(network, multilabel)
        if align == "paper" and self.task.name in ("segmentation", "detection"):
            raise ValueError(
                f"gradients.align must not be paper for {self.task.name}: it compares the rows of two linear "
                "classifiers, of which there is not one pair. Use backbone or released"
            )
        for term in terms:
            if network.detects:
                self._object(term)
            for name in [term.teacher] if term.teacher is not None or not modules else modules:
                _check_pair(term, self._setups[name])
            self._object(term)
        if align == "feature":
            _check_feature(terms)
        self.terms = tuple(replace(t, method=t.method.resolved(self._setups[t.teacher])) for t in terms)
        self.heads = nn.ModuleDict({t.label: t.method.heads(self._setups[t.teacher]) for t in self.terms})
        self.heads.to(example.device)
        if align == "paper":
            _check_paper(self.terms, self.heads, network)
        self.align: Align = align
        self.precision = precision
        self.sync_bn = sync_bn
        self.ranks = Ranks()
        self._shared = False
        self._replacing = next((t for t in self.terms if t.method.replaces_classifier), None)
        roles = {"logits"} | {role for t in self.terms for role in t.method.student_roles}
        self._taps = Taps(network, tuple(sorted(roles | ({"feature"} & network.shapes.keys()))))
        self.guides = Guides(guides, self.terms, precision, example, sharded_teachers)
        self._run_student: Callable[..., Any] = self.student.__call__
        self._shards: Shards | None = None
        if shard and self.ranks.several:
            self._shards = self._divided(example.device)
        self._backward = Backward(dict(self._trainable()), align, self.ranks, self._shards, twin)

    def __deepcopy__(self, memo: dict[int, Any]) -> Distiller:
        for teacher in self.guides.networks.values():
            memo[id(teacher)], memo[id(teacher.module)] = teacher, teacher.module
        twin = memo[id(self)] = type(self).__new__(type(self))
        for name, value in self.__dict__.items():
            twin.__dict__[name] = copy.deepcopy(value, memo)
        return twin

    def _object(self, term: Term) -> None:
        """Refuses a term that makes no sense of this task."""
        if (objection := self.task.objection(term.method)) is not None:
            raise ValueError(f"term {term.label!r} must {objection}")

    @property
    def setup(self) -> Setup:
        """Both networks as an unnamed term sees them (of several teachers the first)."""
        return self._setups[None]

    @property
    def replacing(self) -> Term | None:
        """The term whose classifier is deployed instead of the student's own, if there is one."""
        return self._replacing

    @property
    def network(self) -> Network:
        """The student and its roles."""
        return self.setup.student

    def forward(
        self,
        images: Tensor,
        targets: Tensor | None,
        *,
        index: Tensor | None = None,
        view: Tensor | None = None,
        epoch: int = 0,
        counts: tuple[int, ...] | None = None,
        answers: Mapping[str, Outputs] | None = None,
        partner: Tensor | None = None,
        kept: float = 1.0,
        density: Tensor | None = None,
        seed: int | None = None,
    ) -> StepOutput:
        """Returns the losses of one batch.

        Args:
            images: ``(B, C, H, W)``, normalised; of several processes each gives its own, in the order of the ranks.
            targets: ``(B,)`` int64, masks ``(B, H, W)`` for segmentation (255: ignored), rows of objects
                ``(B, M, 8)`` for detection, ``(B, C)`` of 1, 0 and -1 (not known) with ``multilabel``; ``None`` for
                images without labels, which only some terms can use.
            index: ``(B,)`` which sample of the training set each image is; needed by terms with a memory.
            view: ``(B,)`` which augmentation each image is.
            epoch: 0-based; decides the weights. A term of weight 0 is not computed, nor is a teacher nobody reads.
            counts: with several processes, B of each where all know it; else they ask each other in every step.
            answers: what teachers show of these images, by name, where it is known already (out of a view table); the
                others are run.
            partner: ``(B,)`` labels of what was mixed into the images (mixup, CutMix), if anything was.
            kept: share of every image that is its own then.
            density: :meth:`density` of the whole step's batch, where these images are one part of it.
            seed: of this step, by which (and by ``index``) a detector draws boxes; by default one of torch's generator.

        Returns:
            the loss with its graph, the terms it is made of, the student's logits ``(B, C)``, and what
            :meth:`backward` needs.

        Raises:
            ValueError: a term needs labels, positions in the training set or unmixed images, and got none of them.
        """
        active = [(term, term.weight.at(epoch)) for term in self.active(epoch)]
        if isinstance(self._run_student, Compiled):
            self.check_compiled(epoch)
        if targets is None:
            for term, _ in active:
                if term.method.uses_labels:
                    raise ValueError(
                        f"term {term.label!r} must have labels, got images without. Leave it out for them"
                    )
            targets = self.task.unlabelled(images, self.network.num_classes)
        if partner is not None:
            check_mixing(term for term, _ in active)
        batch = Batch(images, targets, index, view, partner, kept)
        if self.ranks.several and not self._shared:
            self.share_state()
        share = self.ranks.share(images, counts)
        if share.repeated:
            batch = share.whole(batch)
            answers = {name: share.whole_answers(shown) for name, shown in (answers or {}).items()}
        density = self.density(batch.target, share) if density is None else density
        asked = self.task.asked(batch, seed, share.rows.start if share.divided else 0)
        methods = {term.label: term.method_at(epoch) for term, _ in active}
        related = {label for label, method in methods.items() if share.divided and method.relates_samples}
        losses = {}
        with share.apart(images.device, self.sync_bn):
            raw = self._shown(asked)
            student = _widened(raw)
            logits = self._logits(student)
            shown = {**student, "logits": logits}
            pointed = self.task.pointed(batch, student)
            guided = self.guides.answers([term for term, _ in active], pointed, answers)
            for term, weight in active:
                if term.label not in related:
                    seen = seen_by(term, guided) if term.reads_teacher else {}
                    loss = self.task.loss(methods[term.label], shown, seen, batch, self._heads(term), density)
                    losses[term.label] = _scaled(loss, weight, share)
        if related:  # on the global batch: every process computes the same, with the same random numbers
            everything = GlobalBatch(share, batch)
            for term, weight in active:
                if term.label in related:
                    method, seen = methods[term.label], seen_by(term, guided) if term.reads_teacher else {}
                    ours = everything.shown(shown, method.student_roles)
                    theirs = everything.shown(seen, method.teacher_roles)
                    losses[term.label] = weight * self.task.loss(
                        method, ours, theirs, everything.batch, self._heads(term), density
                    )
            losses = {term.label: losses[term.label] for term, _ in active}
        label = [losses[t.label] for t, _ in active if t.method.label_loss]
        guide = [losses[t.label] for t, _ in active if not t.method.label_loss]
        loss = sum(losses.values(), start=logits.new_zeros(()))
        judged = self.task.judged(student, batch)
        parts = {name: _scaled(part.detach(), 1.0, share) for name, part in self.task.pieces(student).items()}
        if share.repeated:
            logits, judged = logits[share.rows], judged[share.rows]
        theirs = next(iter(guided.values())).get("logits") if len(guided) == 1 else None
        theirs = theirs[share.rows] if share.repeated and theirs is not None else theirs
        feature = raw.get("feature") if self._shards is None else None  # no backward but the one of all
        return StepOutput(
            loss,
            losses,
            logits,
            student["logits"],
            share,
            _total(label),
            _total(guide),
            feature,
            theirs,
            judged,
            parts,
        )

    def density(self, targets: Tensor, share: Share | None = None) -> Tensor | None:
        """Returns how many samples of a loss an image of the global batch holds, which all its parts are divided by.

        Collective where it is not ``None``.

        Args:
            targets: of all of this process's images in the step.
            share: which part of the global batch they are, where that is known.
        """
        own = self.task.density(targets, self.network.num_classes)
        if own is None or not self.ranks.several or (share is not None and share.repeated):
            return own
        images = torch.full_like(own, len(targets))
        samples, count = self.ranks.total(torch.stack([own * images, images])).unbind()
        return samples / count

    def backward(self, out: StepOutput, *, last: bool = True, scale: float = 1.0) -> None:
        """Fills ``.grad``, merged as ``align`` says.

        Args:
            out: of this distiller's forward.
            last: ``False`` while parts of one batch are accumulated; the processes' gradients are averaged and merged
                once, at the last part.
            scale: this part's share of the batch, of all processes together (1 without accumulation).

        Raises:
            ValueError: the forward kept no graph (``torch.no_grad``), or nothing that it read can be trained; or other
                parameters are trained than in the batch's earlier parts.
        """
        self._backward.follow(dict(self._trainable()))
        self._backward(out, last=last, scale=scale)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients, those of the parts of a batch that was never finished among them.

        With ``shard`` those parts are FSDP2's, which drops none: finish such a batch.
        """
        super().zero_grad(set_to_none)
        for parameter in () if self._shards is None else self._shards.own.values():
            parameter.grad = None
        self._backward.forget()

    def compile_student(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compiles the student's forward and backward, one graph for each size of batch.

        A student that does not make one graph, or that the backend refuses, runs as it is, with a warning; the terms
        and the alignment are not compiled.

        Args:
            backend: of :func:`torch.compile`.

        Raises:
            ValueError: something else is on that needs the student's graph in parts.

        Note:
            A compiled student has a gradient of 0 where a loss does not reach, and weight decay works there; so a
            forward in which no term reads the logits is refused (:meth:`check_compiled`).
        """
        if self.align not in ("none", "released"):
            raise ValueError(
                f"gradients.align must be none or released where train.compile is on, got {self.align}: which "
                "parameters a loss does not reach cannot be seen in a compiled student. Turn train.compile off"
            )
        if self._backward.twin:
            raise ValueError(
                "gradients.twin must be off where train.compile is on, got both: a compiled backward takes one "
                "gradient at a time. Turn one of them off"
            )
        if self._shards is not None:
            raise ValueError(
                "train.compile must be off where train.shard is on, got both. Turn one of them off"
            )
        if self.network.detects:
            raise ValueError(
                "train.compile must be off where objects are found, got it on: how many boxes are left depends on the "
                "image. Turn it off"
            )
        self._run_student = Compiled(self.student, backend)

    def check_compiled(self, epoch: int) -> None:
        """Refuses an epoch (0-based) of which no term reads the logits, so that what lies behind would only decay.

        Raises:
            ValueError: with the terms that are active then.
        """
        active = self.active(epoch)
        if active and not judging_terms(active):
            raise ValueError(
                f"train.compile must be off where no term reads the student's logits, got {active[0].label!r} alone "
                f"in epoch {epoch + 1}: weights that it does not reach would decay. Turn it off"
            )

    def active(self, epoch: int) -> list[Term]:
        """Returns the terms that have a weight in an epoch (0-based); the others are not computed."""
        return [term for term in self.terms if term.weight.at(epoch) != 0.0]

    @property
    def alignment(self) -> Mapping[str, Tensor]:
        """``lambda``, ``dot``, ``norm_sq``, ``cosine`` of the last backward, on the device; empty without alignment."""
        return self._backward.info

    def note_alignment(self, info: Mapping[str, Tensor]) -> None:
        """Takes what a recorded backward found."""
        self._backward.info = dict(info)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns what the optimiser should hold: the student's parameters and the heads', complete after construction.

        A classifier that a term replaces (SimKD, IJCKD) is left out: no loss reaches it.
        """
        return [parameter for _, parameter in self._trainable()]

    def trainable_names(self) -> list[str]:
        """Returns the names of :meth:`trainable_parameters`, in their order."""
        return [name for name, _ in self._trainable()]

    def prepare(self, batches: Iterable[Any], augmented: Iterable[Any] | None = None) -> None:
        """Lets every term compute what it must know of the training data (``dino``: the teacher's class means).

        Of several processes the first computes it, from its batches, and the others are given the result.

        Args:
            batches: un-augmented training data: a re-iterable of :class:`Batch` or of ``(images, targets)`` pairs.
            augmented: the same as an epoch shows it, for terms that ask for that; by default ``batches``.
        """
        for term in self.terms:
            heads = self._heads(term)
            if term.method.needs_prepare(heads):
                chosen = augmented if term.method.prepares_augmented and augmented is not None else batches
                prepare = partial(self._prepare, term, _Batches(chosen))
                if self.guides.divided:  # a teacher that only all can ask
                    self.ranks.together(prepare)
                    continue
                state = self.ranks.first(prepare)
                if not self.ranks.is_first:
                    heads.load_state_dict(state)

    def share_state(self) -> None:
        """Gives all processes the first one's weights and buffers; collective. The first forward does it, too."""
        if not self._shared or self._shards is None:  # rows were cut from the first one's weights
            self.ranks.spread(self.state_dict().values())
        self._shared = True

    def share_statistics(self) -> None:
        """Gives all processes the first one's buffers of the model that is measured; collective.

        Gradients keep the weights alike, not running statistics that each process takes of its own images.
        """
        if not self.ranks.several:
            return
        state, weights = self.state_dict(), {name for name, _ in self.named_parameters()}
        self.ranks.spread(state[name] for name in self.deployed_names() if name not in weights)

    def start_epoch(self) -> None:
        """Tells every term that an epoch begins; to be called before its first step, not when resuming within it."""
        self.share_statistics()
        for term in self.terms:
            term.method.start_epoch(self.network, self._heads(term))

    @property
    def needs_prepare(self) -> bool:
        """Whether :meth:`prepare` has work to do."""
        return any(t.method.needs_prepare(self._heads(t)) for t in self.terms)

    def predict(self, images: Tensor) -> Tensor:
        """Returns the deployed model's logits ``(B, C)``, or the objects it finds, in the module's current mode."""
        if self.network.detects:
            return self._answer(images)
        return self._logits(_widened(self._shown(Batch(images, images.new_empty(0)))))

    def deployable(self) -> nn.Module:
        """Returns a plain copy of the model to ship: no taps, no heads, no teacher; collective with ``shard``.

        It is the student as given, with its trained weights; for a term that replaces the classifier, the student's
        backbone with the connector and the teacher's classifier.
        """
        network = self.network
        if self._shards is not None:
            plain, state = self._shards.plain, self.whole_state()
            plain.load_state_dict({name: state[f"student.{name}"] for name in plain.state_dict()})
            network = replace(network, module=copy.deepcopy(plain).to(self._shards.device))
        if self._replacing is not None:
            return without_hooks(self._replacing.method.deploy(network, self._heads(self._replacing)))
        return without_hooks(network.module)

    @property
    def divided(self) -> bool:
        """Whether each process holds its rows of the student's parameters."""
        return self._shards is not None

    def live_state(self) -> dict[str, Tensor]:
        """Returns the tensors that this process trains, by name: ``state_dict()``, or the own rows with ``shard``."""
        own = (
            {} if self._shards is None else {f"student.{n}": p.detach() for n, p in self._shards.own.items()}
        )
        return self.state_dict() | own

    def whole_state(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns everybody's rows as whole tensors; collective with ``shard``.

        Args:
            state: what belongs to entries of :meth:`live_state`, by name; by default that itself.
        """
        return self._translated(self.live_state() if state is None else state, Shards.whole)

    def own_state(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what this process holds of whole tensors: the inverse of :meth:`whole_state`."""
        return self._translated(whole, Shards.part)

    @torch.no_grad()
    def take_state(self, whole: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`whole_state` returned, on any number of processes; without ``shard`` as a module does.

        Raises:
            RuntimeError: it is another distiller's.
        """
        if self._shards is None:
            self.load_state_dict(whole)
            return
        live = self.live_state()
        if live.keys() != whole.keys():
            different = ", ".join(sorted(live.keys() ^ whole.keys())[:3])
            raise RuntimeError(f"the state must have the same entries, got different ones: {different}")
        rows = {f"student.{name}" for name in self._shards.own}
        self.load_state_dict({n: tensor for n, tensor in whole.items() if n not in rows}, strict=False)
        own = self.own_state(whole)
        for name in rows:
            live[name].copy_(own[name])

    @contextmanager
    def assembled(self) -> Iterator[None]:
        """Lets each process ask the student as often as it likes (:meth:`predict`); collective with ``shard``."""
        if self._shards is None:
            yield
            return
        with self._shards.assembled():
            yield

    def gradient_norm(self) -> Tensor:
        """Returns the Euclidean norm of all gradients, 0-d; collective with ``shard``."""
        whole = _norm(self._backward.whole.values())
        if self._shards is None:
            return whole
        rows = _norm(self._shards.own.values()).double().square()
        return (self.ranks.total(rows) + whole.double().square().to(rows.device)).sqrt()

    def deployed_names(self) -> list[str]:
        """Returns the names in ``state_dict()`` of what is measured and deployed: not banks, not throw-away heads."""
        kept = ["student."] + ([f"heads.{self._replacing.label}."] if self._replacing is not None else [])
        return [name for name in self.state_dict() if name.startswith(tuple(kept))]

    def share_teachers(self, other: Distiller) -> None:
        """Asks the other's teachers from now on, which must be the same networks, and forgets its own."""
        self.guides.close()
        self.guides = other.guides
        self._setups = {
            name: replace(setup, teacher=other._setups[name].teacher) for name, setup in self._setups.items()
        }

    def close(self) -> None:
        """Removes all taps from both networks."""
        self._taps.close()
        self.guides.close()

    def _divided(self, device: torch.device) -> Shards:
        """Leaves each process its rows of the first one's student."""
        if self.align != "none":
            raise ValueError(
                f"gradients.align must be none where train.shard is on, got {self.align}: FSDP2 gives one gradient, "
                "not two to merge. Turn train.shard off, or set align to none"
            )
        if any(isinstance(head, FeatureSnapshot) for head in self.heads.modules()):
            raise ValueError(
                "sifn.previous must be detach where train.shard is on, got snapshot: no process has the whole student. "
                "Change it, or turn train.shard off"
            )
        self.share_state()
        return Shards(self.student, device, self.ranks)

    def _translated(
        self, state: Mapping[str, Tensor], change: Callable[[Shards, str, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        shards = self._shards
        if shards is None:
            return dict(state)
        rows = {f"student.{name}" for name in shards.own}
        return {
            name: change(shards, name.removeprefix("student."), tensor) if name in rows else tensor
            for name, tensor in state.items()
        }

    def _prepare(self, term: Term, batches: Iterable[Batch]) -> dict[str, Tensor]:
        heads, ask = self._heads(term), self.guides.of(term)

        def answer(batch: Batch) -> Outputs:
            return ask(self.task.asked(batch, 0, 0))

        term.method.prepare(self._setups[term.teacher], heads, batches, answer)
        return heads.state_dict()

    def _shown(self, batch: Batch) -> dict[str, Tensor]:
        """Returns what the student shows, as the rest of the student reads it: in bf16 under autocast."""
        return self._taps.collect(self._answer(batch.images, *batch.question))

    def _answer(self, images: Tensor, *question: Tensor | None) -> Any:
        """Returns what the student says, in the precision of training."""
        if self.precision == "bf16":
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                return self._run_student(images, *question)
        return self._run_student(images, *question)

    def _logits(self, student: Outputs) -> Tensor:
        if self._replacing is None:
            return student["logits"]
        return self._replacing.method.logits(student, self._heads(self._replacing))

    def _heads(self, term: Term) -> nn.ModuleDict:
        heads = self.heads[term.label]
        assert isinstance(heads, nn.ModuleDict)
        return heads

    def _trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        unused = set()
        if self._replacing is not None and self.network.head is not None:
            unused = {id(p) for p in self.network.classifier.parameters()}
        own = {} if self._shards is None else self._shards.own
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and id(parameter) not in unused:
                yield name, own.get(name.removeprefix("student."), parameter)


def _widened(shown: Outputs) -> dict[str, Tensor]:
    return {role: widened(tensor) for role, tensor in shown.items()}


def _check_feature(terms: Iterable[Term]) -> None:
    """Refuses alignment at the feature where no loss of the teacher's passes through it."""
    replacing = [term for term in terms if term.method.replaces_classifier]
    guides = [term for term in terms if not term.method.label_loss]
    through = [term for term in guides if {"logits", "feature"} & set(term.method.student_roles)]
    if replacing or (guides and not through):
        raise ValueError(
            f"gradients.align must not be feature where no teacher's term passes the student's feature, got "
            f"{(replacing or guides)[0].label!r}. Use backbone"
        )


def _check_paper(terms: Iterable[Term], heads: nn.ModuleDict, network: Network) -> None:
    """Refuses alignment of two classifiers' rows where there is not one pair of them."""
    guides = [term for term in terms if not term.method.label_loss]
    matrices = {
        f"{term.label}: {name}": (term, parameter)
        for term in guides
        for name, parameter in heads[term.label].named_parameters()
        if parameter.requires_grad and parameter.dim() == 2
    }
    shapes = [
        tuple(matrix.shape) if "feature" in term.method.student_roles else None
        for term, matrix in matrices.values()
    ]
    judged = any("logits" in term.method.student_roles for term in guides)  # through the first head
    if guides and (judged or network.head is None or shapes != [tuple(network.classifier.weight.shape)]):
        raise ValueError(
            "gradients.align must not be paper without one linear second head on the student's feature, got "
            f"{', '.join(matrices) or 'none'}. Take dhkd with head: linear alone, or align: backbone"
        )


def _setup(
    student: Network,
    teacher: Network | None,
    class_means: Tensor | None,
    train_targets: Tensor | None,
    same_family: bool | None,
) -> Setup:
    if same_family is None:
        same_family = teacher is not None and family(student.module) == family(teacher.module)
    return Setup(
        student=student,
        teacher=teacher,
        num_classes=student.num_classes,
        pairs=pair_stages(student, teacher) if teacher is not None else (),
        class_means=class_means,
        train_targets=train_targets,
        same_family=same_family,
    )


def check_mixing(terms: Iterable[Term]) -> None:
    """Refuses a term that reads labels, but not two of them an image.

    Raises:
        ValueError: there is such a term.
    """
    for term in terms:
        if term.method.uses_labels and not term.method.mixes_labels:
            raise ValueError(
                f"term {term.label!r} must see one label an image, got mixed images with two. "
                "Leave out data.mix, or the term"
            )


class _Batches:
    """Batches of any loader, re-iterable as often as a term likes."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield batch if isinstance(batch, Batch) else Batch(batch[0], batch[1])


def _check_pair(term: Term, setup: Setup) -> None:
    """Refuses a pair whose logits or taps a term could not read."""
    method = term.method
    if method.one_class and setup.num_classes < 2:
        raise ValueError(
            f"term {term.label!r} tells classes apart, so the student must have two or more, got "
            f"{setup.num_classes}. Give it a logit a class; one logit alone suits bce and binary_kl"
        )
    if setup.teacher is not None and setup.teacher.detects != setup.student.detects:
        raise ValueError(
            "student and teacher must both find objects or neither, got one detector alone. "
            "Choose the same kind of network"
        )
    if setup.teacher is not None and setup.teacher.dense != setup.student.dense:
        kinds = ["the image", "every pixel"]
        raise ValueError(
            f"student and teacher must both classify images or both pixels, got a student that classifies "
            f"{kinds[setup.student.dense]} and a teacher that classifies {kinds[setup.teacher.dense]}. "
            "Choose the same kind of network"
        )
    if setup.teacher is not None and "logits" in method.teacher_roles:
        ours, theirs = setup.student.num_classes, setup.teacher.num_classes
        if ours != theirs:
            raise ValueError(
                f"term {term.label!r} compares logits, so student and teacher must have the same classes, got "
                f"{ours} and {theirs}. Use a teacher for these classes, or distil features instead"
            )
    for side, network, roles in (
        ("student", setup.student, method.student_roles),
        ("teacher", setup.teacher, method.teacher_roles),
    ):
        for role in roles:
            if network is not None and "*" not in role and role not in network.shapes:
                raise ValueError(
                    f"term {term.label!r} must see {role!r} of the {side}, got none in "
                    f"{type(network.module).__name__}. Name its module in the config: {side}.taps.{role}. "
                    f"Found: {', '.join(network.shapes)}"
                )


def _norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _beside(module: nn.Module, example: Tensor) -> Tensor:
    """Returns the images where a network lies: a teacher to be divided waits on the host."""
    return example.to(next(module.parameters(), example).device)


def _default_example(student: nn.Module) -> Tensor:
    """Returns a blank batch at 32×32 with the channels of the first convolution."""
    first = next((m for m in student.modules() if isinstance(m, nn.Conv2d)), None)
    place = next(student.parameters(), torch.zeros(()))
    return torch.zeros(2, first.in_channels if first else 3, 32, 32, device=place.device, dtype=place.dtype)


def _scaled(loss: Tensor, weight: float, share: Share) -> Tensor:
    """Returns the weighted mean over this process's images as its part of the mean over the processes."""
    return weight * loss if share.balance == 1.0 else weight * share.balance * loss


def _total(losses: list[Tensor]) -> Tensor | None:
    return torch.stack(losses).sum() if losses else None
