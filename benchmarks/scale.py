"""The steps of embedding, one by one, into the file from which docs/scale.md computes its tables.

    python -m benchmarks.scale [--output docs/_ext/scale.json] [--ray]

Each is the time of one core, in CPU time, so that a busy machine counts less: reading and decoding a JPEG, all
of it and at reduced size; a model on one thread, by engine; writing a row; listing a file; looking at a file of
rows at the end. Where the file is of the same machine, lesser times in it are kept. With ``--ray`` the images
per second of two actors of one thread each are added: the page sets them against what the steps predict.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch

from benchmarks.__main__ import machine
from benchmarks.embed import MODELS, draw_image, make_images, measure_ray
from classy_vision.cost.count import count
from classy_vision.embed import Settings
from classy_vision.embed.encoder import BATCH_PER_THREAD, Encoder, load_encoder
from classy_vision.embed.folder import Folder, Layout, open_shard
from classy_vision.embed.sources import Sample, list_folder, write_listing
from classy_vision.models import build_model
from classy_vision.predict.inputs import Input, read_input
from classy_vision.predict.predictor import find_data

OUTPUT = Path("docs/_ext/scale.json")
SIZES = ((256, 256), (500, 375), (1000, 750), (2000, 1500), (4000, 3000))
MIXED = "256 to 1000"
CONFIGS = {name: config for name, (config, _) in MODELS.items()}
CONFIGS |= {"vit_l_16": {"name": "vit_l_16", "heads": []}}
ROWS, SHARDS, FILES = 8192, 50, 5000


def clock(call: Callable[[], object], rounds: int = 5) -> float:
    """The CPU time of a call, in milliseconds: the least of several, which others have disturbed least."""
    call()
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        call()
        found.append(time.process_time() - begin)
    return 1e3 * min(found)


def decode(files: list[Path]) -> dict[str, float]:
    data = find_data(build_model("regnet_y_400mf", heads=[]))
    found = {"bytes": sum(file.stat().st_size for file in files) / len(files)}
    for how in ("full", "reduced"):
        seen = data.model_copy(update={"decode": how})
        spent = [clock(partial(read_input, Input("", file), seen, 3), 9) for file in files]
        found[f"{how} ms"] = sum(spent) / len(files)
    return found


def decode_all(folder: Path) -> dict[str, dict[str, float]]:
    found = {}
    for width, height in SIZES:
        files = [folder / f"{width}-{n}.jpg" for n in range(10 if width < 1500 else 3)]
        for n, file in enumerate(files):
            draw_image(n, width, height).save(file, quality=90)
        found[f"{width} × {height}"] = decode(files)
    make_images(folder / "mixed", 60)
    found[MIXED] = decode(sorted((folder / "mixed").iterdir()))
    return found


def run_model(config: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(1)
    model = build_model(config).eval()
    found: dict[str, float] = {"macs": count(model).macs}
    for engine in (None, "openvino"):
        encoder: Encoder = load_encoder(model, Settings(engine=engine, device="cpu"))
        x = np.zeros((BATCH_PER_THREAD, 1, 3, 224, 224), np.float32)
        found[f"{engine or 'plain'} ms"] = clock(partial(encoder, x)) / len(x)
        found["values"] = sum(shape[0] for shape in encoder.measure().values())
    return found


def write_rows(folder: Path, values: int = 384) -> float:
    """Microseconds for a row."""
    layout = Layout({"block/mean": (values,)}, "float32", pyarrow.schema([("label", pyarrow.string())]))
    cells = pyarrow.table({"label": ["daisy"]})
    row = {"block/mean": np.random.default_rng(0).normal(size=values).astype(np.float32)}

    def write() -> None:
        with open_shard(folder / "shard.parquet", layout) as writer:
            for n in range(ROWS):
                writer.add(Sample(f"train/{n}", None, f"/data/train/{n}", 0, cells), row)

    return 1e3 * clock(write) / ROWS


def list_files(folder: Path) -> float:
    """Microseconds for a file."""
    folder.mkdir()
    for n in range(FILES):
        (folder / f"{n}.jpg").touch()
    return (
        1e3
        * clock(lambda: write_listing(list_folder(str(folder), "image"), folder.parent / "l", 4096), 1)
        / FILES
    )


def look_at_shards(folder: Path) -> float:
    """Milliseconds for a shard: it is looked at before the work, and read for the manifest."""
    layout = Layout({"block/mean": (384,)}, "float32", pyarrow.schema([]))
    found = Folder(folder)
    for index in range(SHARDS):
        with open_shard(found.find_shard(index), layout):
            pass
    found.write_about({"version": 1})

    def look() -> None:
        assert all(found.holds(index) for index in range(SHARDS))
        found.finish({}, SHARDS)

    return clock(look) / SHARDS


def measure(folder: Path) -> dict[str, Any]:
    return {
        "machine": machine(),
        "decode": decode_all(folder),
        "models": {name: run_model(config) for name, config in CONFIGS.items()},
        "row us": write_rows(folder),
        "file us": list_files(folder / "files"),
        "shard ms": look_at_shards(folder),
    }


def least(found: Any, before: Any) -> Any:
    """Of each time the lesser, where both are of the same machine: what disturbs only adds."""
    if isinstance(found, dict) and isinstance(before, dict):
        return {**before, **{key: least(value, before.get(key, value)) for key, value in found.items()}}
    return min(found, before) if isinstance(found, float) else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--images", type=int, default=600, help="for --ray")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.ray:
            found = json.loads(options.output.read_text())
            make_images(Path(folder, "images"), options.images)
            found["ray"] = {name: measure_ray(name, Path(folder, "images"), Path(folder)) for name in MODELS}
        else:
            found = measure(Path(folder))
            if (
                options.output.is_file()
                and (known := json.loads(options.output.read_text()))["machine"] == machine()
            ):
                found = least(found, known)
    options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
