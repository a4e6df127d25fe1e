"""Names of classes and terms are text on the page, and never stop a figure from being drawn."""

import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import understudy as us
from understudy.analyses import ANALYSES, Finding, Sheet
from understudy.analyses.output import as_csv, write_finding, write_page
from understudy.report.plots import Bars, Cloud, Curve, Curves, Heat, files, inline

NAMES = (
    "<img src=x onerror=alert(1)>",
    "$\\frac{",
    "שלום\u202e",
    "🐈‍⬛",
    '"><script>alert(2)</script>',
    "_hidden",
    "",
)


class Tags(HTMLParser):
    """Collects tags, their attributes' names, and the text."""

    def __init__(self):
        super().__init__()
        self.tags, self.handlers, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def plots():
    labels = np.arange(21) % len(NAMES)
    points = np.stack([np.arange(21.0), np.arange(21.0) ** 2], axis=1)
    return (
        Curves("curves", "a title", "x", "y", tuple(Curve(n, [0, 1], [1.0, 2.0]) for n in NAMES)),
        Bars("bars", "a title", "y", NAMES, tuple((n, [1.0] * len(NAMES)) for n in NAMES[:3])),
        Cloud("cloud", "a title", points, labels, NAMES, centres=points[: len(NAMES)]),
        Heat("heat", "a title", np.eye(3), "x", "y"),
    )


def test_a_page_of_hostile_names_holds_them_as_text(tmp_path):
    sheet = Sheet(("class", NAMES[0]), [[name, 1.0] for name in NAMES])
    finding = Finding({f"{NAMES[4]}/x": 1.0, NAMES[0]: 2.0}, {"classes": sheet}, plots(), (NAMES[4],))
    write_finding(tmp_path, "tsne", ANALYSES["tsne"], finding, {"folder": NAMES[0]})
    page = write_page(tmp_path, NAMES[4], ANALYSES, {"tsne": finding}, {"bound": NAMES[0]})
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.tags.count("script") == 1  # our own
    assert tags.tags.count("img") == 0
    assert tags.handlers == []
    for name in NAMES:
        assert name in tags.text


@pytest.mark.parametrize("plot", plots(), ids=lambda plot: plot.name)
def test_files_are_drawn_without_a_warning_and_always_alike(plot):
    vector, pixels = files(plot)
    assert (vector, pixels) == files(plot)
    assert b"<img" not in vector
    assert ElementTree.fromstring(vector).tag.endswith("svg")
    assert len(pixels) > 1000
    assert inline(plot, "key").svg.startswith("<svg")


def test_the_page_cuts_long_tables_and_leaves_wide_ones_to_their_files(tmp_path):
    long = Sheet(("row",), [[f"row {i}"] for i in range(500)])
    wide = Sheet(tuple(f"column {i}" for i in range(100)), [[0.5] * 100])
    finding = Finding({}, {"long": long, "wide": wide})
    write_finding(tmp_path, "tsne", ANALYSES["tsne"], finding, {})
    page = write_page(tmp_path, "title", ANALYSES, {"tsne": finding}, {}).read_text()
    assert "row 199<" in page
    assert "row 200<" not in page
    assert "the first 200 of 500 rows" in page
    assert "column 99" not in page
    assert "row 499" in (tmp_path / "tsne-long.csv").read_text()
    assert "column 99" in (tmp_path / "tsne-wide.csv").read_text()


def test_csv_quotes_what_needs_it():
    text = as_csv(Sheet(("a", "b"), [['x,"y"', float("nan")], ["z", 0.1]]))
    assert text == 'a,b\n"x,""y""",\nz,0.1\n'


def test_a_run_on_classes_with_such_names_is_analysed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("<b>bold<b>", "🐈", "$x"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(tmp_path / "images" / name / f"{i}.png")
    shutil.copytree(tmp_path / "images", tmp_path / "test")
    run = us.distill(
        {
            "data": {
                "name": "imagefolder",
                "train": str(tmp_path / "images"),
                "test": str(tmp_path / "test"),
            },
            "student": {"model": "cnn_tiny"},
            "teacher": {"model": "cnn_tiny"},
            "losses": [{"name": "ce"}, {"name": "kd"}],
            "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
            "output": str(tmp_path / "run"),
        },
        quiet=True,
    )
    names = ["fidelity", "embedding", "features", "correlation"]
    page = us.analyze(run.path, names, quiet=True).path.read_text()
    tags = Tags()
    tags.feed(page)
    assert "b" not in tags.tags
    assert all(name in tags.text for name in ("<b>bold<b>", "🐈", "$x"))
