"""TCKD and NCKD where the training data are hard: wrong labels, strong augmentation (DKD, Tables 2 and 3)."""

from __future__ import annotations

from typing import Any

import torch

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.hard import Change, harder
from understudy.analyses.pair import Pair, Seen
from understudy.build import augmentation, data_seed, eval_batches, read_model
from understudy.data.loader import TrainLoader
from understudy.data.policy import needs_whole, of_squares
from understudy.data.splits import labelled
from understudy.data.subsets import balanced
from understudy.engine.distiller import Distiller
from understudy.engine.evaluate import answers, evaluating
from understudy.engine.optim import learning_rate, make_optimizer
from understudy.losses import nckd_loss, tckd_loss
from understudy.metrics import correct
from understudy.report.plots import Bars
from understudy.scaling import scaled

MOST = 2000
"""Images that are looked at."""


def difficulty(pair: Pair) -> Finding:
    """Returns both parts of KD on the trained pair, as labels get wrong and images get hard."""
    temperature = _temperature(pair)
    images = pair.images("train")
    if len(images) > MOST:
        images = images.subset(balanced(images.targets, MOST, 0))
    rows: list[list[Value]] = []
    numbers: dict[str, float] = {}
    for name, change in harder().items():
        measured = measure(pair.look(change(images, 0)), temperature)
        rows.append([name, *measured.values()])
        numbers |= {f"{name}/{key}": measured[key] for key in ("tckd", "nckd", "tckd_share")}
    names = tuple(str(row[0]) for row in rows)
    columns = (
        "data",
        "tckd",
        "nckd",
        "tckd_gradient",
        "nckd_gradient",
        "tckd_share",
        "teacher_target",
        "teacher_acc1",
    )
    plot = Bars(
        "gradients",
        "Gradient norms of both parts by the student's logits",
        "norm",
        names,
        tuple((part, [float(row[i] or 0) for row in rows]) for part, i in (("TCKD", 3), ("NCKD", 4))),
    )
    note = (
        f"On {len(images)} training images, T = {temperature:g}, student as trained. tckd_share: part of TCKD in the "
        "sum of both gradient norms (each averaged over the images). difficulty_training trains students, "
        "as the paper does."
    )
    return Finding(numbers, {"data": Sheet(columns, rows)}, (plot,), (note,))


def measure(seen: Seen, temperature: float) -> dict[str, float]:
    """Returns both losses, their mean gradient norms by an image's logits, and how sure and right the teacher is."""
    assert seen.teacher is not None
    teacher, student = seen.teacher.double(), seen.student.double()
    result, gradients = {}, {}
    for name, loss in (("tckd", tckd_loss), ("nckd", nckd_loss)):
        z = student.clone().requires_grad_()
        with torch.enable_grad():
            each = loss(z, teacher, seen.target, temperature=temperature, reduction="none")
            (gradient,) = torch.autograd.grad(each.sum(), [z])
        result[name] = float(each.detach().mean())
        gradients[name] = float(gradient.norm(dim=1).mean())
    own = teacher.softmax(dim=1).gather(1, seen.target[:, None])
    return {
        **result,
        "tckd_gradient": gradients["tckd"],
        "nckd_gradient": gradients["nckd"],
        "tckd_share": gradients["tckd"] / max(sum(gradients.values()), 1e-300),
        "teacher_target": float(own.mean()),
        "teacher_acc1": 100 * int(correct(teacher, seen.target, (1,))[0]) / len(seen.target),
    }


def difficulty_training(pair: Pair) -> Finding:
    """Returns test accuracies of fresh students trained with and without TCKD on ever harder training data."""
    temperature, beta = _temperature(pair), _setting(pair, "beta", 8.0)
    terms = {
        "without TCKD": [{"name": "ce"}, {"name": "nckd", "weight": beta, "temperature": temperature}],
        "with TCKD": [{"name": "ce"}, {"name": "dkd", "beta": beta, "temperature": temperature}],
    }
    rows: list[list[Value]] = []
    for name, change in harder().items():
        scores: list[Value] = []
        for losses in terms.values():
            scores.append(_train(pair, losses, change))
        rows.append([name, *scores, float(scores[1] or 0) - float(scores[0] or 0)])
    numbers = {f"{row[0]}/gain_of_tckd": float(row[3] or 0) for row in rows}
    plot = Bars(
        "accuracy",
        "Test accuracy with and without TCKD, %",
        "%",
        tuple(str(row[0]) for row in rows),
        tuple((name, [float(row[i] or 0) for row in rows]) for i, name in enumerate(terms, start=1)),
    )
    note = (
        f"One seed, {pair.options.epochs} epochs (epochs=N), α = 1, β = {beta:g}, T = {temperature:g}. "
        "The teacher is the run's own; the paper trains one on every kind of data."
    )
    if needs_whole(augmentation(pair.config.data, pair.built.data)):
        note += " Crops are of centre squares: what is made harder is made of decoded images."
    columns = ("data", "without_tckd", "with_tckd", "gain")
    return Finding(numbers, {"accuracy": Sheet(columns, rows)}, (plot,), (note,))


def _train(pair: Pair, losses: list[dict[str, Any]], change: Change) -> float:
    """Trains a fresh student by the run's recipe, on changed images in every epoch; returns its test accuracy."""
    config, data, epochs = pair.config, pair.built.data, pair.options.epochs
    learned = labelled(data.train)  # cross-entropy is part of it
    (guide,) = config.guides.values()
    train, teacher = config.train, pair.teacher
    share = min(1.0, epochs / train.epochs)
    schedule = scaled(config.replaced(study=None), share).train.schedule  # milestones move with the end
    assert teacher is not None
    torch.manual_seed(config.seed)
    student = read_model(config.student.model_copy(update={"weights": None}), data, pair.device)
    distiller = Distiller(student, teacher.module, losses, example=pair.example, teacher_taps=guide.taps)
    optimizer = make_optimizer(train.optimizer, distiller.trainable_parameters())
    for epoch in range(epochs):
        loader = TrainLoader(
            change(learned, epoch),
            of_squares(augmentation(config.data, data)),
            batch_size=min(train.batch_size, len(learned)),
            seed=data_seed(config),
            mean=data.mean,
            std=data.std,
            device=pair.device,
        )
        distiller.train()
        for step, batch in enumerate(loader.epoch(epoch)):
            done, steps = epoch * loader.steps_per_epoch + step, loader.steps_per_epoch
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, train.optimizer.lr, done, steps, epochs)
            out = distiller(**batch.inputs, epoch=epoch)
            distiller.backward(out)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    with evaluating(distiller):
        measured = answers(distiller.predict, eval_batches(pair.images("test"), pair.built, pair.device))
    distiller.close()
    return 100 * int(correct(measured.logits, measured.target, (1,))[0]) / len(measured.target)


def _temperature(pair: Pair) -> float:
    return _setting(pair, "temperature", 4.0)


def _setting(pair: Pair, key: str, otherwise: float) -> float:
    """Returns a setting of the run's DKD or KD term, or the paper's where it has none."""
    for term in pair.distiller.terms:
        if term.name in ("dkd", "tckd", "nckd", "kd") and (value := pair.number(term, key)) is not None:
            return value
    return otherwise
