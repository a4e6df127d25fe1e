"""The pages are whole, safe to open, and say the numbers of the files."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import understudy.report
from understudy.report import write_run_report, write_study_report
from understudy.report.figures import NUM_COLOURS
from understudy.report.mistakes import write_mistakes

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(2)',
    "{{ 7 * 7 }}",
    "$\\frac{",
    "_hidden",
    "قط",
    "🐈",
    "&amp;",
)


class Page(HTMLParser):
    """Collects what the tests ask about, and fails on tags that do not match."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.ids = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))

    def count(self, tag):
        return sum(1 for name, _ in self.tags if name == tag)


def write_run(path, *, epochs=12, classes=10, final=97.22, offset=0.0, teacher=True, **changes):
    path.mkdir(parents=True)
    rows = []
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        row = {
            "epoch": epoch,
            "lr": 0.05 * 0.1 ** (3 * done),
            "train/loss": 0.2 + 4 * np.exp(-4 * done),
            "train/ce": 0.1 + 2 * np.exp(-4 * done),
            "train/dhkd": 0.1 + 2 * np.exp(-3 * done),
            "train/acc1": offset + 98 * (1 - np.exp(-4 * done)),
            "images_per_second": 12000.0 + 100 * epoch,
        }
        if epoch % 2 == 0:
            row["val/acc1"] = offset + 96 * (1 - np.exp(-4 * done))
        if epoch == epochs:
            row |= {"test/acc1": final, "test/acc5": 99.91}
        rows.append(row)
    generator = np.random.default_rng(0)
    confusion = generator.poisson(0.4, (classes, classes)) + np.diag(generator.integers(30, 45, classes))
    confusion[1, 0] = 23
    result = {
        "format": 1,
        "verb": "distill",
        "status": "finished",
        "name": "dhkd",
        "model": "wrn_16_1",
        "parameters": 172330,
        "epochs": epochs,
        "seconds": 185.2,
        "classes": [f"digit {c}" for c in range(classes)],
        "last": {"epoch": epochs, "val/acc1": 96.0, "test/acc1": final, "test/acc5": 99.91},
        "best": {"epoch": 10, "val/acc1": 96.4, "chosen_on": "val", "test/acc1": 97.5},
        "teacher": {
            "model": "wrn_40_2", "parameters": 2243546,
            "test/acc1": 98.61, "test/acc5": 99.95, "agreement": 97.94,
        }
        if teacher
        else None,
        "confusion": confusion.tolist(),
    } | changes  # fmt: skip
    (path / "config.yaml").write_text(
        "seed: 0\nstudent: {model: wrn_16_1}\nlosses:\n  - {name: ce}\n", encoding="utf-8"
    )
    (path / "environment.json").write_text(
        json.dumps(
            {"python": "3.12.3", "torch": "2.15.0", "threads": 2, "device": {"name": "cpu", "cores": [0, 1]}}
        )
    )
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "result.json").write_text(json.dumps(result))
    return path


def write_study(
    path, *, with_runs=True, seeds=3, names=("teacher", "student alone", "kd", "dhkd"), **changes
):
    path.mkdir(parents=True)
    arms = []
    for i, name in enumerate(names):
        runs = []
        for seed in range(seeds):
            score = 96.0 + 0.5 * i + 0.2 * seed * (1 + i % 2)
            runs.append(
                {"seed": seed, "path": f"runs/{i}-{seed}", "test/acc1": score, "seconds": 30.0 + seed}
            )
            if with_runs:
                write_run(path / f"runs/{i}-{seed}", final=score, offset=0.4 * i + 0.6 * seed)
        arms.append(
            {
                "name": name,
                "model": "wrn_16_1",
                "parameters": 172330,
                "method": f"The method of arm {i}.",
                "runs": runs,
            }
        )
    study = {
        "format": 1,
        "title": "Did it help on digits?",
        "what": "Four arms under one budget.",
        "metric": "test/acc1",
        "seconds": 400.0,
        "arms": arms,
        "verdicts": [
            "dhkd is better than student alone by 1.00 points.",
            "kd and dhkd cannot be told apart.",
        ],
        "config": "study: {methods: [kd, dhkd], seeds: [0, 1, 2]}\n",
    } | changes
    (path / "study.json").write_text(json.dumps(study))
    return path


def read(path):
    return path.read_text(encoding="utf-8")


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def matrix_cells(page):
    return sum(1 for tag, attrs in page.tags if tag == "td" and attrs.get("class") in ("right", "wrong"))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study")


@pytest.fixture(params=["run", "study"])
def html(request, tmp_path):
    """Either page, with every part present."""
    if request.param == "run":
        return read(
            write_run_report(write_run(tmp_path / "run"), write_run(tmp_path / "alone", teacher=False))
        )
    return read(write_study_report(write_study(tmp_path / "study")))


def test_every_tag_is_closed_and_every_identifier_is_used_once(html):
    page = Page(html)
    assert page.count("main") == page.count("h1") == 1
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_from_anywhere(html):
    addresses = [
        v for _, attrs in Page(html).tags for k, v in attrs.items() if k in ("src", "href", "xlink:href")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,", "./")) for address in addresses)
    assert re.search(r"@import|https?://|//[a-z]+\.", html) is None


def test_every_reference_inside_the_page_leads_somewhere(html):
    page = Page(html)
    targets = {attrs["href"][1:] for _, attrs in page.tags if attrs.get("href", "").startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets <= set(page.ids)


def test_only_our_own_script_may_run(html):
    page = Page(html)
    assert page.count("script") == 1
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_pictures_have_a_description_and_no_colour_of_their_own(html):
    pictures = [attrs for tag, attrs in Page(html).tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(pictures) >= 3
    assert all(len(attrs["aria-label"]) > 30 for attrs in pictures)
    drawn = "".join(re.findall(r'<svg viewBox[^>]*role="img".*?</svg>', html, flags=re.DOTALL))
    assert "var(--series-0)" in drawn
    assert re.search(r"#[0-9a-f]{6}\b(?!-)", re.sub(r'"#[^"]*"|url\(#[^)]*\)', "", drawn)) is None


def test_the_same_files_give_the_same_page(run):
    first = read(write_run_report(run))
    assert read(write_run_report(run)) == first


def test_writing_leaves_no_other_file_behind(run):
    before = {file.name for file in run.iterdir()}
    assert write_run_report(run) == run / "report.html"
    assert {file.name for file in run.iterdir()} - before == {"report.html"}


def test_run_page_says_the_numbers_of_the_result(run, tmp_path):
    alone = write_run(tmp_path / "alone", final=96.50, teacher=False, best=None)
    words = Page(read(write_run_report(run, alone))).words()
    for number in (
        "97.22 %",
        "98.61",
        "96.50",
        "99.91",
        "97.50",
        "172,330",
        "2,243,546",
        "97.94 %",
        "3 min 5 s",
    ):
        assert number in words
    assert "0.72 points above the student alone, 1.39 points below the teacher" in words
    assert "13.0 × the student" in words
    assert (
        "epoch 10 had the highest accuracy (96.40 %) on the part of the training set that was held out"
        in words
    )
    assert "understudy distill config.yaml" in words
    assert "device.cores" in words


def test_run_page_names_the_most_confused_pair_first(run):
    words = Page(read(write_run_report(run))).words()
    head = words.index("Share, %")
    assert re.search(r"digit 1 digit 0 23 ", words[head : head + 80])


def test_best_chosen_on_test_is_labelled_so(tmp_path):
    best = {"epoch": 3, "test/acc1": 97.9, "chosen_on": "test"}
    words = Page(read(write_run_report(write_run(tmp_path / "run", best=best)))).words()
    assert "97.90 chosen on test" in words
    assert "optimistic" in words


def test_page_says_so_when_no_epoch_was_chosen(tmp_path):
    words = Page(read(write_run_report(write_run(tmp_path / "run", best=None)))).words()
    assert "no epoch was chosen" in words


def test_without_a_test_set_the_held_out_accuracy_is_the_headline(tmp_path):
    path = write_run(tmp_path / "run", last={"epoch": 12, "val/acc1": 95.55})
    words = Page(read(write_run_report(path))).words()
    assert "95.55 % top-1 accuracy on the held-out part of the training set" in words
    assert "number to quote" not in words


def test_training_alone_gives_the_command_to_train(tmp_path):
    path = write_run(tmp_path / "run", verb="train", teacher=False)
    assert "understudy train config.yaml" in Page(read(write_run_report(path))).words()


def test_the_command_quotes_a_path_once(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "config.yaml").write_text("output: runs/my run\n", encoding="utf-8")
    assert (
        "understudy distill 'runs/my run/config.yaml' output=again"
        in Page(read(write_run_report(path))).words()
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(tmp_path, name):
    path = write_run(tmp_path / "run", name=name, model=name, classes=2, message=name)
    change(path / "result.json", classes=[name, "plain"])
    (path / "config.yaml").write_text(f"# {name}\n", encoding="utf-8")
    (path / "environment.json").write_text(json.dumps({name: name}))
    rows = [json.loads(line) | {f"train/{name}": 0.5} for line in read(path / "metrics.jsonl").splitlines()]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = Page(read(write_run_report(path)))
    assert page.words().count(name) >= 7
    assert page.count("script") == 1
    assert not any(attribute.startswith("on") for _, attrs in page.tags for attribute in attrs)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arms_and_verdicts_are_text(tmp_path, name):
    path = write_study(
        tmp_path / "study", names=("student alone", name), title=name, what=name, verdicts=[name], config=name
    )
    page = Page(read(write_study_report(path)))
    assert page.words().count(name) >= 7
    assert page.count("script") == 1
    assert not any(attribute.startswith("on") for _, attrs in page.tags for attribute in attrs)


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    path = write_run(tmp_path / "run", name="\ud83d half")
    assert "half" in Page(read(write_run_report(path))).words()


@pytest.mark.parametrize("absent", ["config.yaml", "environment.json", "metrics.jsonl", "result.json"])
def test_a_run_without_one_of_its_files_still_has_a_page(run, absent):
    (run / absent).unlink()
    page = Page(read(write_run_report(run)))
    assert page.count("h1") == 1
    assert ("Not finished." in page.words()) == (absent == "result.json")


@pytest.mark.parametrize(
    "key", ["confusion", "teacher", "best", "last", "classes", "parameters", "seconds", "epochs"]
)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_result_without_an_optional_part_still_has_a_page(run, key, how):
    result = json.loads(read(run / "result.json"))
    result |= {key: None}
    if how == "absent":
        del result[key]
    (run / "result.json").write_text(json.dumps(result))
    page = Page(read(write_run_report(run)))
    assert ("97.22 %" in page.words()) == (key != "last")
    assert (matrix_cells(page) == 100) == (key != "confusion")


def test_one_epoch_is_enough_for_curves(tmp_path):
    html = read(write_run_report(write_run(tmp_path / "run", epochs=1)))
    assert Page(html).words().count("after the last of 1 epoch.") == 1
    assert html.count('role="img"') == 3


def test_numbers_that_are_not_finite_are_said_and_not_drawn(run):
    rows = [json.loads(line) for line in read(run / "metrics.jsonl").splitlines()]
    rows[5] |= {
        "train/loss": float("nan"),
        "train/ce": float("inf"),
        "train/acc1": float("-inf"),
        "lr": 1e300,
    }
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    last = {"epoch": 12, "test/acc1": float("nan"), "test/acc5": float("inf")}
    change(
        run / "result.json",
        last=last,
        status="diverged",
        message="loss became NaN in epoch 6",
        seconds=float("nan"),
    )
    html = read(write_run_report(run))
    words = Page(html).words()
    assert "Diverged. loss became NaN in epoch 6" in words
    assert "not a number" in words
    assert "∞" in words
    drawn = "".join(re.findall(r'role="img".*?</svg>', html, flags=re.DOTALL))
    assert re.search(r"\b(nan|inf)\b", drawn, flags=re.IGNORECASE) is None


def test_a_run_of_nothing_but_nan_has_no_curves(run):
    (run / "metrics.jsonl").write_text('{"epoch": 1, "lr": NaN, "train/loss": NaN, "train/ce": null}\n')
    change(run / "result.json", last={}, teacher=None)
    page = Page(read(write_run_report(run)))
    assert not any(attrs.get("role") == "img" for _, attrs in page.tags)
    assert "The test set has not been measured" in page.words()


def test_a_line_cut_short_at_the_end_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 13, "lr": 0.')
    assert "12 epochs" in Page(read(write_run_report(run))).words()


def test_an_epoch_written_twice_counts_once_and_the_later_line_holds(tmp_path):
    path = write_run(tmp_path / "run", epochs=3, teacher=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lr": 0.777}\n')
    words = Page(read(write_run_report(path))).words()
    table = words[words.index("Every epoch") : words.index("On the test set")]
    assert "0.777" in table
    assert "0.0005" not in table  # the rate that the first line of epoch 2 gave


def test_an_accuracy_is_never_drawn_logarithmically(tmp_path):
    html = read(write_run_report(write_run(tmp_path / "run", epochs=100)))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions == ["Training loss", "Accuracy, %", "Learning rate (logarithmic)"]


def test_an_unfinished_run_has_curves_and_no_result(run):
    (run / "result.json").unlink()
    page = Page(read(write_run_report(run)))
    assert sum(attrs.get("role") == "img" for _, attrs in page.tags) == 3
    assert "12 epochs trained" in page.words()
    assert "number to quote" not in page.words()


def test_many_epochs_are_thinned_in_the_table(tmp_path):
    html = read(write_run_report(write_run(tmp_path / "run", epochs=1000)))
    assert "Every 4th epoch, and the last" in html
    assert len(html.encode()) < 1_000_000


@pytest.mark.parametrize(("classes", "pictures"), [(30, 0), (31, 1), (100, 1), (1000, 1)])
def test_many_classes_become_a_picture_and_the_page_stays_small(tmp_path, classes, pictures):
    html = read(write_run_report(write_run(tmp_path / "run", classes=classes)))
    page = Page(html)
    assert page.count("img") == pictures
    assert matrix_cells(page) == (0 if pictures else classes**2)
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")
    assert len(html.encode()) < 1_000_000


def test_a_perfect_student_confuses_nothing(tmp_path):
    path = write_run(tmp_path / "run", confusion=[[5, 0], [0, 5]])
    assert "Not one test image was misclassified." in Page(read(write_run_report(path))).words()


@pytest.mark.parametrize("confusion", [[[1, 2, 3], [4, 5, 6]], [[1], [2, 3]], [["a"]], [1, 2]])
def test_a_malformed_confusion_matrix_is_refused(tmp_path, confusion):
    path = write_run(tmp_path / "run", confusion=confusion)
    with pytest.raises(ValueError, match=r"confusion must be .*Evaluate the run again"):
        write_run_report(path)
    assert not (path / "report.html").exists()


def test_a_folder_that_is_no_run_or_no_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold result.json or metrics.jsonl"):
        write_run_report(tmp_path)
    with pytest.raises(ValueError, match=r"must hold study.json"):
        write_study_report(tmp_path)


def test_an_unfinished_run_alone_is_refused(run, tmp_path):
    alone = write_run(tmp_path / "alone")
    (alone / "result.json").unlink()
    with pytest.raises(ValueError, match=r"alone must be a run with a result.json"):
        write_run_report(run, alone)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("result.json", "{", r"result.json must be JSON"),
        ("result.json", "[1]", r"must hold a JSON object, got list"),
        ("result.json", '{"format": 2}', r"must have format 1, got 2"),
        ("metrics.jsonl", '{"epoch": 1\n{"epoch": 2}\n', r"metrics.jsonl line 1 must be JSON"),
        ("metrics.jsonl", "[3]\n", r"line 1 must be an object with an epoch"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(run, file, text, message):
    (run / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        write_run_report(run)


def test_study_page_opens_with_the_verdict(study):
    words = Page(read(write_study_report(study))).words()
    verdict = words.index("dhkd is better than student alone by 1.00 points.")
    assert verdict < words.index("cannot be told apart") < words.index("Test top-1 accuracy, %; differences")


def test_study_page_says_mean_spread_and_the_difference_seed_by_seed(study):
    words = Page(read(write_study_report(study))).words()
    # student alone: 96.5, 96.9, 97.3; dhkd: 97.5, 97.9, 98.3; kd: 97.0, 97.2, 97.4; 4.3027 = t(2), 97.5 %
    half = 4.302653 * 0.2 / 3**0.5
    assert "student alone 96.90 ± 0.40 – – – 3" in words
    assert f"kd 97.20 ± 0.20 +0.30 ± {half:.2f} 3 of 3 – 3" in words
    assert f"dhkd 97.90 ± 0.40 +1.00 3 of 3 +0.70 ± {half:.2f} 3" in words


def test_study_page_draws_every_seed_and_both_learning_curves(study):
    html = read(write_study_report(study))
    assert len(re.findall(r'id="dots-dot-\d-\d"', html)) == 12
    assert "dhkd, seed 2: 98.30" in html
    assert html.count('role="img"') == 4


def test_study_page_does_without_the_run_folders(tmp_path):
    html = read(write_study_report(write_study(tmp_path / "study", with_runs=False)))
    assert html.count('role="img"') == 2  # differences and seeds need no run folder
    assert "97.90 ± 0.40" in html


def test_one_seed_has_no_spread(tmp_path):
    words = Page(read(write_study_report(write_study(tmp_path / "study", seeds=1)))).words()
    assert "dhkd 97.50 +1.00 1 of 1 +0.50 1 " in words


def test_runs_without_a_score_are_counted_and_left_out_of_the_mean(study):
    content = json.loads(read(study / "study.json"))
    content["arms"][3]["runs"][0]["test/acc1"] = None
    content["arms"][3]["runs"][1]["test/acc1"] = float("nan")
    (study / "study.json").write_text(json.dumps(content))
    words = Page(read(write_study_report(study))).words()
    assert "2 runs without a score." in words
    assert "dhkd 98.30 +1.40 of means – +1.10 of means 1 of 3" in words


@pytest.mark.parametrize(
    "changes", [{"arms": []}, {"verdicts": None}, {"config": None}, {"metric": None}, {"what": None}]
)
def test_a_study_without_an_optional_part_still_has_a_page(tmp_path, changes):
    page = Page(read(write_study_report(write_study(tmp_path / "study", with_runs=False, **changes))))
    assert page.count("h1") == 1
    assert ("No verdict was reached." in page.words()) == ("verdicts" in changes)


def test_runs_link_to_their_own_page_only_inside_the_study(study, tmp_path):
    outside = write_run(tmp_path / "outside")
    write_run_report(outside)
    hostile = write_run(study / "javascript:alert(1)")
    for path in (hostile, study / "runs/0-0"):
        write_run_report(path)
    content = json.loads(read(study / "study.json"))
    content["arms"][0]["runs"][1]["path"] = "../outside"
    content["arms"][0]["runs"][2]["path"] = hostile.name
    (study / "study.json").write_text(json.dumps(content))
    page = Page(read(write_study_report(study)))
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and not attrs["href"].startswith("#")]
    assert links == ["./runs/0-0/report.html", "./javascript%3Aalert%281%29/report.html"]


def test_runs_on_different_machines_are_pointed_out(study):
    change(study / "runs/2-1/environment.json", threads=8)
    assert "They differ in threads." in Page(read(write_study_report(study))).words()


def luminance(colour):
    """Relative luminance of an RGB triple from 0 to 255, as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_the_contrast_that_wcag_asks_for(theme):
    style = read(Path(understudy.report.__file__).with_name("style.css"))
    pairs = re.findall(r"--([\w-]+): light-dark\(#(\w{6}), #(\w{6})\)", style)
    colour = {name: tuple(bytes.fromhex(values[theme])) for name, *values in pairs}
    for ground in ("ground", "panel"):
        assert all(
            contrast(colour[text], colour[ground]) >= 4.5 for text in ("ink", "muted", "accent", "alert")
        )
        assert all(contrast(colour[f"series-{i}"], colour[ground]) >= 3 for i in range(NUM_COLOURS))
    assert all(contrast(colour[text], colour["alert-ground"]) >= 4.5 for text in ("ink", "alert"))
    for square in ("right", "wrong"):  # at full strength 55 % of the colour over the panel
        mixed = [0.55 * c + 0.45 * p for c, p in zip(colour[square], colour["panel"], strict=True)]
        assert contrast(colour["ink"], mixed) >= 4.5


@pytest.mark.parametrize("name", HOSTILE)
def test_figures_are_saved_beside_the_page_with_their_names(tmp_path, name):
    study = write_study(tmp_path / "study", names=("teacher", "student alone", name))
    write_study_report(study, figures=True)
    files = sorted(file.name for file in (study / "figures").iterdir())
    pictures = ("dots", "gaps", "train-acc1", "val-acc1")
    assert files == sorted(f"{picture}.{kind}" for picture in pictures for kind in ("png", "svg"))
    for picture in pictures:
        with Image.open(study / "figures" / f"{picture}.png") as image:
            assert image.width > 800
            assert len(image.convert("L").getcolors(256)) > 10  # something is drawn
        texts = ElementTree.parse(study / "figures" / f"{picture}.svg").getroot().itertext()
        assert name in "".join(texts)


def test_the_values_of_the_curves_are_there_for_the_pointer(run):
    page = Page(read(write_run_report(run)))
    charts = [json.loads(attrs["data-chart"]) for _, attrs in page.tags if "data-chart" in attrs]
    accuracy = charts[1]
    held_out = next(line for line in accuracy["lines"] if line["name"] == "held out")
    assert [epoch for epoch, _ in held_out["points"]] == [2, 4, 6, 8, 10, 12]
    assert held_out["points"][-1][1] == pytest.approx(96 * (1 - np.exp(-4)), rel=1e-5)
    assert 0 < accuracy["left"] < accuracy["right"] < 4.6 * 72


def test_diagnostics_have_curves_and_are_no_loss_terms(run):
    rows = [json.loads(line) for line in read(run / "metrics.jsonl").splitlines()]
    for row in rows:
        row |= {
            "train/lambda": 0.2,
            "train/conflict": 40.0,
            "diagnose/feature_norm": 3.0,
            "diagnose/top_class": 96.0,
        }
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(read(write_run_report(run)))
    charts = [json.loads(attrs["data-chart"]) for _, attrs in page.tags if "data-chart" in attrs]
    assert [line["name"] for line in charts[0]["lines"]] == ["total", "ce", "dhkd"]
    assert len(charts) == 7


def test_mistakes_are_shown_with_both_opinions(run):
    generator = torch.Generator().manual_seed(0)
    target = torch.tensor([0, 1, 2, 3])
    student = torch.zeros(4, 10)
    student[:, 5] = torch.tensor([1.0, 3.0, 2.0, 0.0])
    student[3, 3] = 9.0  # the only one that is right
    teacher = torch.nn.functional.one_hot(target, 10) * 50.0
    images = torch.randint(256, (4, 1, 8, 8), generator=generator, dtype=torch.uint8)
    write_mistakes(run, images, target, student, teacher)
    page = Page(read(write_run_report(run)))
    shown = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [attrs["alt"] for attrs in shown] == [
        f"Test image {i}, which is digit {i}"
        for i in (1, 2, 0)  # the surest first
    ]
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["src"].partition(",")[2])))
    assert np.array_equal(np.asarray(picture), images[1, 0].numpy())
    share = 100 * np.exp(3) / (np.exp(3) + 9)
    assert f"image 1 is digit 1 student digit 5 {share:.0f} %" in page.words()
    assert "teacher digit 1 100 % (right)" in page.words()
    assert "3 test images were misclassified" in page.words()


def test_a_kind_of_mistake_is_shown_three_times_at_most(run):
    logits = torch.nn.functional.one_hot(torch.full((40,), 1), 10) * 5.0
    images = torch.zeros(40, 3, 300, 200, dtype=torch.uint8)
    write_mistakes(run, images, torch.arange(40) % 2 * 2, logits, None)
    page = Page(read(write_run_report(run)))
    shown = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(shown) == 6
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["src"].partition(",")[2])))
    assert picture.size == (85, 128)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_classes_in_mistakes_are_text(run, name):
    change(run / "result.json", classes=[name] * 10)
    write_mistakes(
        run, torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([1]), torch.eye(10)[:1], None
    )
    page = Page(read(write_run_report(run)))
    assert page.count("script") == 1
    assert any(
        attrs.get("alt") == f"Test image 0, which is {name}" for tag, attrs in page.tags if tag == "img"
    )


def test_every_file_beside_the_code_is_of_a_kind_that_is_packaged():
    files = Path(understudy.report.__file__).parent.iterdir()
    beside = {file.suffix for file in files if file.is_file() and file.suffix != ".py"}
    assert beside == {".html", ".css", ".js", ".yaml"}
