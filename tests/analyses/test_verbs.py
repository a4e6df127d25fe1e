"""analyze and evaluate on the command line."""

import json
import sys

import pytest

from understudy.cli import main


@pytest.fixture
def understudy(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_analyze_prints_its_numbers_and_where_the_page_is(understudy, dual, tmp_path):
    command = ("analyze", dual, "--only", "confidence", "--out", tmp_path / "o", "train.eval_batch_size=50")
    status, out, _ = understudy(*command)
    assert status == 0
    stored = json.loads((tmp_path / "o" / "confidence.json").read_text())
    assert f"{stored['numbers']['gap']:.4g}".replace("-", "−") in out
    assert str(tmp_path / "o" / "index.html") in out
    assert understudy(*command, "-q") == (0, "", "")


def test_what_cannot_be_done_is_one_line_and_status_2(understudy, dual, tmp_path):
    for arguments, word in (
        (("analyze", tmp_path), "config.yaml"),
        (("analyze", dual, "--only", "bound"), "srrl"),
        (("analyze", dual, "--only", "tsn"), "'tsne'"),
        (("analyze", dual, "train.epoch=3"), "'train.epoch'"),
    ):
        status, out, err = understudy(*arguments)
        assert (status, out) == (2, "")
        assert word in err
        assert err.count("\n") == 1


def test_evaluate_says_all_it_knows_as_text_and_as_json(understudy, dual):
    status, out, _ = understudy("evaluate", dual, "--json")
    assert status == 0
    numbers = json.loads(out)
    assert {"test/acc1", "test/ece", "test/nll", "teacher/acc1", "agreement", "kl", "loses"} <= set(numbers)
    _, text, _ = understudy("evaluate", dual)
    assert f"{numbers['test/ece']:.2f}%" in text
    assert f"{numbers['kl']:.3f}\n" in text


def test_evaluate_measures_on_corruptions_what_analyze_does(understudy, dual, tmp_path):
    numbers = json.loads(understudy("evaluate", dual, "--corruptions", "--json")[1])
    assert understudy("analyze", dual, "--only", "corruptions", "--out", tmp_path, "-q")[0] == 0
    table = json.loads((tmp_path / "corruptions.json").read_text())["tables"]["levels"]
    for name, kind, *levels in table["rows"]:
        key = "test" if name == "student" else name
        found = [numbers[f"{key}/acc1"]] + [numbers[f"{key}/{kind}-{i}"] for i in range(1, 6)]
        assert found == pytest.approx(levels, abs=0.4)  # the teacher is folded in one: two of 500 may tip


def test_list_says_what_every_analysis_needs(understudy):
    status, out, _ = understudy("list", "analyses")
    assert status == 0
    assert "a study folder" in out
    assert "only where" in out
