"""Images decoded batch by batch: the bits of those in memory, by any number of workers, and what goes wrong."""

import csv
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.transforms import functional as TF

import understudy as us
from understudy.bench import bench
from understudy.build import read_data
from understudy.data import EvalLoader, PadCropFlip, Policy, RandAugment, ResizedCrop, TrainLoader, load
from understudy.data import undecoded as module
from understudy.data.mix import Mix
from understudy.data.undecoded import Undecoded, worker_lost
from understudy.doctor import doctor
from understudy.engine import loop
from understudy.files import read_json_lines
from understudy.tables import fill
from understudy.teacher.source import ViewSource

CLASSES = ("ant", "bee", "cat")


def picture(number):
    g = torch.Generator().manual_seed(number)
    size = (20 + number % 7, 24 + number % 5, 3)
    return Image.fromarray(torch.randint(0, 256, size, dtype=torch.uint8, generator=g).numpy())


@pytest.fixture
def folder(tmp_path):
    """Thirty pictures of different sizes in three classes, ten more to test on."""
    for part, numbers in (("train", range(30)), ("test", range(100, 110))):
        for i in numbers:
            path = tmp_path / part / CLASSES[i % 3] / f"{i:03d}.{'png' if i % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(i).save(path)
    return tmp_path


def splits(folder, **options):
    given = {"train": folder / "train", "test": folder / "test", "image_size": 16, **options}
    return load("imagefolder", **given)


def train_loader(data, augment=None, **options):
    given = {"batch_size": 8, "seed": 1, "mean": data.mean, "std": data.std, **options}
    return TrainLoader(data.train, augment or PadCropFlip(2), **given)


def same(a, b):
    columns = [(getattr(a, c), getattr(b, c)) for c in ("images", "target", "index", "view", "partner")]
    return a.kept == b.kept and all(x is y is None or torch.equal(x, y) for x, y in columns)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("augment", "mix"),
    [
        (PadCropFlip(2), None),
        (ResizedCrop(fixed=3), Mix("cutmix")),
        (Policy(PadCropFlip(2), RandAugment()), Mix("mixup")),
    ],
)
def test_batches_have_the_bits_of_those_in_memory(folder, workers, augment, mix):
    held = splits(folder, val=0.1, resident=True)
    left = splits(folder, val=0.1, resident=False, workers=workers)
    assert isinstance(left.train.images, Undecoded)
    assert (left.mean, left.std) == (held.mean, held.std)
    options = {"mix": mix, "balance": 0.5}
    expected = list(train_loader(held, augment, **options).epoch(3))
    found = list(train_loader(left, augment, **options).epoch(3))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    late = list(train_loader(left, augment, **options).epoch(3, 2))
    assert all(same(a, b) for a, b in zip(late, expected[2:], strict=True))
    for rank in range(2):
        ranks = {"rank": rank, "world": 2, **options}
        pairs = zip(
            train_loader(left, augment, **ranks).epoch(1),
            train_loader(held, augment, **ranks).epoch(1),
            strict=True,
        )
        assert all(same(a, b) for a, b in pairs)
    for part in ("val", "test"):
        both = [EvalLoader(getattr(s, part), batch_size=4, mean=s.mean, std=s.std) for s in (left, held)]
        assert all(same(a, b) for a, b in zip(*both, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fixed", [None, 4])
def test_crops_of_whole_images_are_torchvisions(folder, workers, fixed):
    data = splits(folder, resident=False, workers=workers)
    augment = ResizedCrop(fixed=fixed, whole=True)
    paths, mirrored = data.train.images.sources, 0
    for batch in train_loader(data, augment).epoch(2):
        number = batch.view if fixed is None else batch.index * fixed + batch.view
        for i, row in enumerate(batch.index.tolist()):
            picture = Image.open(paths.name(row)).convert("RGB")
            box = augment.boxes(number[i : i + 1], picture.height, picture.width)[0].int().tolist()
            expected = TF.to_tensor(TF.resized_crop(picture, *box, [16, 16]))  # bilinear, antialiased
            shown = batch.images[i] * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(
                3, 1, 1
            )
            flipped = (shown.flip(2) - expected).abs().max() < 1e-6
            assert flipped or (shown - expected).abs().max() < 1e-6
            mirrored += int(flipped)
    assert 5 < mirrored < 25  # of thirty


def test_crops_of_whole_images_are_one_view_for_all_who_ask(folder):
    data = splits(folder, resident=False, workers=2, val=0.1)
    augment = Policy(ResizedCrop(whole=True), RandAugment(), fixed=3)
    batches = list(train_loader(data, augment).epoch(1))
    source = ViewSource(data.train, augment, data.mean, data.std)
    place = {index: row for row, index in enumerate(data.train.index.tolist())}
    for batch in batches:
        rows = torch.tensor([place[index] for index in batch.index.tolist()])
        assert torch.equal(source.images(rows, batch.view), batch.images)
    mixed = train_loader(data, augment, mix=Mix("mixup"))
    late = list(mixed.epoch(1))[2:]
    assert all(same(a, b) for a, b in zip(mixed.epoch(1, 2), late, strict=True))


def test_a_run_on_whole_images_is_measured_and_used_on_the_same_squares(folder):
    changes = {
        "data.image_size": 14,
        "data.resize": 16,
        "data.augment": {"name": "resized_crop", "whole": True},
    }
    job = config(folder, **changes, **{"data.resident": "auto"})
    run = us.distill(job, quiet=True)
    data = splits(folder, image_size=14, resize=16)
    squares = [
        TF.center_crop(TF.resize(Image.open(p), 16), 14) for p in sorted((folder / "test").rglob("*.*"))
    ]
    assert all(torch.equal(a, TF.pil_to_tensor(b)) for a, b in zip(data.test.images, squares, strict=True))
    said = us.predict(run.path, sorted((folder / "test").rglob("*.*")), top=1)
    hits = sum(p.classes[0] in p.path.split("/") for p in said)
    assert run.metrics["last"]["test/acc1"] == pytest.approx(100 * hits / len(said))
    with safe_open(run.path / "student.safetensors", framework="pt") as file:
        assert file.metadata()["resize"] == "16"
    exported = us.export(run.path, ["safetensors"], quiet=True)
    assert (
        "the shorter side is scaled to 16 pixels, then the centre"
        in (exported.folder / "README.md").read_text()
    )
    with safe_open(exported.files["safetensors"], framework="pt") as file:
        assert file.metadata()["resize"] == "16"
    found = us.analyze(run.path, ["difficulty_training"], quiet=True, epochs=1)
    assert "Crops are of centre squares" in str(found)


def test_torchs_random_state_stays_as_it_is(folder):
    data = splits(folder, resident=False, workers=1)
    before = torch.get_rng_state()
    list(train_loader(data).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def sources(folder, kind, tmp_path):
    """The options of a reader of the same thirty pictures."""
    paths = sorted((folder / "train").rglob("*.*"))
    labels = [CLASSES.index(path.parent.name) for path in paths]
    if kind == "manifest":
        with (tmp_path / "m.csv").open("w") as file:
            rows = csv.writer(file)
            rows.writerow(("image", "label"))
            rows.writerows(zip((p.relative_to(tmp_path) for p in paths), labels, strict=True))
        return "manifest", {"train": tmp_path / "m.csv"}
    encoded = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    if kind == "parquet":
        for name, part in (("a", slice(0, 13)), ("b", slice(13, 30))):
            table = pa.table({"image": encoded[part], "label": labels[part]})
            pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=5)
        return "parquet", {"train": [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]}
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    datasets.Dataset.from_dict({"image": encoded, "label": labels}, features).save_to_disk(tmp_path / "hf")
    return "hf", {"root": tmp_path / "hf"}


class Pictures:
    """A collection that knows its labels ahead."""

    targets = tuple(i % 3 for i in range(30))

    def __len__(self):
        return 30

    def __getitem__(self, i):
        return picture(i), self.targets[i]


class Column:
    """Labels in order that are numbered otherwise, as a column of pandas may be."""

    def __len__(self):
        return 30

    def __iter__(self):
        return (i % 3 for i in range(30))

    def __getitem__(self, number):
        return (29 - number) % 3


class Shuffled(Pictures):
    """One whose labels are such a column."""

    targets = Column()

    def __getitem__(self, i):
        return picture(i), i % 3


class Contradicting(Pictures):
    """One whose items have other labels than it says."""

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return image, (label + 1) % 3 if i == 17 else label


class Unlabelled(Pictures):
    """One that does not."""

    targets = None

    def __getitem__(self, i):
        return picture(i), i % 3


@pytest.mark.parametrize("kind", ["manifest", "parquet", "hf"])
def test_every_reader_leaves_the_same_images_where_they_are(folder, tmp_path, kind):
    name, options = sources(folder, kind, tmp_path)
    held, left = (load(name, image_size=16, resident=r, workers=2, **options).train for r in (True, False))
    assert (held.resident, left.resident) == (True, False)
    assert torch.equal(left.in_memory(), held.in_memory())
    assert torch.equal(left.targets, held.targets)
    assert left.classes == held.classes
    rows = torch.tensor([29, 0, 14])
    assert torch.equal(left.subset(rows).in_memory(), held.images[rows])


def test_a_collection_of_ones_own_is_left_where_it_knows_its_labels(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_pictures", sys.modules[__name__])
    held, left = (load("own_pictures:Pictures", image_size=16, resident=r, workers=0) for r in (True, False))
    assert torch.equal(left.train.in_memory(), held.train.in_memory())
    assert torch.equal(left.train.targets, held.train.targets)
    left = load(
        "own_pictures:Contradicting", image_size=16, resident=False, workers=0, mean=[0.5] * 3, std=[1.0] * 3
    )
    with pytest.raises(ValueError, match=r"item 17 must have the label that \.targets says, 2, got 0"):
        left.train.in_memory()
    left = load("own_pictures:Shuffled", image_size=16, resident=False, workers=0).train
    assert torch.equal(left.in_memory(), held.train.in_memory())
    assert load("own_pictures:Unlabelled", image_size=16).train.resident
    with pytest.raises(ValueError, match=r"must have \.targets, a class number for each of its 30 items"):
        load("own_pictures:Unlabelled", image_size=16, resident=False)


def test_auto_holds_what_fits(folder):
    size = 30 * 3 * 16 * 16 / 2**30
    assert splits(folder, max_gib=size).train.resident
    assert not splits(folder, max_gib=0.99 * size).train.resident
    assert splits(folder, max_gib=0.99 * size).test.resident  # ten pictures fit
    with pytest.raises(ValueError, match=r"must fit in data\.max_gib"):
        splits(folder, max_gib=0.99 * size, resident=True)


def test_images_as_they_are_must_have_one_size_and_the_first_other_one_is_named(folder):
    data = load(
        "imagefolder", train=folder / "train", resident=False, workers=0, mean=[0.5] * 3, std=[1.0] * 3
    )
    with pytest.raises(
        ValueError, match=r"all images must have one size, got 24 x 20 pixels first and .*jpg\. Set"
    ):
        list(train_loader(data).epoch(0))


def test_a_set_that_is_always_in_memory_says_so():
    assert load("digits", resident=True, workers=3).train.resident
    with pytest.raises(
        ValueError, match=r"data set 'digits' must be held in memory, got data\.resident=false"
    ):
        load("digits", resident=False)


def no_children():
    deadline = time.monotonic() + 60  # torch itself waits 5 s for each
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not multiprocessing.active_children()


def test_workers_end_with_the_iterator(folder):
    data = splits(folder, resident=False, workers=2)
    assert no_children()
    batches = train_loader(data).epoch(0)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert no_children()


def test_a_resumed_epoch_decodes_only_what_is_left(folder):
    data = splits(folder, resident=False, workers=0)
    expected = list(train_loader(data).epoch(0))
    for row in torch.cat([b.index for b in expected[:2]]).tolist():  # images of the steps that are done
        paths = data.train.images.sources
        (folder / "train" / paths.name(row)).write_bytes(b"damaged")
    assert all(same(a, b) for a, b in zip(train_loader(data).epoch(0, 2), expected[2:], strict=True))
    with pytest.raises(ValueError, match="must be an image that can be read"):
        list(train_loader(data).epoch(0, 1))


def config(folder, **changes):
    return us.load_config(
        {
            "seed": 1,
            "data": {
                "name": "imagefolder",
                "train": str(folder / "train"),
                "test": str(folder / "test"),
                "image_size": 16,
                "val": 0.1,
                "resident": False,
                "workers": 2,
            },
            "teacher": {"model": "cnn_small"},
            "student": {"model": "cnn_tiny"},
            "losses": [{"name": "ce"}, {"name": "at"}],
            "train": {"epochs": 2, "batch_size": 8, "threads": 1, "device": "cpu"},
            "output": str(folder / "run"),
        },
        changes,
    )


def weights(path):
    return load_file(path / "student.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_the_bits_of_one_in_memory_and_says_what_it_does(folder, monkeypatch):
    run = us.distill(config(folder), quiet=True)
    held = us.distill(config(folder, **{"data.resident": True, "output": str(folder / "held")}), quiet=True)
    assert equal(weights(run.path), weights(held.path))
    assert run.metrics["last"] == held.metrics["last"]
    assert (run.config.data.resident, run.config.data.workers) == (False, 2)
    assert (held.config.data.resident, held.config.data.workers) == (True, 2)  # as given, without effect
    assert run.config.teacher.table == "off"
    log = (run.path / "train.log").read_text()
    assert "images are decoded batch by batch by 2 processes: all would take 0.00 GiB (data.resident)" in log
    assert "no table of its answers is kept" in log
    read = [json_file.read_text() for json_file in (run.path / "mistakes.json", held.path / "mistakes.json")]
    assert read[0] == read[1]
    assert us.evaluate(run.path, quiet=True) == us.evaluate(held.path, quiet=True)
    step, done = loop._forward_backward, []

    def counted(job, *rest):
        step(job, *rest)
        done.append(1)
        if len(done) == 5:
            job.stop.set()

    monkeypatch.setattr(loop, "_forward_backward", counted)
    with pytest.raises(us.InterruptedRunError):
        us.distill(config(folder), quiet=True, output=str(folder / "stopped"))
    assert equal(weights(us.resume(folder / "stopped", quiet=True).path), weights(run.path))
    assert no_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_one_line_that_names_it(folder, workers):
    victim = folder / "train" / "bee" / "004.jpg"
    victim.write_bytes(victim.read_bytes()[:100])
    changes = {"data.workers": workers, "data.mean": [0.5] * 3, "data.std": [0.2] * 3, "data.val": 0.0}
    path = folder / "c.yaml"
    path.write_text(config(folder, **changes).yaml())
    done = subprocess.run(
        [sys.executable, "-m", "understudy", "distill", str(path), "-q"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "004.jpg must be an image that can be read" in done.stderr


def test_a_worker_that_is_killed_is_one_line(folder):
    data = splits(folder, resident=False, workers=1)
    assert no_children()
    batches = train_loader(data, batch_size=1).epoch(0)
    next(batches)
    handler = signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # torch's raises wherever the main process is just then
    try:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(
            ValueError, match=r"the processes that decode images must live on, got: \w+(: .*)?\. Lower"
        ):
            list(batches)
        assert no_children()
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_what_torch_says_of_a_dead_worker_anywhere_is_the_same_line():
    said = worker_lost(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))
    assert re.match(
        r"the processes that decode images must live on, got: RuntimeError: DataLoader worker", said
    )
    assert worker_lost(RuntimeError("CUDA out of memory")) is None
    assert worker_lost(ValueError("DataLoader worker")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the end of the main process")
def test_a_worker_that_starts_after_its_run_was_killed_ends_at_once():
    """The signal of the main process's end is only sent to those that asked for it before."""
    context = multiprocessing.get_context("fork")
    late, in_time = (context.Process(target=module._serve, args=(main, 0)) for main in (-1, os.getpid()))
    for worker in (late, in_time):
        with warnings.catch_warnings():  # of threads beside a fork
            warnings.simplefilter("ignore", DeprecationWarning)
            worker.start()
        worker.join()
    assert (late.exitcode, in_time.exitcode) == (1, 0)


def started(folder, epochs):
    """A run on the command line, in a group of processes of its own, after its first epoch."""
    path = folder / "c.yaml"
    path.write_text(config(folder, **{"train.epochs": epochs}).yaml())
    process = subprocess.Popen(
        [sys.executable, "-m", "understudy", "distill", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            return process
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
def test_a_killed_run_leaves_no_worker_that_holds_its_folder(folder):
    whole = us.distill(config(folder, **{"train.epochs": 30, "output": str(folder / "whole")}), quiet=True)
    process = started(folder, 30)
    time.sleep(0.3)
    process.kill()
    process.wait()
    run = us.resume(folder / "run", quiet=True)  # at once
    assert equal(weights(run.path), weights(whole.path))
    process.communicate(timeout=300)  # nobody holds its output open


@pytest.mark.slow
def test_ctrl_c_reaches_all_processes_and_leaves_a_run_that_resumes_exactly(folder):
    changes = {"train.epochs": 30, "output": str(folder / "whole")}
    whole = us.distill(config(folder, **changes), quiet=True)
    process = started(folder, 30)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left of the group
    lines = read_json_lines(folder / "run" / "metrics.jsonl")
    assert 1 <= len(lines) < 30
    assert equal(weights(us.resume(folder / "run", quiet=True).path), weights(whole.path))


def test_a_table_of_images_that_are_not_held_is_refused(folder):
    with pytest.raises(ValueError, match=r"teacher\.table must be off where images are not held in memory"):
        us.distill(
            config(folder, **{"losses": [{"name": "kd"}], "teacher.table": str(folder / "t")}), quiet=True
        )
    with pytest.raises(
        ValueError, match="a table must be of views that come again, got a config where images"
    ):
        fill(config(folder, losses=[{"name": "kd"}]), quiet=True)


def test_a_table_of_views_without_end_is_not_filled(digits_config):
    digits_config["data"]["augment"] = {"name": "resized_crop"}
    with pytest.raises(ValueError, match="with no end of them"):
        fill(digits_config, quiet=True)


def test_the_doctor_sees_a_slow_loader(folder, monkeypatch):
    decode = module.decode_named

    def slow(*arguments):
        time.sleep(0.2)  # long beside a step of a machine that does other things, too
        return decode(*arguments)

    monkeypatch.setattr(module, "decode_named", slow)  # workers are forked
    changes = {"data.mean": [0.5] * 3, "data.std": [0.2] * 3}
    found = {f["check"]: f for f in doctor(config(folder, **changes), quiet=True)["findings"]}
    assert found["speed"]["status"] == "warning"
    assert "Loading is slow: more than 2 data.workers" in found["speed"]["text"]
    assert found["table"]["figures"] == {"possible": False}
    assert no_children()


@pytest.mark.slow
def test_bench_measures_it(folder):
    result = bench(config(folder), quiet=True)
    assert result["parts_ms"]["data"] > 0
    assert result["table"] is None
    assert no_children()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.resident": "maybe"}, "data.resident must be auto, true or false, got 'maybe'"),
        ({"data.workers": -1}, "data.workers should be greater than or equal to 0, got -1"),
        (
            {"data.resident": True, "data.augment": {"name": "resized_crop", "whole": True}},
            "data.resident must not be true beside data.augment.whole",
        ),
        (
            {"data.augment": {"whole": True}},
            "whole must stand beside name: resized_crop, got True beside pad_crop",
        ),
    ],
)
def test_wrong_settings_are_one_line(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        config(folder, **changes)


def even(folder):
    """The training pictures, all of one size."""
    for i in range(6):
        path = folder / "even" / CLASSES[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).resize((20, 20)).save(path)
    return folder / "even"


def test_settings_that_the_images_refuse_are_one_line(folder):
    with pytest.raises(ValueError, match=r"data\.resize must be at least data\.image_size, .* got 8 with 16"):
        splits(folder, resize=8)
    with pytest.raises(ValueError, match=r"data\.resize must be .* got 20 with none"):
        splits(folder, image_size=None, resize=20, resident=False)
    held = splits(folder, resident=True)
    with pytest.raises(ValueError, match=r"data\.augment\.whole must have images that stay in their files"):
        train_loader(held, ResizedCrop(whole=True))
    left = splits(folder, image_size=None, train=even(folder), test=None, resident=False)
    with pytest.raises(ValueError, match=r"data\.augment\.whole must have data\.image_size"):
        train_loader(left, ResizedCrop(whole=True))
    whole = {"name": "resized_crop", "whole": True}
    digits = config(folder).data.model_copy(update={"name": "stl10", "resident": "auto"})
    with pytest.raises(
        ValueError, match=r"must be held in memory, got data.resident=false or data.augment.whole"
    ):
        read_data(digits.model_validate({"name": "stl10", "augment": whole}))


def test_bytes_of_no_image_in_parquet_are_named(folder, tmp_path):
    file = io.BytesIO()
    picture(1).save(file, format="PNG")
    rows = [{"bytes": file.getvalue(), "path": None}, {"bytes": None, "path": "x.png"}]
    pq.write_table(pa.table({"image": rows, "label": [0, 1]}), tmp_path / "p.parquet")
    data = load(
        "parquet", train=tmp_path / "p.parquet", image_size=8, resident=False, mean=[0.5] * 3, std=[1.0] * 3
    )
    with pytest.raises(ValueError, match=r"p\.parquet row 1 must hold the bytes of an image, got none"):
        data.train.in_memory()
