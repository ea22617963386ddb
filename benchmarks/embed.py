"""Embedding a folder of JPEGs, ours beside the peers, in one run.

    python -m benchmarks.embed [--images 2000] [--rounds 3] [--models regnet_y_400mf vit_s_16] [--ray]

The JPEGs have 256 to 1000 pixels a side; they are made by this script and always the same. All models see 224
pixels and begin with random weights. Contenders take turns in one process, with as many threads and workers as
there are processors; loading and compiling models is not timed, in any of them.

- ours: what ``classy embed`` does, from listing the folder to writing the manifest; on PyTorch and OpenVINO.
- loader: the same model and engine over torch's DataLoader with torchvision's transforms. Nothing is written.
- clip-retrieval: its ``FilesReader`` before the same model and engine. Nothing is written.
- timm: the loop of its inference script (``create_transform``, ``ImageDataset``, ``create_loader``), its model.
- lightly-train: its ``embed`` with timm's model; only reading its checkpoint is left out.

clip-retrieval asks for numpy below 2 and pyarrow below 16, and lightly-train for many packages that we do not
need: they are installed into a folder of their own without dependencies (``pip install --no-deps --target``),
which is put at the end of PYTHONPATH. What is not there is left out, and named.

Core time is what an image takes on one core, in user and system time of the process and its workers: it does
not depend on who else uses the machine. Busy is the share of our time in which the model runs. With ``--ray``
two actors of one thread each are timed instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.tables import about, header, row
from benchmarks.timing import ratio, take_turns
from classy_vision.data.files import count_processors
from classy_vision.embed import Settings
from classy_vision.embed.encoder import Encoder
from classy_vision.embed.folder import Folder
from classy_vision.embed.work import Task, Worker
from classy_vision.models import ClassyModel, build_model

VIT_S = {
    "name": "vision_transformer",
    **{"image_size": 224, "patch_size": 16, "num_layers": 12},
    **{"hidden_dim": 384, "mlp_dim": 1536, "num_heads": 6},
}
# our config, and timm's name of the same network
MODELS: dict[str, tuple[Any, str]] = {
    "regnet_y_400mf": ({"name": "regnet_y_400mf", "heads": []}, "regnety_004"),
    "vit_s_16": ({**VIT_S, "heads": []}, "vit_small_patch16_224"),
}
BATCH, SIDE = 8, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENGINES = {"plain": None, "openvino": "openvino"}
WORKERS = min(4, count_processors())

Contender = Callable[[], float]
"""Goes through all images once, and returns the seconds that it took."""


def make_images(folder: Path, count: int) -> None:
    """Writes JPEGs of many sizes."""
    folder.mkdir(parents=True)
    for n in range(count):
        width, height = (int(side) for side in np.random.default_rng(n).integers(256, 1001, 2))
        draw_image(n, width, height).save(folder / f"{n:05}.jpg", quality=90)


def draw_image(seed: int, width: int, height: int) -> Image.Image:
    """Draws patches of many sizes, which take about as many bytes per pixel as photographs."""
    draw = np.random.default_rng(seed)
    layers = [draw.normal(0, spread, (height // cut + 1, width // cut + 1, 3)) for cut, spread in LAYERS]
    pixels = 128 + sum(_enlarge(layer, width, height) for layer in layers)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


LAYERS = ((64, 40), (16, 20), (4, 14), (2, 14), (1, 14))
"""Sizes of patches, and how much they differ in grey levels."""


def _enlarge(layer: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
    planes = [Image.fromarray(layer[:, :, c].astype(np.float32)) for c in range(3)]
    return np.stack([plane.resize((width, height), Image.Resampling.BICUBIC) for plane in planes], -1)


# -- contenders


def ours(model: Path, images: Path, output: Path, engine: str | None, busy: list[float]) -> Contender:
    settings = Settings(engine=engine, device="cpu", batch_size=BATCH)
    worker = Worker(Task(model, images, Folder(output), settings, force=True))
    signature = worker.signature

    def run() -> float:
        begin = time.perf_counter()
        worker.__dict__.pop("source", None)  # which is listed anew
        with worker.task.folder.lock():
            source = worker.task.begin(signature)
            counts = worker.run(worker.task.list_missing(source))
            worker.task.finish(signature, source)
        busy.append(counts.busy / counts.seconds)
        return time.perf_counter() - begin

    return run


def over(batches: Callable[[], Iterator[Tensor]], run_model: Callable[[Tensor], Any]) -> Contender:
    """A plain loop over batches (n, c, h, w)."""

    def run() -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            kept = [run_model(batch) for batch in batches()]
        assert kept
        return time.perf_counter() - begin

    return run


def encode(encoder: Encoder) -> Callable[[Tensor], Any]:
    return lambda images: encoder(images[:, None].numpy())


def usual_transform() -> Any:
    from benchmarks.peers import torchvision

    T = torchvision.transforms  # noqa: N806  # as everybody writes it
    return T.Compose([T.Resize(256), T.CenterCrop(SIDE), T.ToTensor(), T.Normalize(MEAN, STD)])


class Files(torch.utils.data.Dataset[Tensor]):
    """Images of a folder, as everybody reads them."""

    def __init__(self, folder: Path) -> None:
        self.files, self.transform = sorted(folder.iterdir()), usual_transform()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def loader_batches(images: Path) -> Iterator[Tensor]:
    yield from torch.utils.data.DataLoader(Files(images), BATCH, num_workers=WORKERS)


def timm_batches(images: Path, model: Any) -> Iterator[Tensor]:
    from benchmarks.peers import timm

    data = timm.data.resolve_data_config(model=model)
    dataset = timm.data.ImageDataset(str(images), reader="")  # a folder without classes
    loader = timm.data.create_loader(
        dataset, batch_size=BATCH, use_prefetcher=False, num_workers=WORKERS, device=torch.device("cpu"), **data
    )
    for batch, _ in loader:
        yield batch


def clip_batches(reader: ModuleType, images: Path) -> Iterator[Tensor]:
    transform = usual_transform()

    def prepare(image: Image.Image) -> Tensor:
        return transform(image.convert("RGB"))

    found = reader.FilesReader(lambda keys: keys, prepare, None, images, BATCH, WORKERS, enable_text=False)
    for batch in found:
        yield batch["image_tensor"]


def find_clip_reader() -> ModuleType | None:
    """The module of readers alone: its package imports servers and indices."""
    for folder in sys.path:
        if (file := Path(folder, "clip_retrieval/clip_inference/reader.py")).is_file():
            spec = importlib.util.spec_from_file_location("clip_reader", file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None


def lightly_train(images: Path, output: Path, model: Any) -> Contender:
    os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"
    import lightly_train._commands.embed as command
    from lightly_train._models.embedding_model import EmbeddingModel
    from lightly_train._models.timm.timm import TIMMModelWrapper

    state = SimpleNamespace(
        normalize_args=SimpleNamespace(mean=MEAN, std=STD),
        models=SimpleNamespace(embedding_model=EmbeddingModel(TIMMModelWrapper(model))),
    )
    command._get_checkpoint = lambda checkpoint: SimpleNamespace(lightly_train=state)
    (marker := output.with_suffix(".ckpt")).touch()
    options = {"batch_size": BATCH, "num_workers": WORKERS, "accelerator": "cpu", "overwrite": True}

    def run() -> float:
        begin = time.perf_counter()
        command.embed(out=output, data=images, checkpoint=marker, **options)
        return time.perf_counter() - begin

    return run


Busy = dict[str, list[float]]


def find_contenders(name: str, images: Path, folder: Path, busy: Busy) -> dict[str, Contender]:
    from benchmarks.peers import timm

    config, other = MODELS[name]
    ClassyModel.save_pretrained(build_model(config).eval(), folder / name)
    there = timm.create_model(other, num_classes=0).eval()
    found: dict[str, Contender] = {}
    for engine, word in ENGINES.items():
        if word and importlib.util.find_spec(word) is None:
            continue
        busy[engine] = []
        found[f"ours, {engine}"] = ours(folder / name, images, folder / f"{name}-{engine}", word, busy[engine])
        encoder = Worker(
            Task(folder / name, images, Folder(folder), Settings(engine=word, batch_size=BATCH, device="cpu"))
        ).encoder
        found[f"loader, {engine}"] = over(partial(loader_batches, images), encode(encoder))
        if reader := find_clip_reader():
            found[f"clip-retrieval, {engine}"] = over(partial(clip_batches, reader, images), encode(encoder))
    found["timm"] = over(partial(timm_batches, images, there), there)
    if importlib.util.find_spec("lightly_train"):
        found["lightly-train"] = lightly_train(images, folder / f"{name}.pt", there)
    return found


# -- tables


def clock(run: Contender) -> tuple[float, float]:
    """The seconds of a contender, and those of cores."""
    begin = sum(os.times()[:4])
    seconds = run()
    return seconds, sum(os.times()[:4]) - begin


def compare(name: str, images: Path, folder: Path, rounds: int) -> list[str]:
    """A row for each contender: images per second, its time over that of ours on the same engine, and busy."""
    busy: dict[str, list[float]] = {}
    found = find_contenders(name, images, folder, busy)
    both = take_turns({contender: partial(clock, run) for contender, run in found.items()}, rounds)
    taken = {contender: [seconds for seconds, _ in pairs] for contender, pairs in both.items()}
    count, lines = len([*images.iterdir()]), []
    for contender, seconds in taken.items():
        engine = contender.partition(", ")[2] or "plain"
        cells = [name, contender, f"{count / statistics.median(seconds):.1f}"]
        cells += [f"{ratio(seconds, taken[f'ours, {engine}']):.2f}"]
        cells += [f"{1e3 * statistics.median(cores for _, cores in both[contender]) / count:.1f}"]
        share = f"{statistics.median(busy[engine][1:]):.0%}" if contender.startswith("ours") else ""
        lines.append(row([*cells, share]))
    return lines


def measure_ray(name: str, images: Path, folder: Path) -> dict[str, float]:
    """Measures two actors of one thread each over the later half of the images, when both are at work."""
    from classy_vision.embed import embed

    ClassyModel.save_pretrained(build_model(MODELS[name][0]).eval(), folder / f"{name}-ray")
    options: dict[str, Any] = {"device": "cpu", "threads": 1, "workers": 1, "shard_size": 16, "force": True}
    ends: list[tuple[int, float, float]] = []

    def note(now: Any) -> None:
        ends.append((now.rows, time.perf_counter(), find_actor_seconds()))

    begin = time.perf_counter()
    embed(folder / f"{name}-ray", images, folder / "there", runner="ray", actors=2, progress=note, **options)
    rows, seconds, cores = (last - first for first, last in zip(ends[len(ends) // 2], ends[-3]))
    return {"images/s": rows / seconds, "core ms": 1e3 * cores / rows, "start s": ends[0][1] - begin}


def find_actor_seconds() -> float:
    """The seconds of cores that the actors of this machine have had."""
    spent = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::Actor"):
                spent += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return spent / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--ray", action="store_true", help="times Ray instead")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print(
        about(torch.get_num_threads(), f"{options.images} JPEGs", f"{WORKERS} workers", f"batches of {BATCH}")
    )
    folder = Path(tempfile.mkdtemp())
    try:
        make_images(folder / "images", options.images)
        _print(folder, options)
    finally:
        shutil.rmtree(folder)


def _print(folder: Path, options: argparse.Namespace) -> None:
    images = folder / "images"
    if options.ray:
        print(header("model", "images/s", "core time (ms)", "first rows after (s)"))
        for name in options.models:
            print(row([name, *(f"{value:.1f}" for value in measure_ray(name, images, folder).values())]))
        return
    print(header("model", "contender", "images/s", "time over ours", "core time (ms)", "busy", words=2))
    for name in options.models:
        print(*compare(name, images, folder, options.rounds), sep="\n", flush=True)
    if find_clip_reader() is None:
        print("\nclip-retrieval is not on the path.")
    if importlib.util.find_spec("lightly_train") is None:
        print("\nlightly-train is not on the path.")


if __name__ == "__main__":
    main()
