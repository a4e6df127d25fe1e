"""Several seeds under one teacher: each is the student it would be on its own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import understudy as us
from understudy.engine import loop
from understudy.engine.lockstep import Member, in_lockstep
from understudy.teacher.blocks import Blocks


def weights(folder):
    return load_file(Path(folder) / "student.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def config(digits_config, tmp_path):
    """The small job under a teacher with weights; ``crd`` draws random numbers in every step."""
    torch.manual_seed(1)
    teacher = us.create_model("cnn_small", num_classes=10, in_channels=1)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    return {
        **digits_config,
        "data": digits_config["data"] | {"seed": 5},
        "teacher": {"model": "cnn_small", "weights": str(tmp_path / "teacher.safetensors")},
        "losses": [{"name": "ce"}, {"name": "dhkd", "head": "mlp"}, {"name": "crd"}],
        "gradients": {"align": "none"},
    }


def alone(config, tmp_path, seed, **changes):
    return us.distill(config, quiet=True, seed=seed, output=str(tmp_path / f"alone-{seed}"), **changes)


def test_every_seed_is_bit_for_bit_the_student_it_is_alone(config, tmp_path):
    together = us.distill(config, quiet=True, **{"train.seeds": [3, 0, 7], "output": str(tmp_path / "all")})
    for seed in (3, 0, 7):
        assert same(weights(tmp_path / "all" / f"seed-{seed}"), weights(alone(config, tmp_path, seed).path))
    assert not same(weights(tmp_path / "all" / "seed-3"), weights(tmp_path / "all" / "seed-7"))
    table = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert [line["seed"] for line in table["seeds"]] == [3, 0, 7]
    assert table == together.metrics
    scores = [line["test/acc1"] for line in table["seeds"]]
    assert table["mean"] == pytest.approx(sum(scores) / 3)


def test_the_teacher_is_asked_once_for_all(config, tmp_path, monkeypatch):
    counts = []
    block = Blocks._block
    monkeypatch.setattr(Blocks, "_block", lambda *args: (counts.append(1), block(*args))[1])
    changes = {"losses": [{"name": "ce"}, {"name": "kd"}], "teacher.table": "off"}
    us.distill(config, quiet=True, output=str(tmp_path / "one"), **changes)
    one = len(counts)
    us.distill(
        config, quiet=True, output=str(tmp_path / "five"), **changes, **{"train.seeds": [0, 1, 2, 3, 4]}
    )
    assert len(counts) == 2 * one


@pytest.mark.parametrize("stop_after", [2, 8])
def test_seeds_that_were_stopped_go_on_to_the_same_bits(config, tmp_path, monkeypatch, stop_after):
    changes = {"train.seeds": [0, 1], "output": str(tmp_path / "stopped")}
    step, steps = loop._forward_backward, [0]

    def counted(job, *rest):
        step(job, *rest)
        steps[0] += 1
        if steps[0] == stop_after:
            job.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", counted)
        with pytest.raises(us.InterruptedRunError):
            us.distill(config, quiet=True, **changes)
    us.resume(tmp_path / "stopped", quiet=True)
    for seed in (0, 1):
        assert same(
            weights(tmp_path / "stopped" / f"seed-{seed}"), weights(alone(config, tmp_path, seed).path)
        )


def test_seeds_go_on_with_the_threads_they_began_with(config, tmp_path, monkeypatch):
    config["train"] |= {"threads": None}
    step, seen = loop._forward_backward, []

    def counted(job, *rest):
        step(job, *rest)
        seen.append(torch.get_num_threads())
        if len(seen) == 4:
            job.stop.set()

    before = torch.get_num_threads()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_forward_backward", counted)
            torch.set_num_threads(1)
            with pytest.raises(us.InterruptedRunError):
                us.distill(config, quiet=True, **{"train.seeds": [0, 1], "output": str(tmp_path / "stopped")})
            torch.set_num_threads(2)
            us.resume(tmp_path / "stopped", quiet=True)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_one_seed_can_be_resumed_alone_and_the_others_catch_up(config, tmp_path, monkeypatch):
    step, steps = loop._forward_backward, [0]

    def counted(job, *rest):
        step(job, *rest)
        steps[0] += 1
        if steps[0] == 4:
            job.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", counted)
        with pytest.raises(us.InterruptedRunError):
            us.distill(config, quiet=True, **{"train.seeds": [0, 1], "output": str(tmp_path / "stopped")})
    us.resume(tmp_path / "stopped" / "seed-1", quiet=True)
    us.resume(tmp_path / "stopped", quiet=True)
    for seed in (0, 1):
        assert same(
            weights(tmp_path / "stopped" / f"seed-{seed}"), weights(alone(config, tmp_path, seed).path)
        )
    with pytest.raises(ValueError, match="must not hold finished runs"):
        us.resume(tmp_path / "stopped", quiet=True)


def test_a_seed_that_diverges_does_not_keep_the_others(config, tmp_path, monkeypatch):
    step = loop._forward_backward

    def spoiled(job, *rest):
        step(job, *rest)
        if job.seed == 1 and job.epoch == 1:
            job.distiller.trainable_parameters()[0].grad.fill_(float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", spoiled)
        with pytest.raises(us.DivergedError, match="epoch 2"):
            us.distill(config, quiet=True, **{"train.seeds": [0, 1, 2], "output": str(tmp_path / "all")})
    states = [
        json.loads((tmp_path / "all" / f"seed-{s}" / "result.json").read_text())["status"] for s in range(3)
    ]
    assert states == ["finished", "diverged", "finished"]
    table = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert [line["seed"] for line in table["seeds"]] == [0, 2]
    assert table["diverged"] == [1]
    scores = [line[table["metric"]] for line in table["seeds"]]
    assert table["mean"] == pytest.approx(sum(scores) / 2)


def test_seeds_that_were_resumed_one_by_one_are_summed_up(config, tmp_path):
    options = {"train.seeds": [0, 1], "output": str(tmp_path / "all")}
    us.train(config, quiet=True, **options)
    table = (tmp_path / "all" / "seeds.json").read_text()
    (tmp_path / "all" / "seeds.json").unlink()
    with pytest.raises(ValueError, match="summed up now"):
        us.train(config, quiet=True, **options)
    assert (tmp_path / "all" / "seeds.json").read_text() == table
    with pytest.raises(ValueError, match="must not hold finished runs"):
        us.train(config, quiet=True, **options)


def test_a_config_in_the_output_folder_is_left_as_its_author_wrote_it(config, tmp_path):
    folder = tmp_path / "all"
    folder.mkdir()
    job = us.load_config(config, {"train.seeds": [0, 1], "output": str(folder)})
    (folder / "config.yaml").write_text("# mine\n" + job.yaml())
    us.distill(folder / "config.yaml", quiet=True)
    assert (folder / "config.yaml").read_text().startswith("# mine")


def test_students_alone_can_go_side_by_side_too(config, tmp_path):
    us.train(config, quiet=True, **{"train.seeds": [0, 1], "output": str(tmp_path / "all")})
    solo = us.train(config, quiet=True, seed=1, output=str(tmp_path / "solo"))
    assert same(weights(tmp_path / "all" / "seed-1"), weights(solo.path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.seeds": [0, 0]}, r"train.seeds must be different numbers from 0 up, got \[0, 0\]"),
        ({"train.seeds": [0, 1], "teacher.weights": None}, "teacher must have weights for several seeds"),
        (
            {"train.seeds": [0, 1], "teacher": {"model": "fcn_resnet18", "pretrained": True}},
            "teacher must have weights for several seeds",
        ),
        (
            {"train.seeds": [0, 1], "train.trackers": ["tensorboard", "mlflow"]},
            "must be tensorboard where train.seeds is",
        ),
        ({"train.seeds": [0, 1], "generations": 2}, "must not stand beside assistants or generations"),
    ],
)
def test_what_cannot_go_side_by_side_is_refused(config, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        us.distill(config, quiet=True, output=str(tmp_path / "all"), **changes)
    assert not (tmp_path / "all").exists()


def test_random_numbers_between_turns_do_not_reach_the_others():
    class Draws:
        def __init__(self, seed):
            torch.manual_seed(seed)
            self.device, self.epoch, self.step, self.drawn = torch.device("cpu"), 0, 0, []

    def steps(job):
        for _ in range(3):
            job.drawn.append(float(torch.rand(())))
            job.step += 1
            yield

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr("understudy.engine.lockstep.steps", steps)
        members = []
        for seed in (0, 1):
            members.append(Member(Draws(seed)))
        before = torch.get_rng_state()
        assert len(list(in_lockstep(members))) == 2
        assert torch.equal(torch.get_rng_state(), before)  # nor whoever has them take turns
        for seed, member in enumerate(members):
            torch.manual_seed(seed)
            assert member.job.drawn == [float(torch.rand(())) for _ in range(3)]
