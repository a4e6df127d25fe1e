from types import SimpleNamespace

import numpy as np
import pytest

from understudy.teacher import auto
from understudy.teacher.auto import auto_table, expected_hits
from understudy.teacher.fingerprint import Fingerprint
from understudy.teacher.layout import Layout

CIFAR = Layout(50_000, 162, (("logits", 100),), "fp32")
PRINT = Fingerprint({"weights": "w"})


def with_free(monkeypatch, gib):
    monkeypatch.setattr(auto.shutil, "disk_usage", lambda path: SimpleNamespace(free=gib * 2**30))


def test_a_long_run_gets_a_folder_named_by_the_fingerprint(monkeypatch, tmp_path):
    with_free(monkeypatch, 100)
    path, note = auto_table(CIFAR, PRINT, tmp_path / "runs" / "tables", epochs=240)
    assert path == tmp_path / "runs" / "tables" / PRINT.digest[:16]
    assert "48% will be reused" in note
    assert not (tmp_path / "runs").exists()
    other, _ = auto_table(CIFAR, Fingerprint({"weights": "v"}), tmp_path / "runs" / "tables", epochs=240)
    assert other != path


def test_a_short_run_gets_none_unless_others_share_it(monkeypatch, tmp_path):
    with_free(monkeypatch, 100)
    assert auto_table(CIFAR, PRINT, tmp_path, epochs=5)[0] is None
    path, note = auto_table(CIFAR, PRINT, tmp_path, epochs=5, runs=2)
    assert path is not None
    assert "51% will be reused" in note


def test_a_table_that_is_there_is_used_by_a_short_run(monkeypatch, tmp_path):
    with_free(monkeypatch, 0)
    path = tmp_path / PRINT.digest[:16]
    path.mkdir()
    (path / "meta.json").write_text("{}")
    assert auto_table(CIFAR, PRINT, tmp_path, epochs=1)[0] == path


def test_a_disk_that_is_too_small_gets_none_and_a_hint(monkeypatch, tmp_path):
    with_free(monkeypatch, 6)
    path, note = auto_table(CIFAR, PRINT, tmp_path, epochs=240)
    assert path is None
    assert "3.1 GiB" in note
    assert "table_dtype=fp16" in note
    half = Layout(50_000, 162, (("logits", 100),), "fp16")
    assert auto_table(half, PRINT, tmp_path, epochs=240)[0] is not None


@pytest.mark.parametrize(("runs", "share"), [(1, 0.478), (2, 0.680), (5, 0.865)])
def test_expected_hits_over_runs_of_240_epochs_with_views_of_their_own(runs, share):
    assert expected_hits(240 * runs, 162) == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("views", [1, 3, 162])
@pytest.mark.parametrize(("epochs", "runs"), [(1, 1), (1, 3), (7, 1), (7, 4)])
def test_expected_hits_are_those_of_runs_that_draw_the_same_views(views, epochs, runs):
    drawn = np.random.default_rng(0).integers(views, size=(2000, epochs))
    distinct = np.mean([len(np.unique(image)) for image in drawn])
    assert expected_hits(epochs, views, runs) == pytest.approx(1 - distinct / (epochs * runs), abs=0.01)
