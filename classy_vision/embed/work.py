"""The work on a collection: a task, which any process can take part in, and the worker that embeds its shards.

A shard is the unit: a worker writes it as a whole or not at all, reads ahead while the model runs, and writes
the same bytes wherever it is. ``job``, ``torchrun`` and ``on_ray`` give out the same shards in three ways.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import torch

from classy_vision.config import ConfigError
from classy_vision.data.files import count_workers
from classy_vision.data.images import ImageError
from classy_vision.embed.encoder import Encoder, choose_batch, load_encoder
from classy_vision.embed.folder import (
    ABOUT,
    LISTING,
    NEW_LISTING,
    VERSION,
    Folder,
    Layout,
    ShardWriter,
    open_shard,
)
from classy_vision.embed.lance_copy import write_lance
from classy_vision.embed.settings import Settings
from classy_vision.embed.sources import Listing, Part, Sample, Source, open_source, stop_at_failure
from classy_vision.errors import OperationError
from classy_vision.models import ClassyModel
from classy_vision.predict.inputs import Input, read_input
from classy_vision.predict.streaming import Array, Output, answer_batches, one_by_one, read_ahead


@dataclass(frozen=True)
class Progress:
    """How far a process is; on Ray, how far all of them are.

    Attributes:
        rows: samples that it has embedded.
        errors: samples that it could not read.
        shards: the shards that are done, of those that are its own and were not there before.
        of_shards: how many these are.
        of_rows: how many samples are in them; None where that is not known.
    """

    rows: int
    errors: int
    shards: int
    of_shards: int
    of_rows: int | None


Tell = Callable[[Progress], object]


@dataclass(frozen=True)
class Counts:
    """What was done.

    Attributes:
        rows: that were added.
        errors: samples that could not be read.
        seconds: that it took.
        busy: those of them in which the model ran.
    """

    rows: int = 0
    errors: int = 0
    seconds: float = 0.0
    busy: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.rows + other.rows,
            self.errors + other.errors,
            self.seconds + other.seconds,
            self.busy + other.busy,
        )


@dataclass(frozen=True)
class Signature:
    """What a model gives: all that is needed to begin a folder, and to finish it.

    Attributes:
        about: which model it is, as JSON values.
        shapes: of features and outputs by column, without n.
        unit: that it sees: "image" or "video".
        how: the size of batches, threads and device, with which values are computed. Others round otherwise.
    """

    about: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    unit: str
    how: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Task:
    """What is embedded, how, and where it is written. Every process that takes part has a copy.

    Attributes:
        model: what means a model with weights, or a model, whose heads are replaced.
        source: the collection.
        folder: that is written.
        settings: as for ``embed``.
        resume, force: as for ``embed``.
    """

    model: str | Path | ClassyModel
    source: str | Path | Source
    folder: Folder
    settings: Settings
    resume: bool = False
    force: bool = False

    def keep_engine(self) -> Task:
        """Replaces "auto" by the engine that it chose when the folder was begun: others round otherwise."""
        if self.settings.engine != "auto" or not (self.folder.path / ABOUT).is_file():
            return self
        engine = self.folder.read_about()["model"].get("engine")
        return replace(self, settings=self.settings.model_copy(update={"engine": engine}))

    def begin(self, model: Signature) -> Source:
        """Makes the folder ready: says what it is of, or checks that it is of the same; opens the collection.

        Raises:
            ConfigError: it is of another model or source.
        """
        self.folder.clean()
        known = self.resume and all((self.folder.path / name).is_file() for name in (ABOUT, LISTING))
        listing = self.folder.path / (LISTING if known else NEW_LISTING)
        source = self._open(model.unit, listing, resume=known)
        Layout({}, self.settings.dtype, source.columns).check(model.shapes)
        about = self._describe(model, source)
        if self.force:
            self.folder.clear()
        elif (self.folder.path / ABOUT).is_file():
            self.folder.check_same(about)
        if not known and listing.is_file():
            os.replace(listing, self.folder.path / LISTING)
        if not (self.folder.path / ABOUT).is_file():
            self.folder.write_about(about)
        opened = self.open(model.unit) if isinstance(source, Listing) else source
        self.folder.forget_errors(opened.shards)
        if self.list_missing(opened):
            self.folder.note(model.how)
        return opened

    def _describe(self, model: Signature, source: Source) -> dict[str, Any]:
        return {
            "version": VERSION,
            "model": {**model.about, "outputs": [*model.shapes]},
            "dtype": self.settings.dtype,
            "shard_size": self.settings.shard_size,
            "source": {**source.about, "fingerprint": source.fingerprint},
        }

    def open(self, unit: str) -> Source:
        """Opens the collection by the listing that is in the folder."""
        return self._open(unit, self.folder.path / LISTING, resume=True)

    def _open(self, unit: str, listing: Path, *, resume: bool) -> Source:
        if not isinstance(self.source, (str, Path)):
            return self.source
        return open_source(str(self.source), unit, listing, self.settings.shard_size, resume=resume)

    def list_missing(self, source: Source, rank: int = 0, processes: int = 1) -> list[int]:
        """Lists the shards that are not there, of those that are the share of a process."""
        return [i for i in range(rank, source.shards, processes) if not self.folder.holds(i)]

    def count(self, source: Source, shards: Sequence[int]) -> int | None:
        """Counts the samples in shards; all of them have as many, apart from the last one."""
        rows, size = source.rows, self.settings.shard_size
        return None if rows is None else sum(min(size, rows - index * size) for index in shards)

    def finish(self, model: Signature, source: Source) -> None:
        """Writes the errors and the manifest, and the Lance dataset where it is wanted."""
        layout = Layout(model.shapes, self.settings.dtype, source.columns)
        self.folder.finish(layout.describe(), source.shards)
        if self.settings.lance:
            write_lance(self.folder)


# -- one process


class Worker:
    """Embeds shards of a task; it holds the model, which is loaded when it is first used.

    Args:
        task: that it works on.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._busy = 0.0

    @cached_property
    def encoder(self) -> Encoder:
        """The model."""
        return load_encoder(self.task.model, self.task.settings)

    @cached_property
    def signature(self) -> Signature:
        """What the model gives; it runs once for that."""
        encoder = self.encoder
        how = {
            "batch_size": self._batch_size,
            "threads": torch.get_num_threads(),
            "device": encoder.device.type,
        }
        return Signature(encoder.about, encoder.measure(), encoder.data.unit, how)

    @property
    def _batch_size(self) -> int:
        """How many images or clips the model sees at once."""
        batch = choose_batch(self.task.settings, self.encoder.device)
        return min(batch, self.encoder.max_batch or batch)

    @cached_property
    def source(self) -> Source:
        """The collection."""
        return self.task.open(self.encoder.data.unit)

    def run(self, shards: Sequence[int], tell: Tell | None = None) -> Counts:
        """Writes shards.

        Args:
            shards: their numbers.
            tell: is called after each sample.

        Raises:
            OperationError: the disk is full, the source is not there any more, the system fails to read it, or
                a sample cannot be read and ``on_error`` is "stop".
            ConfigError: the folder is not there, or is of something else meanwhile.
        """
        begin, self._busy, counts = time.perf_counter(), 0.0, Counts()
        total, about = self.task.count(self.source, shards), self.task.folder.read_about()
        layout = Layout(self.signature.shapes, self.task.settings.dtype, self.source.columns)
        outputs = self._embed(shards)
        try:
            for done, (index, group) in enumerate(_split(outputs, shards)):
                with open_shard(self.task.folder.find_shard(index), layout) as writer:
                    for output in group:
                        counts += self._write(output, writer)
                        if tell is not None:
                            tell(Progress(counts.rows, counts.errors, done, len(shards), total))
                    self._check_folder(about)
        finally:
            outputs.close()
        return counts + Counts(seconds=time.perf_counter() - begin, busy=self._busy)

    def _check_folder(self, about: Mapping[str, Any]) -> None:
        """Raises where this process has outlived its command, and another one has begun the folder anew."""
        if self.task.folder.read_about() != about:
            raise ConfigError(f"another command has replaced what was in {str(self.task.folder.path)!r}")

    def _write(self, output: Output, writer: ShardWriter) -> Counts:
        sample = output.input
        assert isinstance(sample, Sample)
        if output.error is None:
            writer.add(sample, output.outputs)
            return Counts(rows=1)
        self.source.check()
        if self.task.settings.on_error == "stop":
            raise OperationError(f"{sample.path or sample.name}: {output.error}")
        writer.add_error(sample, output.error)
        return Counts(errors=1)

    def _embed(self, shards: Sequence[int]) -> Generator[Output, None, None]:
        """Yields the outputs for all samples of shards, in their order."""
        size = max(1, self._batch_size // self.encoder.data.views)
        workers = self.task.settings.workers or count_workers()
        samples = chain.from_iterable(map(self.source.read, shards))
        read = read_ahead(samples, self._read, size + workers, workers)
        try:
            yield from answer_batches(_cut(read, size), one_by_one(self._run_model))
        finally:
            read.close()

    def _run_model(self, views: Array) -> dict[str, Array]:
        begin = time.perf_counter()
        found = self.encoder(views)
        self._busy += time.perf_counter() - begin
        return found

    def _read(self, sample: Input) -> Array:
        """Reads a sample, in a thread."""
        source = sample.source
        if isinstance(source, ImageError):
            raise source
        try:
            if isinstance(source, Part):
                sample = Input(sample.name, _read_part(source))
            return read_input(sample, self.encoder.data, self.encoder.channels)
        except ImageError as error:
            stop_at_failure(error.__context__, sample.name)
            raise


def _read_part(part: Part) -> bytes:
    try:
        return part.read()
    except OSError as error:
        raise ImageError(Path(part.file), error) from None


Read = tuple[Input, "Array | ImageError"]


def _cut(read: Iterator[Read], size: int) -> Iterator[list[Read]]:
    """Yields batches of at most ``size`` samples of one shard, so that they do not depend on other shards."""
    for _, group in groupby(read, lambda entry: entry[0].shard):  # type: ignore[attr-defined]  # of a Sample
        while batch := [*islice(group, size)]:
            yield batch


def _split(outputs: Iterator[Output], shards: Sequence[int]) -> Iterator[tuple[int, Iterator[Output]]]:
    """Yields shards with their outputs, of which there may be none."""
    groups = groupby(outputs, lambda output: output.input.shard)  # type: ignore[attr-defined]  # of a Sample
    group = next(groups, None)
    for index in shards:
        if group and group[0] == index:
            yield index, group[1]
            group = next(groups, None)
        else:
            yield index, iter(())
