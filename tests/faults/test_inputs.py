"""Files of every kind, damaged in every way: a clear line or the right result, and no good checkpoint lost."""

import hashlib
import io
import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import understudy as us
from understudy.engine import loop

pytestmark = pytest.mark.slow

CODE = "!!python/object/apply:os.mkdir ['{planted}']"
"""YAML that runs code when it is not read safely."""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
)
"""YAML of a kilobyte that unfolds to gigabytes where its aliases are copied."""


def damaged(content, number, seed):
    """Ways to damage a file: cut, one bit, a block of noise, a block of zeros, and the extremes."""
    rng, noise = random.Random(seed), random.Random(seed)  # two, so that places do not depend on the length
    yield from (b"", content[:1], noise.randbytes(len(content)), content + content)
    for i in range(number):
        place, spoiled = int(rng.random() * len(content)), bytearray(content)
        if i % 4 == 0:
            spoiled = spoiled[:place]
        elif i % 4 == 1:
            spoiled[place] ^= 1 << rng.randrange(8)
        else:
            block = spoiled[place : place + 64]
            spoiled[place : place + 64] = noise.randbytes(len(block)) if i % 4 == 2 else bytes(len(block))
        yield bytes(spoiled)


def config(output):
    return {
        "seed": 3,
        "data": {"name": "digits", "limit": 160, "val": 0.1},
        "teacher": {"model": "cnn_small"},
        "student": {"model": "cnn_tiny"},
        "losses": [{"name": "ce"}, {"name": "dhkd"}],
        "train": {"epochs": 3, "batch_size": 32, "threads": 1, "device": "cpu"},
        "output": str(output),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, and the same one stopped in its third epoch."""
    folder, step = tmp_path_factory.mktemp("inputs"), loop._forward_backward
    us.distill(config(folder / "whole"), quiet=True)

    def counted(job, *rest):
        step(job, *rest)
        if job.epoch == 2 and job.step == 3:
            job.stop.set()

    loop._forward_backward = counted
    try:
        us.distill(config(folder / "stopped"), quiet=True)
    except us.InterruptedRunError:
        return folder
    finally:
        loop._forward_backward = step
    raise AssertionError("the run was not stopped")


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("checkpoints/*.pt")}


def same_weights(run, other):
    ours, theirs = (load_file(path / "student.safetensors") for path in (run, other))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def check(answer, allowed):
    assert answer.status in allowed, answer.said
    assert answer.status == 0 or answer.is_one_line, answer.said


def test_checkpoints(folder, cli, table, tmp_path):
    """Refused, whatever the damage; the one before goes on to the same bits."""
    whole, tried = folder / "whole", 0
    for number, content in enumerate(
        damaged((folder / "stopped/checkpoints/last.pt").read_bytes(), 12, seed=0)
    ):
        run = tmp_path / str(number)
        shutil.copytree(folder / "stopped", run)
        (run / "checkpoints/last.pt").write_bytes(content)
        before = digests(run)
        answer = cli("resume", run, "-q")
        check(answer, {2})
        assert "must be whole" in answer.said
        assert "--previous" in answer.said
        assert digests(run) == before
        if number % 8 == 0:
            check(cli("resume", run, "--previous", "-q"), {0})
            assert same_weights(run, whole)
        tried += 1
    table("checkpoint `last.pt`, damaged", tried, "refused, exit 2; `--previous` goes on to the same bits")


RESULTS = ["{}", "[]", "null", "3", '{"status": 7}', '{"format": 99}', '{"status": "finished"']
METRICS = ["[]\n", "3\n", '{"a": 1}\n', '{"epoch": "x"}\n', "{\n", '{"epoch": null}\n', "\x00\n"]
YAML = [
    "[]",
    "3",
    "losses: 7",
    "data: {name: [}",
    "seed: !!int x",
    CODE,
    BOMB,
    "train: {epochs: .nan}",
    "a" * 10**6,
]
CASES = {
    "`config.yaml`": ("config.yaml", YAML, ["resume"], "refused, or goes on where it still is a config"),
    "`metrics.jsonl`": ("metrics.jsonl", METRICS, ["resume"], "goes on; lines that are none are dropped"),
    "`environment.json`": ("environment.json", RESULTS, ["resume"], "goes on; the run does not need it"),
    "`result.json`, to resume": (
        "result.json",
        RESULTS,
        ["resume"],
        "goes on unless it says finished, or refused",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_files_of_an_unfinished_run(folder, cli, table, tmp_path, name):
    path, contents, verb, result = CASES[name]
    planted = tmp_path / "planted"
    given = [text.replace("{planted}", str(planted)).encode() for text in contents]
    source = folder / "stopped" / path
    original = (source if source.exists() else folder / "whole" / path).read_bytes()
    given += list(damaged(original, 4, seed=1))
    for number, content in enumerate(given):
        run = tmp_path / str(number)
        shutil.copytree(folder / "stopped", run)
        (run / path).write_bytes(content)
        before = digests(run)
        answer = cli(*verb, run, "-q")
        check(answer, {0} if path in ("metrics.jsonl", "environment.json") else {0, 2})
        assert not planted.exists()
        if answer.status == 2:
            assert digests(run) == before
        elif path != "config.yaml":
            assert same_weights(run, folder / "whole")
    table(f"{name}, damaged or of something else", len(given), result)


READERS = {
    "`student.safetensors`": ("student.safetensors", ["evaluate", "predict"]),
    "`result.json`, finished": ("result.json", ["report"]),
    "`metrics.jsonl`, finished": ("metrics.jsonl", ["report"]),
    "`environment.json`, finished": ("environment.json", ["report"]),
    "`config.yaml`, finished": ("config.yaml", ["evaluate"]),
}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.new("L", (8, 8), 77).save(path)
    return path


@pytest.mark.parametrize("name", READERS)
def test_files_of_a_finished_run(folder, cli, table, tmp_path, image, name):
    path, verbs = READERS[name]
    original, tried = (folder / "whole" / path).read_bytes(), 0
    head = original[:400] if path.endswith("safetensors") else original  # flipped weights are weights
    extra = [text.encode() for text in (*RESULTS, "[" * 10**5)] if path.endswith("json") else []
    for number, content in enumerate([*extra, *damaged(head, 8, seed=2)]):
        run = tmp_path / str(number)
        shutil.copytree(folder / "whole", run)
        whole = content + original[400:] if len(content) == 400 and path.endswith("safetensors") else content
        (run / path).write_bytes(whole)
        for verb in verbs:
            check(cli(verb, run, *([image] if verb == "predict" else [])), {0, 2})
        tried += 1
    table(f"{name}, damaged: {', '.join(verbs)}", tried, "refused, exit 2, or read where still whole")


def encoded(i, kind="PNG"):
    file, levels = io.BytesIO(), np.random.default_rng(i).integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(levels).convert("RGB").save(file, kind)
    return file.getvalue()


def data_config(output, **data):
    return json.dumps(
        {
            "data": data,
            "student": {"model": "cnn_tiny"},
            "train": {"epochs": 1, "batch_size": 4, "threads": 1, "device": "cpu"},
            "output": str(output),
        }
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_images(cli, table, tmp_path, kind):
    """In a folder; some damage leaves an image that can be read."""
    suffix = {"PNG": "png", "JPEG": "jpg", "GIF": "bmp"}[kind]  # the name does not decide
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "images" / name / f"{i}.{suffix}").write_bytes(encoded(i, kind))
    victim, tried = tmp_path / "images" / "b" / f"3.{suffix}", 0
    (tmp_path / "c.yaml").write_text(
        data_config(tmp_path / "run", name="imagefolder", train=str(tmp_path / "images"))
    )
    for content in damaged(victim.read_bytes(), 8, seed=3):
        victim.write_bytes(content)
        answer = cli("train", tmp_path / "c.yaml", "-q", f"output={tmp_path / str(tried)}")
        check(answer, {0, 2})
        assert answer.status == 0 or str(victim) in answer.said
        tried += 1
    table(f"{kind} image, damaged", tried, "refused by name, exit 2, or read where still an image")


def test_parquet(cli, table, tmp_path):
    rows = pa.table(
        {"image": [{"bytes": encoded(i), "path": "../../x"} for i in range(8)], "label": [0, 1] * 4}
    )
    path, tried = tmp_path / "a.parquet", 0
    pq.write_table(rows, path)
    content = path.read_bytes()
    (tmp_path / "c.yaml").write_text(data_config(tmp_path / "run", name="parquet", train=str(path)))
    check(cli("train", tmp_path / "c.yaml", "-q"), {0})
    for spoiled in damaged(content, 12, seed=4):
        path.write_bytes(spoiled)
        check(cli("train", tmp_path / "c.yaml", "-q", f"output={tmp_path / str(tried)}"), {0, 2})
        tried += 1
    table("parquet file, damaged", tried, "refused, exit 2, or read where still whole")
