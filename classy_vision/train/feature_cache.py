"""Features of a frozen trunk on disk: computed once, and read in every epoch by every run that has the same.

What heads read of the trunk is written in shards, each there as a whole or not at all. The name of their
folder is a digest of the weights, the preprocessing, the files and the first batch of features: where any of
them changes, another folder is written, and a folder that is there holds the bits that this run would compute.
Processes and runs that write to the same folder share the work without waiting for each other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from classy_vision import __version__
from classy_vision.config import ConfigError
from classy_vision.data.batches import Batch, Key, Sample, make_loader
from classy_vision.data.config import DataConfig
from classy_vision.data.files import describe_file
from classy_vision.errors import OperationError, system_error
from classy_vision.heads.pooled_head import PooledHead
from classy_vision.heads.pooling import Pool
from classy_vision.models import ClassyModel
from classy_vision.text import human
from classy_vision.train.job import Job
from classy_vision.train.run_folder import hash_state
from classy_vision.trunk.heads_apart import read_inputs, run_on_inputs
from classy_vision.trunk.names import END, split_place
from classy_vision.weights.files import read_tensors, replacing, write_tensors
from classy_vision.weights.state import head_of

FOLDER, LIMIT = "CLASSY_FEATURES", "CLASSY_FEATURES_GB"
"""The environment variables that say where features are, and how many gigabytes of them there may be."""
DEFAULT_LIMIT = 50.0
SHARD_ROWS, SHARD_BYTES = 1024, 2**27
"""The most rows and about the most bytes in a shard, of which a kill loses one."""
RESERVE = 2**30
"""Bytes of the disk that are left free."""
RECENT = 3600.0
"""Seconds for which features that were used are not removed."""
VERSION = 1
ABOUT, ERRORS, LABELS = "about.json", "errors", "labels/"
UNSEEN = ("augment", "crop_area", "crops", "on_bad_image")
"""Keys of ``data`` that change no feature that is kept."""
Place = tuple[str, str]
"""The id of a head and a step that it reads."""


class CacheError(OperationError):
    """Features cannot be kept on disk."""


# -- whether there is something to keep


def wants_cache(job: Job, model: ClassyModel) -> bool:
    """Whether the features of the trunk are to be kept.

    Raises:
        ConfigError: they are wanted and change from epoch to epoch.
    """
    wanted = job.settings.schedule.cache_features
    if wanted is False:
        return False
    find_limit()
    changes = explain_changes(job, model)
    if changes and wanted is True:
        raise ConfigError(f"schedule.cache_features = true, but {changes}; 'auto' keeps features where it can")
    return not changes and (wanted is True or job.settings.schedule.epochs > 1)


def describe_changes(job: Job, model: ClassyModel) -> str:
    """Says why the features of a frozen trunk are not kept; "" where they are, or where the trunk learns."""
    changes = explain_changes(job, model)
    if job.settings.schedule.cache_features is False or not changes or not _is_frozen(job, model):
        return ""
    return f"the frozen trunk runs in every epoch: {changes}"


def explain_changes(job: Job, model: ClassyModel) -> str:
    """Says why heads do not read the same features in every epoch; "" where they do."""
    data, schedule = job.settings.data, job.settings.schedule
    augment = data.augmentation
    if not _is_frozen(job, model):
        return "schedule does not freeze all blocks that heads read in every epoch"
    if data.clip:
        return "the clips of training are drawn at random (data.clip)"
    if data.crops > 1:
        return f"evaluation runs it on {data.crops} crops of each image (data.crops), of which one is kept"
    if augment.flip or augment.crop or augment.moves or augment.changes_colours or augment.erase:
        return "data.augment changes the images of training at random"
    return "schedule.mixup and schedule.cutmix mix the images of training" if schedule.mixes else ""


def _is_frozen(job: Job, model: ClassyModel) -> bool:
    """Whether all that heads read is frozen in every epoch."""
    schedule, deepest = job.settings.schedule, model._deepest(model.head_steps())
    for epoch in schedule.changes:
        until = schedule.frozen_until(epoch)
        if until is None or (until != END and model.modules_for_heads()):
            return False
        step = model._step(until)
        if model._deepest({step, deepest}) != step:
            return False
    # A trunk with a forward of its own may run its blocks in another order.
    return not any(p.requires_grad for name, p in model.named_parameters() if head_of(name) is None)


# -- what heads read


class FeatureReader:
    """Computes what the heads of a model read, pooled where a head pools first and learns nothing in doing so.

    Attributes:
        names: of features, by head and step; heads that read the same share one.
    """

    def __init__(self, model: ClassyModel) -> None:
        self.model = model
        self.names: dict[Place, str] = {}
        self._pools = dict(_find_pools(model))

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Computes features (n, ...) of images (n, c, h, w), by name."""
        inputs = read_inputs(self.model, images)
        found: dict[tuple[int, str, int], str] = {}
        features: dict[str, Tensor] = {}
        for place, x in inputs.items():
            pool = self._pools.get(place)
            key = (id(x), pool.kind, pool.prefix) if pool else (id(x), "", 0)
            if key not in found:
                found[key] = str(len(found))
                features[found[key]] = pool(x) if pool else x
            self.names[place] = found[key]
        return features

    @property
    def about(self) -> list[Any]:
        """What is read, as JSON values, whatever heads are called."""
        heads = {str(head.unique_id): head for found in self.model.get_heads().values() for head in found}
        said: dict[str, list[Any]] = {}
        for (name, step), feature in self.names.items():
            head, pool = heads[name], self._pools.get((name, step))
            how = [head.reads_maps, head.reads_token, head.trunk_norm, pool and [pool.kind, pool.prefix]]
            said.setdefault(feature, [step, *how])
        return list(said.values())


def _find_pools(model: ClassyModel) -> Iterator[tuple[Place, Pool]]:
    """Finds the pooling without weights that a head begins with, by head and step."""
    for place, heads in model.get_heads().items():
        steps = [model._step(block) for block in split_place(place)]
        for head in heads:
            # A class that inherits it may do something else first.
            if isinstance(head, PooledHead) and "pools_first" in vars(type(head)) and head.pools_first:
                for step, pool in zip(steps, head.pools, strict=True):
                    if isinstance(pool, Pool) and not any(True for _ in pool.parameters()):
                        yield (str(head.unique_id), step), pool


class OnFeatures(nn.Module):
    """A model that takes images, or rows (n,) whose features are stored.

    Args:
        model: whose heads run.
        stored: by whether the rows are held out; None as long as there are none.
    """

    def __init__(self, model: ClassyModel, stored: StoredFeatures | None = None) -> None:
        super().__init__()
        self.model = model
        self.stored = stored

    def forward(self, x: Tensor) -> Any:
        if self.stored is None or x.is_floating_point():
            return self.model(x)
        return run_on_inputs(self.model, self.stored.read(x))


# -- what is stored


@dataclass
class Layout:
    """How a feature lies in memory, which changes how kernels round.

    Attributes:
        order: its axes without the rows, the outermost first.
    """

    order: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> Layout:
        """Finds the layout of (n, ...)."""
        return cls(tuple(sorted(range(1, x.dim()), key=x.stride().__getitem__, reverse=True)))

    def pack(self, x: Tensor) -> Tensor:
        """Turns a feature so that its rows can be stored; the result is on the CPU."""
        return x.detach().permute(0, *self.order).contiguous().cpu()

    def unpack(self, packed: Tensor) -> Tensor:
        """Turns what was stored back."""
        return packed.permute(0, *(1 + self.order.index(axis) for axis in range(1, packed.dim())))


@dataclass
class StoredSplit:
    """The features of a split, mapped into memory.

    Attributes:
        shards: tensors by name.
        size: rows of each shard but the last.
        where: (records,), the place of each row among those of the split.
        layouts: by name of a feature.
        names: of features, by head and step.
        errors: messages about files that cannot be read, by row.
    """

    shards: Sequence[Mapping[str, Tensor]]
    size: int
    where: Tensor
    layouts: Mapping[str, Layout]
    names: Mapping[Place, str]
    errors: Mapping[int, str]

    def read(self, rows: Tensor) -> dict[Place, Tensor]:
        """Reads what heads read of some rows (n,), on the device of ``rows``."""
        places = self.where[rows.cpu()]
        found = {}
        for name, layout in self.layouts.items():
            packed = self._gather(name, places).to(rows.device, non_blocking=True)
            found[name] = layout.unpack(packed)
        return {place: found[name] for place, name in self.names.items()}

    def labels(self, row: int) -> dict[str, Tensor]:
        """Reads the labels of the pixels of a row, by head."""
        shard, offset = divmod(int(self.where[row]), self.size)
        tensors = self.shards[shard]
        return {name.removeprefix(LABELS): x[offset] for name, x in tensors.items() if name.startswith(LABELS)}

    def _gather(self, name: str, places: Tensor) -> Tensor:
        numbers, offsets = places // self.size, places % self.size
        first = self.shards[0][name]
        found = first.new_empty(len(places), *first.shape[1:])
        for number in sorted(set(numbers.tolist())):
            here = numbers == number
            found[here] = self.shards[number][name][offsets[here]]
        return found


@dataclass
class StoredFeatures:
    """The features of all rows.

    Attributes:
        splits: of training, and of what is held out.
        held_out: (records,), which rows are.
    """

    splits: tuple[StoredSplit, StoredSplit]
    held_out: Tensor

    def read(self, rows: Tensor) -> dict[Place, Tensor]:
        """Reads what heads read of some rows (n,) of one split."""
        held = bool(len(rows)) and bool(self.held_out[rows[0].cpu()])
        return self.splits[held].read(rows)

    def samples(self, held_out: bool) -> StoredSamples:
        """The samples of a split, whose views are their rows."""
        return StoredSamples(self.splits[held_out])


class StoredSamples(Dataset[Sample]):
    """Samples whose features are stored: the number of the row stands for what the model sees of it."""

    def __init__(self, split: StoredSplit) -> None:
        self.split = split

    def __getitem__(self, key: Key) -> Sample:
        row = key[1]
        return Sample(row, torch.tensor([row]), self.split.errors.get(row, ""), self.split.labels(row))


# -- the cache


@dataclass
class Progress:
    """Who is told what goes on.

    Attributes:
        is_stopping: whether the process was asked to end.
        check_files: takes messages about unreadable files, and may raise.
        start: takes how many rows are going to be computed, the bytes of their features, and the folder.
        advance: takes how many were.
    """

    is_stopping: Callable[[], bool]
    check_files: Callable[[list[str]], None]
    start: Callable[[int, int, Path], None]
    advance: Callable[[int], None]


@dataclass
class FeatureCache:
    """The features of a job on disk.

    Attributes:
        job: whose.
        accelerator: of its processes.
        model: on its device, in the mode of training.
    """

    job: Job
    accelerator: Accelerator
    model: ClassyModel

    def fill(self, progress: Progress) -> StoredFeatures | None:
        """Computes what is not there, and opens all of it; None if the process was asked to end.

        Raises:
            CacheError: the features cannot be kept: there is not enough space, or the disk fails.
            ConfigError: a file is unreadable.
        """
        root = find_root()
        splits = [_Shards(self, held_out) for held_out in (False, True)]
        for split in splits:
            split.find(root)
        missing = [split.count_missing() for split in splits]
        needed = sum(count * split.row_bytes for count, split in zip(missing, splits))
        with _explaining(root):
            make_room(root, needed, {split.folder for split in splits})
        progress.start(sum(missing), needed, root)
        if not all(split.fill(progress) for split in splits):
            return None
        training, held_out = (split.open() for split in splits)
        return StoredFeatures((training, held_out), torch.tensor(self.job.records.held_out))

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the features are of, apart from the rows, as JSON values."""
        data, schedule = self.job.settings.data, self.job.settings.schedule
        state = {name: x for name, x in self.model.state_dict().items() if head_of(name) is None}
        model = {
            key: value for key, value in self.job.settings.model.items() if key not in ("heads", "weights")
        }
        labels = {head: self.job.tasks[head].config.model_dump(mode="json") for head in self.job.dense}
        device = self.accelerator.device
        return {
            "version": VERSION,
            "library": __version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": schedule.mixed_precision,
            "model": model,
            "trunk": hash_state(state),
            "data": data.model_dump(mode="json", include={*DataConfig.model_fields} - {*UNSEEN}),
            "source": self._describe_source(),
            "labels": labels,
        }

    def _describe_source(self) -> dict[str, Any]:
        """What images in memory are drawn from; files are described one by one."""
        data = self.job.settings.data
        if any(isinstance(image, Path) for image in self.job.records.images[:1]):
            return {}
        return data.model_dump(mode="json", exclude={*DataConfig.model_fields})


@dataclass
class _Shards:
    """The shards of a split.

    Rows go through the trunk in chunks of the size that batches have, so that kernels are the same: those of
    training in whole ones, the last of which is filled up with the first rows.

    Attributes:
        cache: of which it is.
        held_out: which split.
    """

    cache: FeatureCache
    held_out: bool
    layouts: dict[str, Layout] = field(init=False)
    folder: Path = field(init=False)
    row_bytes: int = field(init=False)
    size: int = field(init=False)
    _about: str = field(init=False)

    def __post_init__(self) -> None:
        job, world = self.cache.job, self.cache.accelerator.num_processes
        schedule = job.settings.schedule
        self.rows = job.records.rows(self.held_out)
        self.chunk = max(1, schedule.batch_size // world // (1 if self.held_out else schedule.accumulate))
        self.samples = job.samples(None if self.held_out else schedule.seed)
        self.reader = FeatureReader(self.cache.model)

    def find(self, root: Path) -> None:
        """Computes the first chunk, which tells where the features are and how large."""
        keys = self._keys(range(min(self.chunk, len(self.rows))))
        (batch,) = make_loader(self.samples, [keys])  # type: ignore[arg-type]  # any iterable will do
        features = self._compute(batch)
        self.layouts = {name: Layout.of(x) for name, x in features.items()}
        first = {**self._pack(features), **_name_labels(batch)}
        self.row_bytes = max(1, sum(x[:1].nbytes for x in first.values()))
        self.size = self.chunk * max(1, min(SHARD_ROWS, SHARD_BYTES // self.row_bytes) // self.chunk)
        about = {
            **self.cache.about,
            "reads": self.reader.about,
            "chunk": self.chunk,
            "size": self.size,
            "side": self.cache.job.settings.data.side(training=not self.held_out),
            "rows": self._fingerprint(),
            "first": hash_state({**first, ERRORS: batch.errors}),
        }
        self._about = json.dumps(about, indent=2, sort_keys=True, default=str)
        self.folder = root / sha256(self._about.encode()).hexdigest()[:32]
        with suppress(OSError):
            os.utime(self.folder / ABOUT)
        for shard in self._numbers:
            self._remove_useless(self._file(shard))

    def count_missing(self) -> int:
        """Counts the rows of the shards that are not there."""
        return sum(len(self._span(shard)) for shard in self._numbers if not self._has(shard))

    def fill(self, progress: Progress) -> bool:
        """Computes the shards that are not there; False if the process was asked to end."""
        if not self.count_missing():
            return True
        with _explaining(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / ABOUT) as beside:
                beside.write_text(self._about, encoding="utf-8")
        sent: deque[tuple[int, range]] = deque()
        workers = self.cache.job.settings.schedule.workers
        pin = self.cache.accelerator.device.type == "cuda"
        loader = make_loader(self.samples, _Missing(self, sent), workers=workers, pin_memory=pin)
        parts: list[dict[str, Tensor]] = []
        errors: dict[int, str] = {}
        for batch in loader:
            shard, span = sent.popleft()
            if progress.is_stopping():
                return False
            progress.check_files(batch.errors)
            parts.append(self._spread(batch, span, errors))
            progress.advance(len(span))
            if span.stop == self._span(shard).stop:
                self._write(shard, parts, errors)
                parts, errors = [], {}
        return True

    def open(self) -> StoredSplit:
        """Maps all shards into memory.

        Raises:
            CacheError: one of them is damaged.
        """
        with _explaining(self.folder):
            shards = [read_tensors(self._file(shard)) for shard in self._numbers]
        with suppress(OSError):  # of a folder that is only read
            os.utime(self.folder / ABOUT)
        where = torch.full((len(self.cache.job.records.held_out),), -1)
        where[torch.tensor(self.rows)] = torch.arange(len(self.rows))
        errors: dict[int, str] = {}
        for number, shard in enumerate(shards):
            told = json.loads(bytes(shard.pop(ERRORS).tolist()))
            errors |= {self.rows[number * self.size + int(place)]: text for place, text in told.items()}
        return StoredSplit(shards, self.size, where, self.layouts, self.reader.names, errors)

    # What hides details

    @property
    def _numbers(self) -> range:
        return range(-(-len(self.rows) // self.size))

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06}.safetensors"

    def _has(self, shard: int) -> bool:
        """Whether a shard is there, and can be seen."""
        return os.path.isfile(self._file(shard))

    def _span(self, shard: int) -> range:
        """The places of the rows of a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, len(self.rows)))

    def _order(self) -> list[int]:
        """The shards in the order in which this process looks at them; others start elsewhere."""
        count, world = len(self._numbers), self.cache.accelerator.num_processes
        start = (os.getppid() + self.cache.accelerator.process_index * count // world) % count
        return [(start + i) % count for i in range(count)]

    def chunks(self) -> Iterator[tuple[int, range, list[Key]]]:
        """Gives the chunks of the shards that are not there by now: shard, places of rows, and their keys."""
        for shard in self._order():
            if self._has(shard):
                continue
            span = self._span(shard)
            for first in span[:: self.chunk]:
                places = range(first, min(first + self.chunk, span.stop))
                yield shard, places, self._keys(places)

    def _keys(self, places: Sequence[int]) -> list[Key]:
        """The keys of a chunk, which is filled up in training."""
        more = 0 if self.held_out else self.chunk - len(places)
        return [(0, self.rows[place]) for place in (*places, *range(more))]

    def _compute(self, batch: Batch) -> dict[str, Tensor]:
        """Computes features as training and evaluation do.

        Raises:
            CacheError: no file of the batch can be read.
        """
        if not len(batch.rows):
            raise CacheError(
                f"features cannot be kept: no file of a batch can be read, such as {batch.errors[0]}"
            )
        images = batch.images.to(self.cache.accelerator.device, non_blocking=True)
        with torch.set_grad_enabled(not self.held_out), self.cache.accelerator.autocast():
            return self.reader(images.flatten(0, 1))

    def _pack(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.layouts[name].pack(x) for name, x in features.items()}

    def _spread(self, batch: Batch, span: range, errors: dict[int, str]) -> dict[str, Tensor]:
        """Gives the rows of a chunk, with zeros for those that cannot be read; notes the errors of these."""
        kept = batch.places < len(span)
        places = batch.places[kept]
        found = {**self._pack(self._compute(batch)), **_name_labels(batch)}
        lost = sorted({*range(len(span))} - {*places.tolist()})
        errors |= dict(zip((place + span.start % self.size for place in lost), batch.errors))
        whole = {}
        for name, x in found.items():
            whole[name] = x.new_zeros(len(span), *x.shape[1:])
            whole[name][places] = x[kept]
        return whole

    def _write(self, shard: int, parts: Sequence[Mapping[str, Tensor]], errors: Mapping[int, str]) -> None:
        told = torch.tensor(list(json.dumps(errors).encode()), dtype=torch.uint8)
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        with _explaining(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)  # features that nobody uses may be removed
            write_tensors(self._file(shard), {**tensors, ERRORS: told}, {"format": "pt"})
            (self.folder / ABOUT).touch()

    def _remove_useless(self, file: Path) -> None:
        """Removes a shard that is damaged, or has errors, which may have gone by."""
        if os.path.isfile(file):
            try:
                found = read_tensors(file)
                useful = found.keys() >= {ERRORS, *self.layouts} and bytes(found[ERRORS].tolist()) == b"{}"
            except ConfigError:
                useful = False
            if not useful:
                with _explaining(file):
                    file.unlink(missing_ok=True)

    def _fingerprint(self) -> str:
        """Hashes the names, sizes and times of the files of the split, and of the labels of their pixels."""
        job, digest = self.cache.job, sha256()
        for row in self.rows:
            cells = [labels.cells[row] for labels in job.dense.values()]
            for name in (
                job.records.name(row),
                *(str(cell) for cell in cells if isinstance(cell, (str, Path))),
            ):
                digest.update(f"{name}\0{describe_file(name)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _name_labels(batch: Batch) -> dict[str, Tensor]:
    return {LABELS + head: labels for head, labels in batch.dense.items()}


class _Missing(Sampler[list[Key]]):
    """The chunks that are to be computed; ``sent`` has those that were handed out."""

    def __init__(self, split: _Shards, sent: deque[tuple[int, range]]) -> None:
        self.split, self.sent = split, sent

    def __iter__(self) -> Iterator[list[Key]]:
        for shard, places, keys in self.split.chunks():
            self.sent.append((shard, places))
            yield keys


# -- the folder of all features


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turns what goes wrong on the disk into a CacheError."""
    try:
        yield
    except OSError as error:
        told = system_error(error, f"cannot keep features in {str(path)!r}")
        raise CacheError(str(told)) from None
    except ConfigError as error:
        raise CacheError(str(error)) from None


def find_root() -> Path:
    """The folder of all features.

    Raises:
        CacheError: there is no home folder.
    """
    given, common = os.environ.get(FOLDER), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return (Path(given) if given else Path(common, "classy_vision", "features")).expanduser().absolute()
    except RuntimeError as error:
        raise CacheError(f"{error} {FOLDER} names a folder for the features of the frozen trunk") from None


def find_limit() -> int:
    """The bytes that all features together may take.

    Raises:
        ConfigError: the environment variable is not a number.
    """
    given = os.environ.get(LIMIT, str(DEFAULT_LIMIT))
    try:
        return int(float(given) * 1e9)
    except (ValueError, OverflowError):
        raise ConfigError(f"{LIMIT} = {given!r} is not a number of gigabytes, such as 50") from None


def make_room(root: Path, needed: int, used: Collection[Path]) -> None:
    """Removes the features that were not used for longest, until others of ``needed`` bytes fit.

    Nothing is removed where they would not fit in the end, and nothing that is not features.

    Args:
        root: of all features.
        needed: bytes.
        used: folders that are kept.

    Raises:
        CacheError: there is not enough space.
    """
    if not needed:
        return
    root.mkdir(parents=True, exist_ok=True)
    limit, sizes = find_limit(), {path: _measure(path) for path in root.iterdir() if _is_features(path)}
    total, removed = sum(sizes.values()) + needed, []
    for last, path in sorted((_last_use(path), path) for path in sizes if path not in used):
        if total > limit and time.time() - last > RECENT:
            removed.append(path)
            total -= sizes[path]
    if total > limit:
        raise CacheError(
            f"the features of the frozen trunk take {human(needed)}B, and those of other runs "
            f"{human(total - needed)}B; {LIMIT} allows {human(limit)}B in all"
        )
    free = shutil.disk_usage(root).free + sum(map(sizes.__getitem__, removed))
    if needed + RESERVE > free:
        raise CacheError(
            f"the features of the frozen trunk take {human(needed)}B, and {human(free)}B are free at "
            f"{str(root)!r}; {FOLDER} names another folder"
        )
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)


def _is_features(path: Path) -> bool:
    """Whether a folder is one of features, by its name."""
    return re.fullmatch(r"[0-9a-f]{32}", path.name) is not None and path.is_dir()


def _measure(folder: Path) -> int:
    """The bytes of the files in a folder, some of which may vanish meanwhile."""
    total = 0
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total


def _last_use(folder: Path) -> float:
    """When features were used last, in seconds since 1970; 0 where nobody can use them."""
    try:
        return (folder / ABOUT).stat().st_mtime
    except OSError:
        return 0.0
