"""Features of a frozen trunk in place of images: a run computes them once, and reads them in every epoch.

What heads read of the trunk is kept in ``feature_store``, one feature at a time, under the digest of the
weights, the preprocessing, the files and the first batch of the feature: what is there has the bits that this
run would compute. Runs that read the same share it, and so does ``classy probe``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from classy_vision import __version__
from classy_vision.config import ConfigError
from classy_vision.data.batches import Batch, Key, Sample, make_loader
from classy_vision.data.config import DataConfig
from classy_vision.data.files import describe_file
from classy_vision.data.images import NUMPY
from classy_vision.heads.classy_head import ClassyHead
from classy_vision.heads.pooled_head import PooledHead
from classy_vision.heads.pooling import Pool
from classy_vision.models import ClassyModel
from classy_vision.train.feature_store import (
    CacheError,
    OpenFeature,
    StoredFeature,
    explaining,
    find_limit,
    find_root,
    find_size,
    make_room,
)
from classy_vision.train.job import Job
from classy_vision.train.run_folder import hash_state
from classy_vision.trunk.heads_apart import read_inputs, run_on_inputs
from classy_vision.trunk.names import END, split_place
from classy_vision.weights.state import head_of

LABELS = "labels/"
UNSEEN = ("augment", "crop_area", "on_bad_image")
"""Keys of ``data`` that change no feature that is kept."""
NOT_OF_TRUNK = ("heads", "weights", "preprocessing", "tasks")
"""Keys of a model's config that change no feature by themselves."""
BLOCK = 2**20
"""Bytes that are hashed at once."""
Place = tuple[str, str]
"""The id of a head and a step that it reads."""


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
        return f"evaluation sees {data.crops} crops of each image (data.crops), and features of one are kept"
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
        self._about = {place: self._describe(place, head) for place, head in _list_places(model)}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Computes features (n, ...) of images (n, c, h, w), by name; what is pooled is not held whole."""
        found: dict[str, str] = {}
        features: dict[str, Tensor] = {}
        for place, x in read_inputs(self.model, images):
            said = repr(self._about[place])
            if said not in found:
                found[said] = str(len(found))
                pool = self._pools.get(place)
                features[found[said]] = pool(x) if pool else x
            self.names[place] = found[said]
        return features

    @property
    def about(self) -> dict[str, list[Any]]:
        """What features are read of, by name, as JSON values, whatever heads are called."""
        return {name: self._about[place] for place, name in self.names.items()}

    def _describe(self, place: Place, head: ClassyHead) -> list[Any]:
        pool = self._pools.get(place)
        return [
            place[1],
            head.reads_maps,
            head.reads_token,
            head.trunk_norm,
            pool and [pool.kind, pool.prefix],
        ]


def _list_places(model: ClassyModel) -> Iterator[tuple[Place, ClassyHead]]:
    """Lists what heads read."""
    for place, heads in model.get_heads().items():
        steps = [model._step(block) for block in split_place(place)]
        yield from (((str(head.unique_id), step), head) for head in heads for step in steps)


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
        features: by name; those of labels of pixels as well.
        where: (records,), the place of each row among those of the split.
        layouts: by name of a feature.
        names: of features, by head and step.
        errors: messages about files that cannot be read, by row.
    """

    features: Mapping[str, OpenFeature]
    where: Tensor
    layouts: Mapping[str, Layout]
    names: Mapping[Place, str]
    errors: Mapping[int, str]

    def read(self, rows: Tensor, only: Place | None = None) -> dict[Place, Tensor]:
        """Reads what heads read of some rows (n,), or one of them, on the device of ``rows``."""
        places, names = self.where[rows.cpu()], {only: self.names[only]} if only else self.names
        found = {}
        for name in dict.fromkeys(names.values()):
            packed = self.features[name].read(places).to(rows.device, non_blocking=True)
            found[name] = self.layouts[name].unpack(packed)
        return {place: found[name] for place, name in names.items()}

    def labels(self, row: int) -> dict[str, Tensor]:
        """Reads the labels of the pixels of a row, by head."""
        place = self.where[row][None]
        return {
            name.removeprefix(LABELS): feature.read(place)[0]
            for name, feature in self.features.items()
            if name.startswith(LABELS)
        }


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
        say: takes why features that are there are not used.
    """

    is_stopping: Callable[[], bool]
    check_files: Callable[[list[str]], None]
    start: Callable[[int, int, Path], None]
    advance: Callable[[int], None]
    say: Callable[[str], object] = lambda _: None


class Processes(Protocol):
    """What is needed of an ``Accelerator``."""

    @property
    def device(self) -> torch.device: ...
    @property
    def num_processes(self) -> int: ...
    @property
    def process_index(self) -> int: ...
    def autocast(self) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class OneProcess:
    """Stands for an ``Accelerator`` where one process computes features, in float32.

    Attributes:
        device: of the model.
    """

    device: torch.device
    num_processes: int = 1
    process_index: int = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Changes nothing."""
        return nullcontext()


@dataclass
class FeatureCache:
    """The features of a job on disk.

    Attributes:
        job: whose.
        accelerator: of its processes.
        model: on its device, in the mode of training.
    """

    job: Job
    accelerator: Processes
    model: ClassyModel

    def fill(self, progress: Progress) -> StoredFeatures | None:
        """Computes what is not there, and opens all of it; None if the process was asked to end.

        Raises:
            CacheError: the features cannot be kept: there is not enough space, or the disk fails.
            ConfigError: a file is unreadable.
        """
        root = find_root()
        splits = [_Split(self, held_out) for held_out in (False, True)]
        for split in splits:
            split.find(root)
        missing = sum(len(places) for split in splits for places, _ in split.list_missing())
        stored = [feature for split in splits for feature in split.stored.values()]
        needed = sum(feature.count_missing() * feature.row_bytes for feature in stored)
        with explaining(root):
            make_room(root, needed, {feature.folder for feature in stored})
        for feature in stored if missing else ():
            if feature.count_missing() and (why := feature.find_difference()):
                progress.say(f"features of the same block are there, but cannot be used: {why}")
                break
        progress.start(missing, needed, root)
        for split in splits:
            if not split.fill(progress):
                return None
            while split.is_missing_some():  # another run that starts removes shards with errors
                if not split.fill(progress):
                    return None
        training, held_out = (split.open() for split in splits)
        return StoredFeatures((training, held_out), torch.tensor(self.job.records.held_out))

    @cached_property
    def about(self) -> dict[str, Any]:
        """What features are of, apart from the rows and from what is read, as JSON values."""
        device = self.accelerator.device
        state = {name: x for name, x in self.model.state_dict().items() if head_of(name) is None}
        return {
            "library": __version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": self.job.settings.schedule.mixed_precision,
            "model": self._describe_model(),
            "trunk": hash_state(state),
        }

    def _describe_model(self) -> dict[str, Any]:
        """The config of the trunk: in full, so that it does not matter how the model was asked for."""
        try:
            config = self.model.to_config()
        except ConfigError:
            config = self.job.settings.model
        return {key: value for key, value in config.items() if key not in NOT_OF_TRUNK}

    @cached_property
    def data(self) -> dict[str, Any]:
        """What features are computed from, apart from the rows, as JSON values."""
        data, images = self.job.settings.data, self.job.records.images
        seen = data.model_dump(mode="json", include={*DataConfig.model_fields} - {*UNSEEN})
        if any(isinstance(image, Path) for image in images[:1]):
            return {"data": seen}  # files are described one by one
        return {"data": seen, "source": data.model_dump(mode="json", exclude={*DataConfig.model_fields})}


Chunk = tuple[range, Mapping[str, int]]
"""The places of rows, and the shards that they belong to, by the names of features that are missing there."""


@dataclass
class _Split:
    """The features of a split.

    Rows go through the trunk in chunks of the size that batches have, so that kernels are the same: those of
    training in whole ones, the last of which is filled up with the first rows. Clips are those of evaluation.

    Attributes:
        cache: of which it is.
        held_out: which split.
        stored: features by name, and labels of pixels.
    """

    cache: FeatureCache
    held_out: bool
    stored: dict[str, StoredFeature] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        job, world = self.cache.job, self.cache.accelerator.num_processes
        schedule, data = job.settings.schedule, job.settings.data
        self.rows = job.records.rows(self.held_out)
        parts = world * data.views * (1 if self.held_out else schedule.accumulate)
        self.chunk = max(1, schedule.batch_size // parts)
        self.evaluates = self.held_out or data.clip is not None
        self.samples = job.samples(None if self.evaluates else schedule.seed)
        self.reader = FeatureReader(self.cache.model)

    def find(self, root: Path) -> None:
        """Computes the first chunk, which tells where the features are and how large."""
        keys = self.make_keys(range(min(self.chunk, len(self.rows))))
        (batch,) = make_loader(self.samples, [keys])  # type: ignore[arg-type]  # any iterable will do
        features = self._compute(batch)
        self.layouts = {name: Layout.of(x) for name, x in features.items()}
        common = {**self.cache.data, "chunk": self.chunk, "rows": self._fingerprint(), "errors": batch.errors}
        common["side"] = self.cache.job.settings.data.side(training=not self.evaluates)
        reads, packed = self.reader.about, self._pack(features)
        abouts = {name: {**self.cache.about, "reads": reads[name]} for name in packed}
        for head, labels in batch.dense.items():
            packed[LABELS + head] = labels
            abouts[LABELS + head] = self._describe_labels(head)
        for name, x in packed.items():
            about, row_bytes = {**common, **abouts[name], "first": hash_state({"": x})}, max(1, x[:1].nbytes)
            size = find_size(self.chunk, row_bytes)
            self.stored[name] = StoredFeature(root, about, len(self.rows), size, row_bytes)
            self.stored[name].clean()

    def fill(self, progress: Progress) -> bool:
        """Computes the shards that are not there; False if the process was asked to end."""
        missing = {name for _, shards in self.list_missing() for name in shards}
        for name in missing:
            self.stored[name].begin()
        sent: deque[Chunk] = deque()
        workers = self.cache.job.settings.schedule.workers if missing else 0
        pin = self.cache.accelerator.device.type == "cuda"
        loader = make_loader(self.samples, _Missing(self, sent), workers=workers, pin_memory=pin)
        parts: dict[str, list[Tensor]] = {name: [] for name in self.stored}
        errors: dict[int, str] = {}
        for batch in loader:
            places, shards = sent.popleft()
            if progress.is_stopping():
                return False
            progress.check_files(batch.errors)
            values = self._spread(batch, places, errors)
            for name, shard in shards.items():
                parts[name].append(values[name])
                span = self.stored[name].span(shard)
                if span.stop == places.stop:
                    told = {place - span.start: errors[place] for place in span if place in errors}
                    self.stored[name].write(shard, torch.cat(parts[name]), told)
                    parts[name] = []
            progress.advance(len(places))
        return True

    def open(self) -> StoredSplit:
        """Maps all features into memory.

        Raises:
            CacheError: one of them is damaged.
        """
        where = torch.full((len(self.cache.job.records.held_out),), -1)
        where[torch.tensor(self.rows)] = torch.arange(len(self.rows))
        features = {name: feature.open() for name, feature in self.stored.items()}
        errors = {
            self.rows[place]: text for feature in features.values() for place, text in feature.errors.items()
        }
        return StoredSplit(features, where, self.layouts, self.reader.names, errors)

    def is_missing_some(self) -> bool:
        """Whether features are not there by now."""
        return any(feature.count_missing() for feature in self.stored.values())

    def list_missing(self) -> Iterator[Chunk]:
        """Lists the chunks of which features are not there by now.

        This process begins at one place, and others elsewhere. There shards of all features begin, as they do
        wherever one of the largest does; whether a shard is there is seen where it begins.
        """
        largest = max(feature.size for feature in self.stored.values())
        count, world = -(-len(self.rows) // largest), self.cache.accelerator.num_processes
        start = (os.getppid() + self.cache.accelerator.process_index * count // world) % count
        shards: dict[str, int] = {}
        for group in ((start + i) % count for i in range(count)):
            for first in range(group * largest, min((group + 1) * largest, len(self.rows)), self.chunk):
                for name, feature in self.stored.items():
                    shard, inside = divmod(first, feature.size)
                    if not inside:
                        shards.pop(name, None)
                        shards |= {} if feature.has(shard) else {name: shard}
                if shards:
                    yield range(first, min(first + self.chunk, len(self.rows))), dict(shards)

    # What hides details

    def make_keys(self, places: Sequence[int]) -> list[Key]:
        """Makes the keys of a chunk, which is filled up in training."""
        more = 0 if self.held_out else self.chunk - len(places)
        return [(0, self.rows[place]) for place in (*places, *range(more))]

    def _compute(self, batch: Batch) -> dict[str, Tensor]:
        """Computes features as training and evaluation do; those of several clips are averaged.

        Raises:
            CacheError: no file of the batch can be read.
        """
        if not len(batch.rows):
            raise CacheError(
                f"features cannot be kept: no file of a batch can be read, such as {batch.errors[0]}"
            )
        images = batch.images.to(self.cache.accelerator.device, non_blocking=True)
        with torch.set_grad_enabled(not self.held_out), self.cache.accelerator.autocast():
            found = self.reader(images.flatten(0, 1))
        views = images.shape[1]
        return (
            found
            if views == 1
            else {name: x.reshape(-1, views, *x.shape[1:]).mean(1) for name, x in found.items()}
        )

    def _pack(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.layouts[name].pack(x) for name, x in features.items()}

    def _spread(self, batch: Batch, span: range, errors: dict[int, str]) -> dict[str, Tensor]:
        """Gives the rows of a chunk, with zeros for those that cannot be read; notes the errors of these."""
        kept = batch.places < len(span)
        places = batch.places[kept]
        labels = {LABELS + head: found for head, found in batch.dense.items()}
        found = {**self._pack(self._compute(batch)), **labels}
        lost = sorted({*range(len(span))} - {*places.tolist()})
        errors |= dict(zip((place + span.start for place in lost), batch.errors))
        whole = {}
        for name, x in found.items():
            whole[name] = x.new_zeros(len(span), *x.shape[1:])
            whole[name][places] = x[kept]
        return whole

    def _describe_labels(self, head: str) -> dict[str, Any]:
        """What the labels of pixels of a head are of; a model has no part in them."""
        job, digest = self.cache.job, sha256()
        for row in self.rows:
            if isinstance(cell := job.dense[head].cells[row], (str, Path)):
                digest.update(_describe(str(cell)))
        return {"labels": job.tasks[head].config.model_dump(mode="json"), "cells": digest.hexdigest()}

    def _fingerprint(self) -> str:
        """Hashes the names, sizes and times of the files of the split."""
        digest = sha256()
        for row in self.rows:
            digest.update(_describe(self.cache.job.records.name(row)))
        return digest.hexdigest()


def _describe(name: str) -> bytes:
    """Describes a file so that a change of it is seen. Arrays of one shape have one size, so they are read."""
    said = f"{name}\0{describe_file(name)}\n".encode("utf-8", "surrogateescape")
    if not name.lower().endswith(NUMPY):
        return said
    digest = sha256()
    with suppress(OSError), open(name, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return said + digest.digest()


class _Missing(Sampler[list[Key]]):
    """The chunks that are to be computed; ``sent`` has those that were handed out."""

    def __init__(self, split: _Split, sent: deque[Chunk]) -> None:
        self.split, self.sent = split, sent

    def __iter__(self) -> Iterator[list[Key]]:
        for places, shards in self.split.list_missing():
            self.sent.append((places, shards))
            yield self.split.make_keys(places)
