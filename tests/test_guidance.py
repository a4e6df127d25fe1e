"""Teachers in a job: folded, in blocks, remembered; and that none of it changes what is learnt."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import understudy as us
from understudy.config import load_config
from understudy.engine import loop
from understudy.guidance import tables_folder
from understudy.side_by_side import _alone
from understudy.study import _single
from understudy.teacher.auto import expected_hits
from understudy.teacher.table import ViewTable
from understudy.tune import _base

KD = [{"name": "ce"}, {"name": "kd"}]


def weights(run):
    return load_file(run.path / "student.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def job(digits_config, tmp_path):
    """Runs the small job under changes; each into a folder of its own."""
    count = iter(range(100))

    def run(**changes):
        return us.distill(
            digits_config, quiet=True, **{"output": str(tmp_path / f"run-{next(count)}"), **changes}
        )

    return run


@pytest.mark.parametrize(
    "losses", [KD, [{"name": "ce"}, {"name": "dino"}], [{"name": "ce"}, {"name": "dhkd"}]]
)
def test_a_table_changes_no_bit(job, tmp_path, losses):
    plain = job(losses=losses, **{"teacher.table": "off"})
    cold = job(losses=losses, **{"teacher.table": str(tmp_path / "table")})
    warm = job(losses=losses, **{"teacher.table": str(tmp_path / "table")})
    memory = job(losses=losses, **{"teacher.table": "memory"})
    assert same(weights(plain), weights(cold))
    assert same(weights(plain), weights(warm))
    assert same(weights(plain), weights(memory))
    assert warm.metrics["teacher"]["images_forwarded"] == 0
    assert 0 < cold.metrics["teacher"]["images_forwarded"] < plain.metrics["teacher"]["images_forwarded"]


def test_logits_that_follow_from_a_kept_feature_are_the_same_up_to_rounding(job, tmp_path):
    losses = [*KD, {"name": "dino"}]
    plain = job(losses=losses, **{"teacher.table": "off"})
    kept = job(losses=losses, **{"teacher.table": str(tmp_path / "table")})
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(kept)[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_run_that_stops_and_goes_on_uses_its_table_to_the_same_bits(
    job, digits_config, tmp_path, monkeypatch
):
    changes = {"losses": KD, "teacher.table": str(tmp_path / "table")}
    whole = job(losses=KD, **{"teacher.table": "off"})
    step, steps = loop._forward_backward, [0]

    def counted(job, *rest):
        step(job, *rest)
        steps[0] += 1
        if steps[0] == 5:
            job.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", counted)
        with pytest.raises(us.InterruptedRunError):
            us.distill(digits_config, quiet=True, output=str(tmp_path / "stopped"), **changes)
    resumed = us.resume(tmp_path / "stopped", quiet=True)
    assert same(weights(whole), weights(resumed))


def test_the_lock_of_a_table_is_given_back_when_a_run_fails(job, tmp_path, monkeypatch):
    def dies(*arguments):
        raise RuntimeError("our fault")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", dies)
        with pytest.raises(RuntimeError, match="our fault"):
            job(losses=KD, **{"teacher.table": str(tmp_path / "table")})
    held = []
    close = ViewTable.close
    monkeypatch.setattr(ViewTable, "close", lambda table: (held.append(table.writable), close(table)))
    job(losses=KD, **{"teacher.table": str(tmp_path / "table")})
    assert held == [True]


def test_a_table_of_another_teacher_is_refused(job, tmp_path):
    table = {"losses": KD, "teacher.table": str(tmp_path / "table")}
    job(**table)
    with pytest.raises(
        ValueError, match="must belong to this teacher and these data, got one with other views"
    ):
        job(**table, **{"data.augment": {"pad": 2, "flip": False}})
    with pytest.raises(ValueError, match="other architecture, weights"):
        job(**table, **{"teacher.model": "cnn_tiny", "teacher.weights": None})


def test_maps_cannot_be_kept(job, tmp_path):
    losses = [{"name": "ce"}, {"name": "at"}]
    with pytest.raises(ValueError, match=r"teacher.table must be off where a term reads maps \(stage_\*\)"):
        job(losses=losses, **{"teacher.table": str(tmp_path / "table")})
    assert not (tmp_path / "table").exists()
    run = job(losses=losses)
    assert run.config.teacher.table == "off"


def test_auto_is_chosen_once_and_written_down(job, digits_config, tmp_path):
    first = job(losses=KD, **{"train.epochs": 4})
    chosen = first.config.teacher.table
    assert chosen.startswith(str(tmp_path / "tables"))
    assert load_config(first.path / "config.yaml").teacher.table == chosen
    assert expected_hits(4, 9) > 0.1
    again = job(losses=KD, **{"train.epochs": 4})
    assert again.config.teacher.table == chosen
    assert again.metrics["teacher"]["images_forwarded"] == 0
    short = job(losses=KD, **{"train.epochs": 1, "teacher.tables": str(tmp_path / "none")})
    assert short.config.teacher.table == "off"
    assert "no table" in (short.path / "train.log").read_text()


def test_a_teacher_that_no_longer_counts_is_asked_no_more(job, tmp_path):
    losses = [{"name": "ce"}, {"name": "kd", "weight": {"until_epoch": 1}}]
    run = job(losses=losses, **{"teacher.table": "memory", "train.epochs": 3})
    images = run.metrics["teacher"]["images_forwarded"]
    assert 144 <= images < 144 + 64


def test_parts_of_a_batch_are_shown_their_own_answers(job, tmp_path):
    changes = {"losses": KD, "train.accumulate": 3, "student.model": "mlp_tiny"}
    try:
        plain = job(**changes, **{"teacher.table": "off"})
    except ValueError:
        changes["student.model"] = "cnn_tiny"
        plain = job(**changes, **{"teacher.table": "off"})
    kept = job(**changes, **{"teacher.table": "memory"})
    assert same(weights(plain), weights(kept))


def test_several_teachers_have_a_table_each(digits_config, tmp_path):
    config = {k: v for k, v in digits_config.items() if k != "teacher"}
    teacher = digits_config["teacher"]
    config["teachers"] = {name: {**teacher, "table": str(tmp_path / name)} for name in ("a", "b")}
    config["losses"] = [{"name": "ce"}, {"name": "kd", "teacher": "a"}, {"name": "dino", "teacher": "b"}]
    run = us.distill(config, quiet=True)
    assert run.metrics["teacher"]["images_forwarded"] > 0
    parts = [json.loads((tmp_path / n / "meta.json").read_text())["parts"]["stored"] for n in ("a", "b")]
    assert parts[0].startswith("logits")
    assert parts[1].startswith("feature")


def test_a_full_disk_ends_the_table_and_not_the_run(job, tmp_path, monkeypatch):
    plain = job(losses=KD, **{"teacher.table": "off"})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ViewTable, "write", full)
    run = job(losses=KD, **{"teacher.table": str(tmp_path / "table")})
    assert same(weights(plain), weights(run))
    log = (run.path / "train.log").read_text()
    assert log.count("the teacher's answers are no longer kept: No space left on device") == 1


def test_precision_is_settled_at_the_start(job):
    assert job(losses=KD, **{"train.epochs": 1}).config.teacher.precision == "fp32"
    assert (
        job(losses=KD, **{"train.epochs": 1, "teacher.precision": "bf16"}).config.teacher.precision == "bf16"
    )
    chosen = job(losses=KD, **{"train.epochs": 1, "train.precision": "bf16"})
    assert chosen.config.teacher.precision in ("fp32", "bf16")
    assert "the teacher runs in" in (chosen.path / "train.log").read_text()


def test_the_arms_and_seeds_of_a_study_share_one_table(digits_config, tmp_path):
    config = {
        **digits_config,
        "study": {"methods": ["kd", "dkd"], "seeds": [0, 1]},
        "train": digits_config["train"] | {"epochs": 2},
    }
    us.study(config, quiet=True, output=str(tmp_path / "study"))
    forwarded = [
        json.loads(path.read_text())["teacher"]["images_forwarded"]
        for arm in ("kd", "dkd")
        for path in sorted((tmp_path / "study" / arm).glob("seed-*/result.json"))
    ]
    assert len(forwarded) == 4
    assert forwarded[0] > 0
    assert forwarded[1:] == [0, 0, 0]


def test_whatever_is_run_in_a_folder_looks_for_tables_beside_it(digits_config, tmp_path):
    """So what `table fill` computes is what runs, several seeds, studies and searches of the config find."""
    config = load_config(digits_config)
    beside = str(tmp_path / "tables")
    assert str(tables_folder(config.teacher, Path(config.output))) == beside
    for one in (_alone(config, 0), _single(config), _base(config)):
        assert one.teacher.tables == beside


@pytest.mark.parametrize("workers", [1, 2])
def test_auto_counts_the_runs_of_a_study_that_ask_alike(digits_config, tmp_path, workers):
    def tables(name, methods):
        plan = {"methods": methods, "seeds": [0]}
        config = digits_config | {"study": plan, "train": digits_config["train"] | {"epochs": 2}}
        us.study(config, workers=workers, quiet=True, output=str(tmp_path / name))
        files = [tmp_path / name / method / "seed-0" / "config.yaml" for method in methods]
        return [load_config(file).teacher.table for file in files]

    assert expected_hits(2, 9) < 0.1 < expected_hits(2, 9, runs=2)
    assert tables("lonely", ["kd", "at"]) == ["off", "off"]
    logits, at, same, feature = tables("shared", ["kd", "at", "dkd", "kd++"])
    assert logits == same != "off"
    assert at == feature == "off"


def test_verbs_of_the_table(digits_config, tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump({**digits_config, "losses": KD}))

    def verb(action, *changes):
        done = subprocess.run(
            [sys.executable, "-m", "understudy", "table", action, str(config), *changes],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    table = f"teacher.table={tmp_path / 'table'}"
    assert verb("info", table)[0] == 2
    assert verb("info", "teacher.table=off") == (
        2,
        "understudy: teacher.table must be auto or a folder, got off. "
        "Set teacher.table to where the answers are kept\n",
    )
    code, text = verb("fill", table)
    assert code == 0, text
    assert "100" in text
    code, text = verb("verify", table)
    assert code == 0, text
    assert "sound" in text
    code, text = verb("info", table)
    assert code == 0, text
    assert "logits 10" in text
    rows = tmp_path / "table" / "rows-0.bin"
    damaged = bytearray(rows.read_bytes())
    damaged[100] ^= 1
    rows.write_bytes(damaged)
    code, text = verb("verify", table)
    assert code == 2
    assert "1 damaged" in text
    assert verb("remove", table)[0] == 0
    assert not (tmp_path / "table").exists()
    assert verb("paint", table)[0] == 2


def test_endless_views_are_kept_only_where_their_number_is_fixed(job, tmp_path):
    crop = {"name": "resized_crop", "scale": [0.5, 1.0]}
    plain = job(losses=KD, **{"data.augment": crop})
    assert plain.config.teacher.table == "off"
    with pytest.raises(ValueError, match=r"must be off where no view comes again, got .*data.augment.fixed"):
        job(losses=KD, **{"data.augment": crop, "teacher.table": str(tmp_path / "table")})
    fixed = {"losses": KD, "data.augment": {**crop, "fixed": 3}}
    kept = job(**fixed, **{"teacher.table": str(tmp_path / "table")})
    assert same(weights(kept), weights(job(**fixed, **{"teacher.table": "off"})))
    again = job(**fixed, **{"teacher.table": str(tmp_path / "table")})
    assert again.metrics["teacher"]["images_forwarded"] == 0
    assert "each image is shown in 3 fixed views" in (again.path / "train.log").read_text()
