"""Labels made wrong on purpose: how many, which, by what; and that only training sees them."""

import pytest
import torch

import understudy as us
from understudy.build import build, targets_as_read
from understudy.config import load_config
from understudy.data import load
from understudy.data.images import ImageSet
from understudy.data.noise import noisy_labels
from understudy.engine import loop
from understudy.files import read_json_lines

N, CLASSES = 20_000, 5


def images(targets):
    names = [str(c) for c in range(CLASSES)]
    return ImageSet.read(
        torch.zeros(len(targets), 1, 2, 2, dtype=torch.uint8), targets, names, "x", unlabelled=True
    )


CLEAN = images(torch.arange(N) % CLASSES)


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_symmetric_noise_moves_the_share_to_all_other_classes_alike(share):
    noisy = noisy_labels(CLEAN, share, seed=3).targets
    moved = noisy != CLEAN.targets
    assert abs(moved.double().mean() - share) <= 5 * (share * (1 - share) / N) ** 0.5
    steps = ((noisy - CLEAN.targets) % CLASSES)[moved].bincount(minlength=CLASSES)
    expected = float(moved.sum()) / (CLASSES - 1)
    assert steps[0] == 0
    assert all(abs(int(s) - expected) < 5 * expected**0.5 for s in steps[1:])


def test_pair_noise_moves_labels_to_the_next_class():
    noisy = noisy_labels(CLEAN, 0.3, seed=3, kind="pair").targets
    moved = noisy != CLEAN.targets
    assert torch.equal(noisy[moved], (CLEAN.targets[moved] + 1) % CLASSES)
    assert torch.equal(moved, noisy_labels(CLEAN, 0.3, seed=3).targets != CLEAN.targets)


def test_a_label_depends_on_seed_and_image_alone_and_larger_shares_keep_the_smaller_ones():
    rows = torch.tensor([5, 900, 17])
    whole = noisy_labels(CLEAN, 0.5, seed=1)
    assert torch.equal(noisy_labels(CLEAN.subset(rows), 0.5, seed=1).targets, whole.targets[rows])
    assert not torch.equal(noisy_labels(CLEAN, 0.5, seed=2).targets, whole.targets)
    few = noisy_labels(CLEAN, 0.2, seed=1).targets
    wrong = few != CLEAN.targets
    assert torch.equal(few[wrong], whole.targets[wrong])


def test_images_without_label_keep_none():
    data = images(torch.tensor([0, -1, 2, -1] * 50))
    assert torch.equal(noisy_labels(data, 1.0).targets == -1, data.targets == -1)
    with pytest.raises(ValueError, match=r"share of wrong labels must lie in \[0, 1\], got 1\.5"):
        noisy_labels(data, 1.5)


def config(digits_config, noise, **changes):
    return load_config(digits_config | {"data": digits_config["data"] | {"label_noise": noise}}, changes)


def test_a_run_trains_on_noisy_labels_and_is_measured_on_clean_ones(digits_config, monkeypatch):
    wanted = config(digits_config, {"share": 0.3, "kind": "pair"})
    clean = load("digits", limit=160, val=0.1)
    expected = noisy_labels(clean.train, 0.3, seed=3, kind="pair")
    built = build(wanted, torch.device("cpu"))
    assert torch.equal(built.data.train.targets, expected.targets)
    assert torch.equal(targets_as_read(built.data), built.distiller.setup.train_targets)
    assert torch.equal(built.distiller.setup.train_targets[expected.index], expected.targets)
    assert torch.equal(built.data.val.targets, clean.val.targets)
    assert torch.equal(built.data.test.targets, clean.test.targets)
    wrong = int((expected.targets != clean.train.targets).sum())
    assert built.data.wrong_labels == wrong
    seen, step = {}, loop._forward_backward

    def noted(job, batch, *rest):
        seen.update(zip(batch.index.tolist(), batch.target.tolist(), strict=True))
        step(job, batch, *rest)

    monkeypatch.setattr(loop, "_forward_backward", noted)
    run = us.distill(wanted, quiet=True, **{"train.epochs": 1})
    assert seen == dict(zip(expected.index.tolist(), expected.targets.tolist(), strict=True))
    assert run.config.data.label_noise.model_dump() == {"share": 0.3, "kind": "pair"}
    assert run.config.data.seed == 3
    assert f"{wrong} of 160 training labels" in (run.path / "train.log").read_text()


def test_seeds_side_by_side_share_one_noise(digits_config, tmp_path):
    teacher = us.train(
        digits_config | {"output": str(tmp_path / "t"), "student": {"model": "cnn_small"}},
        quiet=True,
        **{"train.epochs": 1},
    )
    weights = str(teacher.path / "student.safetensors")
    changes = {"train.seeds": [1, 2], "train.epochs": 1, "teacher.weights": weights}
    us.distill(config(digits_config, {"share": 0.4}, **changes), quiet=True)
    alone = {**changes, "train.seeds": None, "data.seed": 3, "seed": 2, "output": str(tmp_path / "alone")}
    us.distill(config(digits_config, {"share": 0.4}, **alone), quiet=True)
    together = read_json_lines(tmp_path / "run" / "seed-2" / "metrics.jsonl")
    assert together[0]["train/loss"] == read_json_lines(tmp_path / "alone" / "metrics.jsonl")[0]["train/loss"]


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"kind": "pair"}, "data.label_noise.share must be given"),
        ({"share": 1.2}, "data.label_noise.share should be less than or equal to 1, got 1.2"),
        ({"share": 0.2, "kind": "flip"}, "data.label_noise.kind should be 'symmetric' or 'pair', got 'flip'"),
    ],
)
def test_wrong_settings_are_one_line(digits_config, noise, message):
    with pytest.raises(ValueError, match=message):
        config(digits_config, noise)
