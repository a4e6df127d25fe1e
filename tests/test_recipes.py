"""Recipes: every row is a valid study, the budgets are the surveyed ones, and every printed cell has its arm."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

import understudy as us
from understudy import cli, listing
from understudy.methods.term import build_terms
from understudy.models import backbone_alone
from understudy.recipes import (
    Paper,
    _matters,
    _papers,
    _read,
    departures,
    find_recipe,
    images_trained,
    recipe_names,
)
from understudy.recipes.overview import arms_of, recipe_table, total_images
from understudy.report.published import Published, _tables, cells
from understudy.reproduce import _given, _known

SURVEY = Path(__file__).parents[2] / "shared" / "recipes.yaml"
LOST = {"dhkd.table2", "dhkd.table5", "dhkd.table7", "dhkd.table9"}
PICTURES = {"kdpp.fig2", "kdpp.fig_a3"}  # CIFAR-10: pairs without printed numbers
LISTED_ONLY = {  # and why: cannot, or a key of the config that other versions have
    "dhkd.appendix_i": "measures time",
    "dkd.table13": "probe of finished runs",
    "dkd.table_a2": "trains nothing",
}
DETECTION = {"dkd.table10", "kdpp.table3"}  # surveyed in steps, not in epochs
UNUSED = {  # printed cells that no arm stands for
    "dkd.table5": 2,  # halves of the images
    "dkd.table10": 9,  # fitnet
    "kdpp.table3": 9,
    "dhkd.table8": 6,  # binarykl at its best temperature
    "dhkd.fig6": 1,  # the auxiliary head
    "dkd.table8": 2,  # kd, quoted: the authors' own run is taken
    "dkd.table9": 2,
    "dkd.alpha": 4,  # headers lost
    "dkd.beta": 4,
    "kdpp.table5": 6,  # kd+l2_weights
    "ijckd.table3": 1,  # ce + sr is the same run as ce 1
}
ROWS = {name: find_recipe(name)[0].rows() for name in recipe_names()}
EVERY = [(name, row) for name, rows in ROWS.items() for row in rows]
RUNNABLE = [(name, row) for name, row in EVERY if row.config is not None]


@pytest.fixture(scope="module")
def survey():
    if not SURVEY.is_file():
        pytest.skip(f"no survey of the papers' recipes at {SURVEY}")
    entries = yaml.safe_load(SURVEY.read_text("utf-8"))["recipes"]
    found = {entry["id"]: entry for entry in entries}
    for entry in entries:
        if "extends" in entry:
            entry["fields"] = {**found[entry["extends"]]["fields"], **entry["fields"]}
    return found


def best(entry):
    """What a reproduction takes: the paper's value, and the code's where the paper says nothing."""
    return entry["code"] if entry["paper"] is None else entry["paper"]


def test_every_table_of_the_papers_is_a_recipe():
    assert set(recipe_names()) == set(_tables()) | LOST | PICTURES


@pytest.mark.parametrize(("name", "row"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_every_row_is_a_valid_study_or_says_why_not(name, row):
    if row.config is None:
        reason = LISTED_ONLY.get(name)
        needed = find_recipe(name)[0].table.needs
        assert reason in row.refusal if reason else any(key in row.refusal for key in needed)
        with pytest.raises(ValueError, match="cannot be run"):
            row.job()
        return
    assert name not in LISTED_ONLY
    arms = arms_of(row.config)
    assert len(arms) == len(row.config.study.methods) > 0
    for arm in arms:
        assert any(term.name != "ce" for term in build_terms(arm.losses)), arm.name
    job = row.teacher_job()
    guide = row.config.teacher
    assert (job is None) == (guide.pretrained and not backbone_alone(guide.model))
    if job is not None:
        assert job.student.model == row.config.teacher.model
        assert job.train.optimizer.lr == find_recipe(name)[0].budget.train["optimizer"]["lr"]


def test_every_network_of_a_recipe_can_be_made():
    names = {c.model for _, row in RUNNABLE for c in (row.config.teacher, row.config.student)}
    assert len(names) > 20
    with torch.device("meta"):
        for name in names:
            if name.startswith("timm/"):
                timm = pytest.importorskip(
                    "timm", reason="timm is not installed; its two teachers are unchecked"
                )
                assert name.removeprefix("timm/") in (*timm.list_models(), *timm.list_pretrained())
            else:
                us.create_model(name, 100)


OWN = [name for name in recipe_names() if name in _tables() and name in {name for name, _ in RUNNABLE}]


@pytest.mark.parametrize("name", OWN)
def test_every_printed_cell_has_its_arm(name):
    rows, table = ROWS[name], _tables()[name]
    pairs = {(row.teacher, row.student) for row in rows}
    assert pairs == {
        tuple(row.get(key, table.get(key)) for key in ("teacher", "student")) for row in table["rows"]
    }
    left = 0
    for pair in pairs:  # a variant takes its own cells, so those of a pair are taken by all of its rows
        taken = [
            printed.cell
            for row in rows
            if (row.teacher, row.student) == pair
            for found in row.printed.values()
            for printed in found
        ]
        left += sum(cell not in taken for cell in cells(name, *pair))
    assert left == UNUSED.get(name, 0)


@pytest.mark.parametrize("name", OWN)
def test_every_arm_has_its_printed_cell(name):
    recipe, _ = find_recipe(name)
    assert recipe.row_names == [row.name for row in ROWS[name]]
    silent = {arm.name for arm in recipe.table.arms if arm.unpublished is not None}
    for row in ROWS[name]:
        without = {arm.name for arm in arms_of(row.config) if not row.printed.get(arm.name)}
        illegible = {"reviewkd++"} if row.teacher == "resnet152" and name == "kdpp.table_b2" else set()
        assert without == silent | illegible, row.name


FIELDS = {
    "epochs": lambda b: b.train["epochs"],
    "batch_size": lambda b: b.train["batch_size"],
    "optimizer": lambda b: b.train["optimizer"]["name"],
    "momentum": lambda b: b.train["optimizer"]["momentum"],
    "nesterov": lambda b: b.train["optimizer"]["nesterov"],
    "weight_decay": lambda b: b.train["optimizer"]["weight_decay"],
    "lr": lambda b: b.train["optimizer"]["lr"],
    "lr_standard": lambda b: b.train["optimizer"]["lr"],
    "lr_light": lambda b: b.lr_light,
    "lr_milestones": lambda b: b.train["schedule"]["milestones"],
    "lr_gamma": lambda b: b.train["schedule"]["gamma"],
    "lr_warmup_epochs": lambda b: b.train["schedule"].get("warmup_epochs", 0),
}


@pytest.mark.parametrize("name", recipe_names())
def test_a_budget_is_the_surveyed_one_field_by_field(survey, name):
    recipe, _ = find_recipe(name)
    if recipe.budget.survey is None:
        assert name in PICTURES
        return
    entry = survey[recipe.budget.survey]
    if name not in LOST | {"dkd.table13"}:
        assert name in entry["tables"] or "vit" in str(recipe.table.pairs)
    dataset, fields = entry["dataset"], entry["fields"]
    assert recipe.budget.data["name"] == dataset
    compared = [field for field in FIELDS if field in fields]
    assert len(compared) >= (3 if name in DETECTION else 9)
    for field in compared:
        if name in DETECTION and field == "lr_milestones":
            steps = [118287 * epochs / 8 for epochs in FIELDS[field](recipe.budget)]
            assert steps == pytest.approx(best(fields[field]), rel=0.03)  # whole epochs
            continue
        assert FIELDS[field](recipe.budget) == best(fields[field]), field
    if "trials" in fields and name in ("dkd.table6", "dkd.table7", "dkd.table8", "dkd.table9"):
        assert recipe.table.seeds == best(fields["trials"])
    trials = _tables().get(name, {}).get("trials")
    assert recipe.table.seeds == (trials or 3)


def settings(arm):
    """Term -> its settings, an arm's as they will be trained."""
    return {term.label: term.spec() | {"weight": term.weight.value} for term in build_terms(arm.losses)}


def test_the_settings_of_every_pair_are_the_surveyed_ones(survey):
    """The presets hold them; here they are read through the recipes' rows."""
    checked = 0
    for name, row in RUNNABLE:
        entries = [e for e in survey.values() if name in e["tables"] and e.get("pairs")]
        for entry in entries:
            for pair in entry["pairs"]:
                method = pair.get("method", entry["methods"][0])
                found = [arm for arm in arms_of(row.config) if arm.name == method]
                if (pair["teacher"], pair["student"]) != (row.teacher, row.student) or not found:
                    continue
                terms, expected = settings(found[0]), best(pair)
                main = next(term for term in terms if term not in ("ce", "dino"))
                for key, value in expected.items():
                    if key == "head":
                        continue  # auto follows the same rule
                    weights = {"kd": main, "nd": "dino", "reviewkd": "reviewkd"}
                    where = (weights[key], "weight") if key in weights else (main, key)
                    where = (main, "weight") if method == "dhkd" and key == "alpha" else where
                    if key == "alpha_one_of":
                        assert terms[main]["weight"] in value
                    else:
                        assert terms[where[0]][where[1]] == value, (name, row.name, method, key)
                    checked += 1
    assert checked > 100


def test_ramps_and_temperatures_are_the_surveyed_ones(survey):
    def term(name, row, arm, index=1):
        found = next(r for r in ROWS[name] if r.name == row)
        return build_terms(next(a for a in arms_of(found.config) if a.name == arm).losses)[index]

    cifar, imagenet = survey["dkd.cifar100"]["fields"], survey["dkd.imagenet"]["fields"]
    dkd = term("dkd.table6", "resnet56-resnet20", "dkd")
    assert (dkd.weight.warmup_epochs, dkd.weight.warmup_start) == (best(cifar["loss_warmup_epochs"]), 1)
    assert (dkd.method.temperature, dkd.method.alpha) == (best(cifar["temperature"]), best(cifar["alpha"]))
    for arm in ("kd", "tckd", "nckd"):
        part = term("dkd.table1", "resnet32x4-resnet8x4", arm)
        assert part.weight.value == best(survey["dkd.cifar100_ablation"]["fields"]["part_weights"])
        assert part.weight.warmup_epochs == 20
        assert part.method.temperature == 4
    large = term("dkd.table8", "resnet34-resnet18", "dkd")
    assert (large.method.temperature, large.method.alpha, large.weight.warmup_epochs) == (
        best(imagenet["temperature"]),
        best(imagenet["alpha"]),
        best(imagenet["loss_warmup_epochs"]),
    )
    dhkd = term("dhkd.table3", "resnet34-resnet18", "dhkd")
    assert dhkd.weight.until_epoch == best(survey["dhkd.imagenet"]["fields"]["logit_loss_epochs"])
    assert dhkd.method.temperature == best(survey["dhkd.imagenet"]["fields"]["temperature"])
    for name, row, ramp in (
        ("kdpp.table1", "resnet56-resnet20", 20),
        ("kdpp.table2", "resnet34-resnet18", 5),
    ):
        kd = term(name, row, "kd++")
        assert (kd.weight.warmup_epochs, kd.weight.warmup_start) == (ramp, 0)
    assert term("ijckd.table1", "resnet56-resnet20", "ijckd").method.connector == "1x1"
    assert term("ijckd.table4", "resnet34-resnet18", "ijckd").method.connector == "1x1-3x3-1x1"


def test_light_students_have_their_own_rate_and_their_teachers_do_not():
    rows = {row.name: row for row in ROWS["kdpp.table1"]}
    light = rows["resnet50-mobilenet_v2"]
    assert light.config.train.optimizer.lr == 0.02
    assert light.teacher_job().train.optimizer.lr == 0.1
    assert rows["resnet56-resnet20"].config.train.optimizer.lr == 0.1


def test_a_variant_changes_its_row_and_no_teacher():
    rows = [r for r in ROWS["dhkd.table6"] if r.teacher == "resnet56"]
    assert [row.config.train.optimizer.lr for row in rows] == [0.01, 0.005, 0.001]
    assert len({row.teacher_job().yaml() for row in rows}) == 1
    (printed,) = rows[2].printed["ce+binarykl"]
    assert (printed.cell.setting, printed.cell.collapsed_at_epoch) == ({"lr": 0.001}, 35)


def test_arms_replace_drop_and_change_terms_of_a_preset():
    row = ROWS["kdpp.table4c"][0]
    losses = {arm.name: arm.losses for arm in arms_of(row.config)}["kd+cosine+l2"]
    assert [term["name"] for term in losses] == ["ce", "kd", "cosine", "feature_l2"]
    assert [term["weight"] for term in losses[2:]] == [1.0, 1.0]  # ours: none are published
    losses = {arm.name: arm.losses for arm in arms_of(row.config)}["kd+cosine+sifn"]
    assert [term["weight"] for term in losses[2:]] == [1.0, 0.05]
    (base,) = [arm for arm in arms_of(ROWS["kdpp.table4a"][0].config) if arm.name == "kd of kd++"]
    assert base.losses == losses[:2]  # what the parts stand on
    row = ROWS["kdpp.table4d"][0]
    names = {arm.name: [term["name"] for term in arm.losses] for arm in arms_of(row.config)}
    assert names["kl+dino"] == ["kd", "dino"]
    assert names["ce+dino"] == ["ce", "dino"]
    row = ROWS["dhkd.table10"][0]
    assert {a.name: a.gradients.align for a in arms_of(row.config)}["dhkd unaligned"] == "none"


def test_a_recipe_scaled_says_so_and_keeps_its_shape():
    recipe, _ = find_recipe("dkd.table6")
    row = recipe.rows(0.05)[0]
    assert (row.config.train.epochs, row.config.data.limit) == (12, 2500)
    ramp = {arm.name: arm for arm in arms_of(row.config)}["dkd"].losses[1]["weight"]
    assert ramp["warmup_epochs"] == 1
    assert (
        "scaled by 0.05: not the paper's budget (12 of 240 epochs and 2,500 of 50,000"
        in departures(recipe, 0.05, row.config, {})[0]
    )
    whole = recipe.rows(0.05, images=False)[0]
    assert whole.config.data.limit is None
    assert departures(recipe, 1.0, recipe.rows()[0].config, {"output": "x", "data.root": "y"}) == []


@pytest.mark.parametrize("name", ["dhkd.table3", "dkd.table8", "kdpp.table2", "ijckd.table4"])
def test_imagenet_is_seen_as_torchvision_shows_it(name):
    recipe, _ = find_recipe(name)
    data = recipe.rows()[0].config.data
    assert (data.name, data.image_size, data.resize) == ("imagenet", 224, 256)
    assert (data.augment.name, data.augment.whole) == ("resized_crop", True)
    assert departures(recipe, 1.0, recipe.rows()[0].config, {"data.workers": 16, "data.root": "x"}) == []


def test_images_are_counted_run_by_run_and_teachers_once():
    recipe, _ = find_recipe("dkd.table12")
    rows = recipe.rows()
    assert images_trained(rows[0].config, 50_000) == 240 * 50_000 * 3 * 3
    assert total_images(recipe, rows) == 240 * 50_000 * (3 * 9 + 3)
    half = recipe.rows(0.5)
    assert total_images(recipe, half) == total_images(recipe, rows) // 4


def test_other_methods_and_other_data_go_through():
    recipe, _ = find_recipe("dkd.table6")
    changes = {"study.methods": ["dkd", "dhkd"], "data.name": "parquet", "data.train": "a", "data.test": "b"}
    row = recipe.rows(overrides=changes)[0]
    assert [arm.name for arm in arms_of(row.config)] == ["dkd", "dhkd"]
    assert arms_of(row.config)[1].losses[1]["weight"] == 0.1  # the pair's, although it is no arm of the table
    assert (
        "data differ from the paper's: parquet in place of cifar100"
        in departures(recipe, 1.0, row.config, changes)[0]
    )
    assert row.teacher_job().data.name == "parquet"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dkd.tabel6", "got 'dkd.tabel6'. Did you mean 'dkd.table6'"),
        ("dkd.table6/resnet56", "got 'resnet56'. Did you mean 'resnet56-resnet20'"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        find_recipe(name)
    assert "\n" not in str(caught.value)


def test_a_file_of_recipes_that_does_not_hold_is_refused_with_its_place():
    text = "paper: x\nbudgets: {}\ntables: {t: {title: t, budget: b, pairs: [[a, b]], arms: [], extra: 1}}\n"
    with pytest.raises(ValueError, match=r"recipes/x\.yaml: tables\.t\.extra"):
        _read("x.yaml", lambda **_: text)
    with pytest.raises(ValueError, match="must have one of of: and losses:"):
        Paper.model_validate({**yaml.safe_load(text), "tables": {"t": {"arms": [{"name": "a"}]}}})
    assert sorted(_papers()) == ["dhkd", "dkd", "ijckd", "kdpp"]


SMALL = {
    "data.name": "digits",
    "student.model": "cnn_tiny",
    "teacher.model": "cnn_small",
    "study.seeds": [0],
    "train.device": "cpu",
    "train.threads": 1,
}


def test_a_recipe_runs_row_by_row_into_one_summary(tmp_path):
    output = str(tmp_path / "out")
    first = us.reproduce(
        "recipe:dkd.table12/vgg13-wrn_16_2", scale=0.005, quiet=True, output=output, **SMALL
    ).summary
    arms = [line["arm"] for line in first["lines"]]
    assert arms == ["teacher", "student alone", "kd", "dkd"]
    dkd = first["lines"][3]
    assert (dkd["published"], dkd["table"], len(dkd["scores"])) == (75.45, "dkd.table12", 1)
    assert dkd["difference"] == pytest.approx(dkd["mean"] - 75.45)
    assert first["missing"]["resnet50-wrn_16_2"] == "not run"
    assert {line.split(":")[0] for line in first["departures"]} == {
        "scaled by 0.005",
        "data differ from the paper's",
        "changed from the recipe, so not the paper's",
    }
    study = json.loads((tmp_path / "out/vgg13-wrn_16_2/study.json").read_text())
    assert "scaled by 0.005: not the paper's budget" in study["title"]
    assert "Scaled by 0.005: not the paper's budget (1 of 240 epochs" in study["what"]
    (published,) = study["arms"][3]["published"]
    assert published["value"] == 75.45
    assert "scaled by 0.005: not the paper's budget" in published["source"]
    page = (tmp_path / "out/vgg13-wrn_16_2/report.html").read_text()
    assert "not the paper&#39;s budget" in page

    given = tmp_path / "weights"
    given.mkdir()
    (tmp_path / "out/teachers/vgg13/student.safetensors").rename(given / "resnet50.safetensors")
    us.reproduce(
        "dkd.table12/resnet50-wrn_16_2", scale=0.005, quiet=True, teachers=given, output=output, **SMALL
    )
    text = (tmp_path / "out" / "summary.md").read_text()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {line["row"] for line in summary["lines"]} == {"vgg13-wrn_16_2", "resnet50-wrn_16_2"}
    assert not (tmp_path / "out/teachers/resnet50").exists()
    assert "Warning: scaled by 0.005: not the paper's budget" in text
    assert "| dkd | top1 |" in text

    other = us.reproduce(
        "dkd.table12/resnet50-wrn_16_2",
        scale=0.006,
        quiet=True,
        teachers=given,
        output=str(tmp_path / "b"),
        **SMALL,
    ).summary
    assert "vgg13-wrn_16_2" in other["missing"]


def test_a_teacher_of_other_images_is_not_a_given_one_of_the_usual_images(tmp_path):
    """DKD Table 3: the teacher learns the noisy labels, too; Table 2: AutoAugment."""
    (tmp_path / "resnet32x4.safetensors").touch()
    noisy, augmented, plain = (ROWS[f"dkd.table{n}"][0] for n in (3, 2, 1))
    assert _given(tmp_path, plain) == tmp_path / "resnet32x4.safetensors"
    assert _given(tmp_path, noisy) is _given(tmp_path, augmented) is None
    for row, name in ((noisy, "resnet32x4-noise-0.1"), (augmented, "resnet32x4-dkd.table2")):
        (tmp_path / f"{name}.safetensors").touch()
        assert _given(tmp_path, row) == tmp_path / f"{name}.safetensors"


def test_numbers_of_the_table_count_as_a_change():
    assert _matters("teacher.table_dtype")
    assert not any(map(_matters, ("teacher.table", "teacher.tables", "train.trackers", "study.seeds")))


def test_settings_that_nobody_printed_are_named():
    recipe, _ = find_recipe("dhkd.table1")
    (note,) = [note for note in recipe.notes if note.startswith("reviewkd has its general settings")]
    assert "vgg13 to vgg8" in note
    assert "resnet56 to resnet20" not in note
    assert not any(note.startswith("kd has") for note in recipe.notes)  # one setting for all pairs


def test_a_value_that_two_tables_print_stands_once_with_its_warning():
    row = next(row for row in ROWS["dhkd.table2"] if row.name == "resnet50-mobilenet_v2")
    assert [p.table for p in row.printed["kd"]] == ["dkd.table7", "dhkd.table12"]
    known = _known(row, ["scaled by 0.1: not the paper's budget (24 of 240 epochs)"])
    assert known["kd"] == [Published(67.35, "DKD Table 7 (scaled by 0.1: not the paper's budget)")]
    assert [entry.value for entry in known["dhkd"]] == [71.08]


def test_what_cannot_be_run_is_refused_and_the_rest_of_a_wish_checked(tmp_path, run_cli):
    assert run_cli("study", "recipe:dhkd.appendix_i") == (
        2,
        "understudy: dhkd.appendix_i cannot be run: it measures time and trains nothing: understudy bench CONFIG gives "
        "milliseconds a step; printed are 616 for DHKD and 614 for DKD (H100). See understudy list recipes\n",
    )
    status, said = run_cli("study", "plan.yaml", "--scale", "0.1")
    assert status == 2
    assert "must be of a recipe, got plan.yaml" in said
    status, said = run_cli("study", "recipe:dkd.table6", "--scale", "2")
    assert (status, "above 0 and at most 1, got 2.0" in said) == (2, True)
    with pytest.raises(ValueError, match="--teachers must be a folder"):
        us.reproduce(
            "dkd.table12", teachers=tmp_path / "none", output=str(tmp_path / "o"), quiet=True, **SMALL
        )


@pytest.fixture
def run_cli(capsys, monkeypatch):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["understudy", *args])
        try:
            cli.main()
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def test_lists_show_cost_needs_and_reasons(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    listing.show("recipes")
    text = capsys.readouterr().out
    assert all(name in text for name in recipe_names())
    assert "cannot be run: it measures time" in text
    listing.show("recipes", name="dhkd.table6")
    text = capsys.readouterr().out
    assert "resnet50-mobilenet_v2-lr-0.001" in text
    assert "sgd 0.05 (0.01 for light students)" in text
    assert "1,356 million" in text
    with pytest.raises(ValueError, match="must be given to the list of recipes"):
        listing.show("models", name="dhkd.table6")


def test_the_table_of_the_docs_is_fresh():
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text("utf-8")
    for line in recipe_table():
        what = f"cannot be run: {line.refusal}" if line.refusal else line.needs
        assert (
            f"| `{line.name}` | {line.title.partition(': ')[2]} | {line.rows} | {line.images} | {what} |"
            in page
        )


def test_a_printed_value_that_is_no_target_is_none_unless_an_arm_takes_it_on_purpose():
    coco, _ = find_recipe("kdpp.table3")
    (row,) = (row for row in coco.rows() if (row.teacher, row.student) == ("resnet101", "resnet18"))
    odd = {p.cell.metric: p.doubtful for p in row.printed["reviewkd"]}
    assert odd == {"ap": False, "ap50": False, "ap75": True}
    assert [p.value for p in _known(row, [])["reviewkd"]] == [36.75]
    growing, _ = find_recipe("kdpp.table_b3")
    (first,) = (row for row in growing.rows() if row.student == "resnet18")
    assert _known(first, [])["kd++"] == []
    ab = find_recipe("ijckd.table1")[0].rows()[0]
    assert ab.printed["ab"]
    assert not any(p.doubtful for p in ab.printed["ab"])
