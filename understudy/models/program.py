"""A network from a saved ``torch.export`` program, read as data: raw tensors and a list of tensor operations.

``torch.export.load`` is not safe on a file from elsewhere, and not only because of pickles. It unpickles members of the
archive, raw weights among them if their entry says so; it evaluates the strings in which the graph writes its sizes
(``sympy.sympify``); and the module it gives compiles ``guards_code``. Each of these ran a command in our trials with
torch 2.15, the last two without any pickle. So it is not called: JSON and raw tensors are taken from the archive, and
:mod:`understudy.models.program_graph` runs the operators on its list.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from understudy.models.program_graph import DTYPES, ProgramError, ProgramNetwork, whole
from understudy.words import first_line

_SCHEMA = 8  # major version of torch.export's JSON; minor ones only add to it
_DATA = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|extra/.*"
    r"|models/\w+\.json|data/(weights|constants)/(\w+_config\.json|(weight|tensor)_\d+)"
)
"""Members that are text or raw tensors."""
_PICKLED = re.compile(r"data/sample_inputs/\w+\.pt")
"""The images that the program was traced with: a pickle, in every archive that torch writes."""


def load_program(path: str | Path) -> nn.Module:
    """Returns the classifier in a ``.pt2`` file, for example as a teacher whose logits are all that is wanted.

    Only allowed tensor operations are run, and no pickle is used. Every archive that torch writes holds one, the images
    it was traced with. It is opened once with torch's restricted unpickler (tensors and plain containers), as a check,
    and thrown away: an archive with code in it was made to harm, even if what is read of it is data.

    The weights come onto the CPU, frozen; the network may be moved. It computes as it was exported: a program saved in
    training mode stays in it.

    Args:
        path: what ``torch.export.save`` wrote of a network that maps one batch of images, of any number, to logits.

    Raises:
        ValueError: the file is missing, damaged or of another format; it holds pickled or compiled code, or uses an
            operator that is not allowed; the program has other inputs and outputs, or a fixed number of images.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"a program must be a file, got {path}, which is none. Check the path")
    try:
        members = _members(path)
        _check_members(members)
        return _network(members)
    except ProgramError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes make the readers fail in any way; none of them is our fault
        reason = first_line(error)
        raise ValueError(
            f"{path}: a program must be as torch.export.save writes it, got something amiss "
            f"({type(error).__name__}: {reason}). Save it again with a current torch"
        ) from None


def _members(path: Path) -> dict[str, bytes]:
    """Returns what is in the archive, by its name within the one folder that all of it lies in."""
    members: dict[str, bytes] = {}
    roots = set()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            root, _, name = info.filename.partition("/")
            roots.add(root)
            if info.compress_type != zipfile.ZIP_STORED or len(roots) > 1 or not name or name in members:
                raise ProgramError(
                    "a program must be one folder of distinct, uncompressed members, got "
                    f"{info.filename!r}. Save it again with a current torch"
                )
            members[name] = archive.read(info)
    return members


def _check_members(members: Mapping[str, bytes]) -> None:
    for name, content in members.items():
        if _PICKLED.fullmatch(name):
            _check_pickle(name, content)
        elif not _DATA.fullmatch(name):
            raise ProgramError(
                f"a program must hold a graph and raw tensors only, got {name!r}; it was not opened. "
                "Save the plain network again with a current torch, or give it as ONNX"
            )
    order = members.get("byteorder", b"little").decode("ascii", "replace")
    if order != sys.byteorder:
        raise ProgramError(
            f"a program must be in this machine's byte order, {sys.byteorder}, got {order!r}. Save it again here"
        )


def _check_pickle(name: str, content: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about foreign pickles: the error below says it
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        code = re.search(r"GLOBAL (\S+)", str(error))  # the wording of torch's refusal
        asks = f"asks for {code[1]}" if code else "is not of tensors alone"
        raise ProgramError(
            f"a program must hold no pickled code, got {name}, which {asks}; nothing was run. "
            "Ask its author for weights or ONNX"
        ) from None


def _network(members: Mapping[str, bytes]) -> nn.Module:
    names = [name for name in members if name.startswith("models/")]
    if len(names) != 1:
        raise ProgramError(
            f"a file must hold one program, got {len(names)}. Save the network alone with a current torch"
        )
    document = json.loads(members[names[0]])
    version = document["schema_version"]["major"]
    if version != _SCHEMA:
        raise ProgramError(
            f"a program must have schema {_SCHEMA}, got {version}. Save it with a current torch"
        )
    model = names[0].removeprefix("models/").removesuffix(".json")
    stored = _tensors(members, "weights", model) | _tensors(members, "constants", model)
    graph, signature = document["graph_module"]["graph"], document["graph_module"]["signature"]
    tensors, images = {}, []
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            images.append(content["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            tensors[content["arg"]["name"]] = stored[content[f"{kind}_name"]]
        else:
            raise ProgramError(f"a program must take tensors only, got a {kind}. Export the network alone")
    results = [kind for spec in signature["output_specs"] for kind in spec]
    if len(images) != 1 or results != ["user_output"]:
        raise ProgramError(
            f"a program must map images to logits and nothing else, got {len(images)} inputs and "
            f"{', '.join(results) or 'no output'}. Export the network in eval mode, logits only"
        )
    batch = graph["tensor_values"][images[0]]["sizes"][0]
    if "as_int" in batch:
        raise ProgramError(
            f"a program must take any number of images, got {batch['as_int']} fixed. Export it with a dynamic batch"
        )
    logits = signature["output_specs"][0]["user_output"]["arg"]["as_tensor"]["name"]
    return ProgramNetwork(tensors, graph["nodes"], images[0], logits)


def _tensors(members: Mapping[str, bytes], kind: str, model: str) -> dict[str, Tensor]:
    """Returns the tensors of ``data/weights`` or ``data/constants`` by their names in the network."""
    tensors: dict[str, Tensor] = {}
    for name, entry in json.loads(members[f"data/{kind}/{model}_{kind}_config.json"])["config"].items():
        if entry["use_pickle"] is not False:
            raise ProgramError(
                f"a program must keep its tensors raw, got {name!r} pickled; it was not opened. "
                "Ask its author for weights or ONNX"
            )
        meta = entry["tensor_meta"]
        dtype, content = DTYPES[meta["dtype"]], members[f"data/{kind}/{entry['path_name']}"]
        size, stride = ([whole(item["as_int"]) for item in meta[key]] for key in ("sizes", "strides"))
        # a copy lies where torch aligns it: the last bits of a product may depend on that
        flat = (
            torch.frombuffer(bytearray(content), dtype=dtype).clone()
            if content
            else torch.empty(0, dtype=dtype)
        )
        if math.prod(size) > len(flat):
            raise LookupError(f"{name!r} has fewer numbers than its shape {size}")
        tensor = flat.as_strided(
            size, stride, whole(meta["storage_offset"]["as_int"])
        )  # torch checks the bounds
        tensors[name] = nn.Parameter(tensor, requires_grad=False) if entry["is_param"] is True else tensor
    return tensors
