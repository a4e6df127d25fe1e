"""Mixup and CutMix: what is mixed with what, by how much, on any number of processes and after a resume."""

import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

import understudy as us
from understudy.config import load_config
from understudy.data import PadCropFlip, load
from understudy.data.loader import TrainLoader
from understudy.data.mix import Mix
from understudy.doctor import doctor
from understudy.engine import loop
from understudy.files import read_json_lines
from understudy.tables import fill

SPLITS = load("digits", val=0.1)
DATA = SPLITS.train.subset(torch.arange(103))


def loader(mix, **options):
    given = {"batch_size": 20, "seed": 4, "mean": SPLITS.mean, "std": SPLITS.std, "mix": mix, **options}
    return TrainLoader(DATA, PadCropFlip(pad=1), **given)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_batch_is_the_plain_one_mixed_with_itself_in_another_order(name):
    plain, mixed = list(loader(None).epoch(3)), list(loader(Mix(name)).epoch(3))
    for step, (before, after) in enumerate(zip(plain, mixed, strict=True)):
        partner = Mix(name).partners(4, 3, step, len(before.target))
        assert partner.sort().values.tolist() == list(range(len(before.target)))
        assert torch.equal(after.partner, before.target[partner])
        for column in ("target", "index", "view"):
            assert torch.equal(getattr(after, column), getattr(before, column))
        x, other = before.images, before.images[partner]
        if name == "mixup":
            expected = after.kept * x.double() + (1 - after.kept) * other.double()
            torch.testing.assert_close(after.images.double(), expected, atol=1e-6, rtol=0)
        else:
            top, bottom, left, right = Mix(name).box(4, 3, step, 8, 8)
            inside = torch.zeros(8, 8, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            assert torch.equal(after.images, torch.where(inside, other, x))
            assert after.kept == pytest.approx(1 - inside.double().mean().item())


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha):
    kept = torch.tensor(
        [Mix("mixup", alpha).kept(0, epoch, 1, 8, 8) for epoch in range(4000)], dtype=torch.float64
    )
    deviation = (1 / (4 * (2 * alpha + 1))) ** 0.5
    assert abs(kept.mean() - 0.5) < 5 * deviation / 4000**0.5
    assert abs(kept.std() - deviation) < 0.05 * deviation
    assert stats.kstest(kept.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_boxes_lie_in_the_image_and_are_as_large_as_the_share_says_where_they_are_not_clipped():
    mix, whole = Mix("cutmix"), 0
    for step in range(500):
        top, bottom, left, right = mix.box(1, 0, step, 32, 48)
        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 48
        kept = mix.kept(1, 0, step, 32, 48)
        assert kept == pytest.approx(1 - (bottom - top) * (right - left) / (32 * 48))
        wanted = mix._share(1, 0, step)
        assert kept >= wanted - 1e-9  # sides are rounded down and clipped
        if top > 0 and left > 0 and bottom < 32 and right < 48:
            whole += 1
            assert kept - wanted < 0.15
    assert whole > 50


def test_some_steps_are_not_mixed_if_asked_for():
    mix = Mix("mixup", probability=0.3)
    kept = [mix.kept(0, 0, step, 8, 8) for step in range(1000)]
    assert 230 < sum(k < 1 for k in kept) < 370
    plain = list(loader(None).epoch(0))
    untouched = [
        (a, b) for a, b in zip(plain, loader(Mix(probability=0.01)).epoch(0), strict=True) if b.kept == 1
    ]
    assert untouched
    assert all(torch.equal(a.images, b.images) for a, b in untouched)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_together_see_the_mixed_batches_of_one_process(name, parts, world):
    alone = list(loader(Mix(name), parts=parts).epoch(1))
    ranks = [list(loader(Mix(name), parts=parts, rank=r, world=world).epoch(1)) for r in range(world)]
    for step, batch in enumerate(alone):
        together = [batches[step] for batches in ranks]
        place = torch.cat([b.index for b in together]).argsort()  # each part is divided
        for column in ("images", "target", "index", "view", "partner"):
            shown = torch.cat([getattr(b, column) for b in together])[place]
            assert torch.equal(shown, getattr(batch, column)[batch.index.argsort()])
        assert {b.kept for b in together} == {batch.kept}


@pytest.mark.parametrize("start", [1, 4, 6])
def test_an_epoch_can_be_entered_at_any_step(start):
    whole, rest = list(loader(Mix()).epoch(2)), list(loader(Mix()).epoch(2, start))
    assert len(rest) == 6 - start
    for a, b in zip(whole[start:], rest, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.partner, b.partner)
        assert a.kept == b.kept


def test_cross_entropy_sees_both_labels():
    torch.manual_seed(0)
    distiller = us.Distiller(us.create_model("cnn_tiny", num_classes=4, in_channels=1).double())
    images, first, second = torch.randn(6, 1, 8, 8).double(), torch.arange(6) % 4, torch.arange(6).flip(0) % 4
    out = distiller.eval()(images, first, partner=second, kept=0.3)
    logs = out.logits.log_softmax(dim=1)
    soft = 0.3 * torch.eye(4).double()[first] + 0.7 * torch.eye(4).double()[second]
    torch.testing.assert_close(out.loss, -(soft * logs).sum(dim=1).mean())


def config(digits_config, mix, **changes):
    return load_config(digits_config | {"data": digits_config["data"] | {"mix": mix}}, changes)


def test_train_accuracy_is_that_on_the_label_with_the_larger_share(digits_config, monkeypatch):
    seen, add = [], loop.Meters.add

    def noted(self, loss, terms, logits, target, weight=None):
        seen.append((logits.argmax(dim=1), target))
        add(self, loss, terms, logits, target, weight)

    monkeypatch.setattr(loop.Meters, "add", noted)
    run = us.distill(config(digits_config, {"name": "mixup"}), quiet=True, **{"train.epochs": 1})
    data = load("digits", limit=160, val=0.1)
    batches = TrainLoader(
        data.train, PadCropFlip(1, False), batch_size=32, seed=3, mean=data.mean, std=data.std, mix=Mix()
    )
    for (_, target), batch in zip(seen, batches.epoch(0), strict=True):
        assert torch.equal(target, batch.target if batch.kept >= 0.5 else batch.partner)
    right = sum(int((p == t).sum()) for p, t in seen)
    line = read_json_lines(run.path / "metrics.jsonl")[0]
    assert line["train/acc1"] == pytest.approx(100 * right / 160)


def test_a_stopped_run_resumes_to_the_same_bits_and_says_what_mixing_means(digits_config, monkeypatch):
    wanted = config(digits_config, {"name": "cutmix"})
    whole = us.distill(wanted, quiet=True)
    assert whole.config.teacher.table == "off"
    log = (whole.path / "train.log").read_text()
    assert "images are mixed (cutmix, alpha 1); the teacher sees them" in log
    assert "train accuracy is that on the label with the larger share" in log
    step, done = loop._forward_backward, []

    def counted(job, *rest):
        step(job, *rest)
        done.append(1)
        if len(done) == 7:
            job.stop.set()

    monkeypatch.setattr(loop, "_forward_backward", counted)
    with pytest.raises(us.InterruptedRunError):
        us.distill(wanted, quiet=True, output=f"{whole.path}-stopped")
    run = us.resume(f"{whole.path}-stopped", quiet=True)
    expected = load_file(whole.path / "student.safetensors")
    found = load_file(run.path / "student.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("mix", "changes", "message"),
    [
        ({"name": "mixup"}, {"losses": [{"name": "ce"}, {"name": "crd"}]}, "term 'crd' must see one label"),
        ({"name": "mixup"}, {"teacher.table": "t"}, "teacher.table must be off where images are mixed"),
        ({"name": "mixup", "alpha": 0}, {}, "data.mix.alpha should be greater than 0, got 0"),
        ({"name": "mix"}, {}, "data.mix.name should be 'mixup' or 'cutmix', got 'mix'"),
        ({"alpha": 1}, {}, "data.mix.name must be given"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(digits_config, mix, changes, message):
    with pytest.raises(ValueError, match=message):
        us.distill(config(digits_config, mix, **changes), quiet=True)


def test_tools_know_that_no_table_keeps_mixed_images(digits_config):
    wanted = config(digits_config, {"name": "mixup"}, **{"train.ema": None})
    found = {f["check"]: f for f in doctor(wanted, quiet=True)["findings"]}
    assert found["table"]["figures"] == {"possible": False}
    assert "images are mixed" in found["table"]["text"]
    with pytest.raises(
        ValueError, match="a table must be of views that come again, got a config where images"
    ):
        fill(wanted, quiet=True)
