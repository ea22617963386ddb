"""Valid files of every kind, mutations of them, and a process that reads what is left of them.

``python -m tests.fuzzing FOLDER FIRST`` reads the files of a folder from the one of that number on. It says
before each which it is and after each what came of it, so that whoever waits knows where it hangs or dies.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import resource
import struct
import sys
import tarfile
import traceback
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classy_vision.config import ConfigError

TRUNK = {"name": "resnet", "num_blocks": [1], "init_planes": 8, "num_classes": 2}
MARK = "fuzzing:"
"""Before each line of the process; libraries print others."""
ROOM = 1 << 30
"""Bytes that reading a file may take."""


# -- valid files


def make_seeds(folder: Path) -> dict[str, Path]:
    """A valid file of every kind, by kind."""
    made = {kind: folder / kind / name for kind, (name, *_) in KINDS.items()}
    for kind, path in made.items():
        path.parent.mkdir()
        KINDS[kind][1](path)
    return made


def _model() -> Any:
    from classy_vision.models import build_model

    return build_model(TRUNK).eval()


def _config(path: Path) -> None:
    path.write_bytes(Path("configs/digits.yaml").read_bytes())


def _model_json(path: Path) -> None:
    head = {"name": "fully_connected", "unique_id": "a", "num_classes": 2, "fork_block": "trunk_output"}
    path.write_text(json.dumps({"name": "resnet", "num_blocks": [1], "init_planes": 8, "heads": [head]}))


def _safetensors(path: Path) -> None:
    from classy_vision.models import save_weights

    save_weights(_model(), path, layout="torchvision" if path.suffix == ".safetensors" else "native")


def _torch_zip(path: Path) -> None:
    torch.save({"model": _model().state_dict(), "epoch": 3}, path)


def _legacy(path: Path) -> None:
    torch.save(_model().state_dict(), path, _use_new_zipfile_serialization=False)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1, "b": [1.5, "c"]}, 2))


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("tensors", "pickle", "storages"):
            info = tarfile.TarInfo(name)
            info.size = 64
            archive.addfile(info, io.BytesIO(pickle.dumps(1, 2).ljust(64, b".")))


def _checkpoint(path: Path) -> None:
    state = _model().state_dict()
    state = {"model": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "history": [{"epoch": 1.0}]}
    torch.save({**state, "data": "0" * 64, "scaler": None}, path)


def _metrics(path: Path) -> None:
    epoch = {"epoch": 1, "val/a/accuracy": 0.5, "train/a/loss": 1.25}
    path.write_text(json.dumps({"final": epoch, "epochs": [epoch] * 3}, indent=2))


def _metadata(format: str) -> Any:
    from classy_vision.export.metadata import Metadata

    return Metadata(
        format=format,
        input_shape=(None, 3, 32, 32),
        max_batch=8,
        outputs=("default_head",),
        heads={"default_head": {"kind": "classification", "classes": ("cat", "dog")}},
        preprocessing={"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        model=TRUNK,
    )


def _exported(path: Path) -> None:
    from classy_vision.export.metadata import KEY
    from classy_vision.weights.files import write_tensors

    write_tensors(path, _model().state_dict(), {KEY: _metadata("safetensors").dump()})


def _onnx(path: Path) -> None:
    from onnx import TensorProto, helper

    from classy_vision.export.metadata import KEY

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])
    output = helper.make_tensor_value_info("default_head", TensorProto.FLOAT, ["n", 2])
    kernel = np.ones((2, 3, 32, 32), np.float32)
    weight = helper.make_tensor("w", TensorProto.FLOAT, kernel.shape, kernel.ravel())
    nodes = [helper.make_node("Conv", ["images", "w"], ["y"])]
    nodes.append(helper.make_node("Flatten", ["y"], ["default_head"]))
    graph = helper.make_graph(nodes, "graph", [images], [output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {KEY: _metadata("onnx").dump()})
    path.write_bytes(model.SerializeToString())


def _openvino(path: Path) -> None:
    """The graph and its weights; either of them may be ``path``."""
    import openvino as ov
    from openvino import opset13 as ops

    from classy_vision.export.metadata import KEY
    from classy_vision.export.openvino_file import WEIGHTS

    images = ops.parameter(ov.PartialShape([-1, 3, 32, 32]), np.float32, name="images")
    images.output(0).get_tensor().set_names({"images"})
    flat = ops.reshape(images, np.array([0, -1]), special_zero=True)
    output = ops.matmul(flat, np.ones((2, 3 * 32 * 32), np.float32), False, True)
    output.output(0).get_tensor().set_names({"default_head"})
    model = ov.Model([ops.result(output)], [images], "model")
    model.set_rt_info(_metadata("openvino").dump(), [KEY])
    model.set_rt_info("0" * 64, [WEIGHTS])
    ov.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    _write_digest(path)


def _write_digest(path: Path) -> None:
    """Puts the digest of the weights into the graph, as whoever forges both would."""
    graph, digest = path.with_suffix(".xml"), sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
    graph.write_text(
        re.sub('(classy_vision_weights value=")[0-9a-f]{64}', rf"\g<1>{digest}", graph.read_text())
    )


def _program(path: Path) -> None:
    from classy_vision.export.exported_program import EXTRA

    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2]

    program = torch.export.export(Small(), (torch.zeros(2, 3, 32, 32),))
    torch.export.save(program, path, extra_files={EXTRA: _metadata("exported-program").dump()})


def _table(path: Path) -> None:
    columns = {
        "path": ["here.png"] * 4,
        "split": ["train", "train", "val", "val"],
        "kind": ["a", "b", "a", "b"],
    }
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table(columns), path)
    else:
        path.write_text("\n".join(map(",".join, [columns.keys(), *zip(*columns.values())])))


def _comparison(path: Path) -> None:
    from classy_vision.study.files import write_table
    from classy_vision.study.row import Row

    rows = [Row(f"m{i}", "g", (3, 32, 32), params=1e6, macs=2e9, accuracies={"a": 0.5}) for i in range(3)]
    write_table(path, rows, rows[:1])


def _image(path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)


# -- readers


def _read_config(path: Path) -> None:
    from classy_vision.train.config import load_settings

    load_settings(path)


def _build(path: Path) -> None:
    from classy_vision.models import build_model
    from classy_vision.untrusted import read_foreign_config

    with torch.device("meta"):
        build_model(read_foreign_config(path))


def _examine(path: Path) -> None:
    from classy_vision.identify.identify import examine
    from classy_vision.weights.files import read_tensors

    examine(read_tensors(path))


def _load_exported(path: Path) -> None:
    from classy_vision.export import load_exported

    load_exported(path)


def _load_openvino(path: Path) -> None:
    """With the other one of the two files as it was."""
    other = path.with_suffix(".bin" if path.suffix == ".xml" else ".xml")
    if not other.exists():
        other.write_bytes((path.parents[2] / "seeds" / path.parent.name / other.name).read_bytes())
        if path.suffix == ".bin":
            _write_digest(path)
    _load_exported(path.with_suffix(".xml"))


def _read_checkpoint(path: Path) -> None:
    from classy_vision.train.run_folder import RunFolder

    RunFolder(path.parent).read_checkpoint()


def _read_metrics(path: Path) -> None:
    from classy_vision.study.candidates import find_candidates

    (path.parent / "config.yaml").write_bytes(Path("configs/digits.yaml").read_bytes())
    find_candidates([str(path.parent)])


def _read_table(path: Path) -> None:
    from classy_vision.data.config import TableConfig
    from classy_vision.data.sources import load_records

    (path.parent / "here.png").touch()
    load_records(TableConfig(source="table", file=str(path), image_size=32))


def _read_comparison(path: Path) -> None:
    from classy_vision.study.files import read_table

    read_table(path)


def _read_image(path: Path) -> None:
    from classy_vision.data.images import open_image

    open_image(path, 3)


KINDS: Mapping[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
    "config": ("config.yaml", _config, _read_config),
    "model": ("config.json", _model_json, _build),
    "safetensors": ("m.safetensors", _safetensors, _examine),
    "npz": ("m.npz", _safetensors, _examine),
    "torch": ("m.pt", _torch_zip, _examine),
    "legacy": ("m.pth", _legacy, _examine),
    "pickle": ("m.pkl", _pickle, _examine),
    "tar": ("m.tar", _tar, _examine),
    "checkpoint": ("checkpoint.pt", _checkpoint, _read_checkpoint),
    "metrics": ("metrics.json", _metrics, _read_metrics),
    "exported": ("m.safetensors", _exported, _load_exported),
    "onnx": ("m.onnx", _onnx, _load_exported),
    "program": ("m.pt2", _program, _load_exported),
    "csv": ("t.csv", _table, _read_table),
    "parquet": ("t.parquet", _table, _read_table),
    "comparison csv": ("t.csv", _comparison, _read_comparison),
    "comparison parquet": ("t.parquet", _comparison, _read_comparison),
    "png": ("i.png", _image, _read_image),
    "jpeg": ("i.jpg", _image, _read_image),
    "webp": ("i.webp", _image, _read_image),
}
"""The name of a file of each kind, what writes one, and what reads it."""
if find_spec("openvino"):
    KINDS = {
        **KINDS,
        "openvino": ("m.xml", _openvino, _load_openvino),
        "openvino weights": ("m.bin", _openvino, _load_openvino),
    }


# -- mutations

WORDS = [
    b"", b"-1", b"0", b"NaN", b"null", b"[]", b"{}", b"true", b"1e999", b"9" * 30, b"4294967296", b"2147483647",
    b"\xff\xfe", b"\x00", b"*a", b"&a [*a]", b"<<: *a", b"../x", b"\xc2\xb2", b'"' + b"x" * 300 + b'"',
    b"[" * 300,
]  # fmt: skip
NUMBERS = [struct.pack("<I", n) for n in (0, 2**31 - 1, 2**32 - 1)]
NUMBERS += [struct.pack("<Q", n) for n in (2**31, 2**40, 2**64 - 1)] + [struct.pack(">I", 2**31 - 1)]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A file with a few places changed; of an archive, now and then, one of its parts."""
    if zipfile.is_zipfile(io.BytesIO(data)) and rng.random() < 0.6:
        return _mutate_part(data, rng)
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = rng.choice(_MUTATIONS)(data, rng)
    return data


def _mutate_part(data: bytes, rng: random.Random) -> bytes:
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(new, "w") as archive:
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            part = old.read(name)
            archive.writestr(name, mutate(part, rng) if name == chosen else part)
    return new.getvalue()


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        if changed:
            changed[_place(data, rng)] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 4, 50)) :]


def _again(data: bytes, rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((1, 8, 60, 500))
    return data[:at] + data[at : at + size] * rng.choice((2, 3, 200)) + data[at + size :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.choice(WORDS) + data[at:]


def _number(data: bytes, rng: random.Random) -> bytes:
    at, number = _place(data, rng), rng.choice(NUMBERS)
    return data[:at] + number + data[at + len(number) :]


def _word(data: bytes, rng: random.Random) -> bytes:
    """Another word in the place of one, as in JSON and YAML."""
    found = list(re.finditer(rb"[\w.+-]+", data[:100_000]))
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(WORDS) + data[match.end() :]


def _place(data: bytes, rng: random.Random) -> int:
    """Somewhere, and half of the time where headers are."""
    end = min(len(data), 400) if rng.random() < 0.5 else len(data)
    return rng.randrange(end) if end else 0


_MUTATIONS = (_flip, _cut, _drop, _again, _insert, _number, _word, _word)


# -- the process that reads


def read_all(folder: Path, first: int) -> None:
    """Reads the files of ``folder`` from number ``first`` on, and says what came of each."""
    for kind, (name, _, reader) in KINDS.items():  # what is imported and made once is not the file's
        print(f"{MARK} {kind} {_outcome(reader, folder / 'seeds' / kind / name)}", flush=True)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    for number, path in sorted((int(path.parts[-3]), path) for path in folder.glob("[0-9]*/*/*")):
        if number >= first:
            print(f"{MARK} {number} begins", flush=True)
            print(f"{MARK} {number} {_outcome(KINDS[path.parent.name][2], path)}", flush=True)


def _outcome(reader: Callable[[Path], None], path: Path) -> str:
    try:
        reader(path)
    except MemoryError:
        return "takes more than the memory allowed"
    except ConfigError as error:
        said = str(error)
        if "allocate memory" in said or "alloc" in said.lower():
            return f"takes more than the memory allowed: {said[:300]!r}"
        return f"is refused: {said[:200]!r}"
    except BaseException:
        return f"ends in a traceback: {' | '.join(traceback.format_exc().splitlines()[-7:])!r}"
    return "is read"


if __name__ == "__main__":
    torch.set_num_threads(1)
    read_all(Path(sys.argv[1]), int(sys.argv[2]))
