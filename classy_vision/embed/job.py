"""Embeds a collection: reads ahead while the model runs, and writes shards, each as a whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from classy_vision.config import ConfigError
from classy_vision.data.files import count_workers
from classy_vision.data.images import ImageError
from classy_vision.embed.encoder import Encoder, load_encoder
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
from classy_vision.embed.settings import Settings
from classy_vision.embed.sources import Part, Sample, Source, find_kind, open_source
from classy_vision.errors import OperationError
from classy_vision.models import ClassyModel
from classy_vision.predict.inputs import Input, read_input
from classy_vision.predict.streaming import Array, Output, answer_batches, one_by_one, read_ahead

PATIENCE = timedelta(days=30)
"""How long processes wait for each other at the end."""


@dataclass(frozen=True)
class Progress:
    """How far a process is.

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


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        folder: with the shards.
        rows: in all shards.
        errors: samples that could not be read; ``errors.csv`` lists them.
        new: rows that this call added.
        seconds: it took.
    """

    folder: Path
    rows: int
    errors: int
    new: int
    seconds: float


def embed(
    model: str | Path | ClassyModel,
    source: str | Path | Source,
    output: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[Progress], object] | None = None,
    **settings: Any,
) -> Summary:
    """Writes features of blocks and outputs of heads for every image or video of a collection, in one pass.

    A folder of Parquet files is written: ``id``, ``path``, the columns of the source, and a fixed-size list for
    each block and pooling ("block3/mean") and head ("head/species"). ``load`` reads it. What is stopped or
    killed at any moment continues with ``resume``, and gives each row once, with the same values. In processes
    of ``torchrun`` each takes its part of the shards.

    Args:
        model: a run folder, published weights, an exported file or what else means a model with weights; or a
            model, whose heads are replaced.
        source: a folder, a CSV or Parquet table with a column "path", tar files of WebDataset, or "hf:DATASET".
        output: the folder to write.
        resume: continue what is in the folder.
        force: replace what is in the folder.
        progress: is called while samples are embedded.
        settings: values of ``Settings``: ``blocks``, ``heads``, ``pooling``, ``dtype``, ….

    Raises:
        ConfigError: something is not there or does not fit, or the folder is of another model or source.
        OperationError: the disk is full, or the source is not there any more.
    """
    folder, begin = Folder(Path(os.path.expanduser(output))), time.perf_counter()
    how = Settings.parse(settings, "embed")
    rank, processes = _find_rank()
    if rank == 0:
        folder.check(resume=resume, force=force)
    if isinstance(source, (str, Path)):
        find_kind(str(source))
    if resume:
        how = _keep_engine(folder, how)
    encoder = load_encoder(model, _place(how))
    with _joined(processes), folder.lock() if rank == 0 else nullcontext():
        new = _embed_together(folder, encoder, source, how, rank, processes, resume, force, progress)
    manifest = folder.read_manifest()
    return Summary(folder.path, manifest["rows"], manifest["errors"], new, time.perf_counter() - begin)


def _keep_engine(folder: Folder, settings: Settings) -> Settings:
    """Replaces "auto" by the engine that it chose when the folder was begun: another one rounds otherwise."""
    if settings.engine != "auto" or not (folder.path / ABOUT).is_file():
        return settings
    return settings.model_copy(update={"engine": folder.read_about()["model"].get("engine")})


def _embed_together(
    folder: Folder,
    encoder: Encoder,
    source: str | Path | Source,
    settings: Settings,
    rank: int,
    processes: int,
    resume: bool,
    force: bool,
    progress: Callable[[Progress], object] | None,
) -> int:
    """Writes the shards of this process, and with the others the whole; returns how many rows are its own."""
    shapes = encoder.measure()
    with _first_alone(rank, processes):
        if rank == 0:
            _prepare(folder, encoder, source, settings, resume=resume, force=force)
    found = _open(source, encoder, folder.path / LISTING, settings, resume=True)
    layout = Layout(shapes, settings.dtype, found.columns)
    job = Job(folder, encoder, found, layout, settings, progress)
    new = job.run([i for i in range(rank, found.shards, processes) if not folder.holds(i)])
    _wait(processes)
    if rank == 0:
        folder.finish(layout.describe(), found.shards)
    _wait(processes)
    return new


def _open(
    source: str | Path | Source, encoder: Encoder, listing: Path, settings: Settings, *, resume: bool
) -> Source:
    if not isinstance(source, (str, Path)):
        return source
    return open_source(str(source), encoder.data.unit, listing, settings.shard_size, resume=resume)


def _prepare(
    folder: Folder,
    encoder: Encoder,
    source: str | Path | Source,
    settings: Settings,
    *,
    resume: bool,
    force: bool,
) -> None:
    """Makes the folder ready: says what it is of, or checks that it is of the same."""
    folder.clean()
    dtype, shard_size = settings.dtype, settings.shard_size
    known = resume and (folder.path / ABOUT).is_file() and (folder.path / LISTING).is_file()
    listing = folder.path / (LISTING if known else NEW_LISTING)
    found = _open(source, encoder, listing, settings, resume=known)
    model = {**encoder.about, "outputs": [*encoder.ids]}
    origin = {**found.about, "fingerprint": found.fingerprint}
    about = {"version": VERSION, "model": model, "dtype": dtype, "shard_size": shard_size, "source": origin}
    Layout({}, dtype, found.columns).check(encoder.ids)
    if force:
        folder.clear()
    elif (folder.path / ABOUT).is_file():
        folder.check_same(about)
    if not known and listing.is_file():
        os.replace(listing, folder.path / LISTING)
    if not (folder.path / ABOUT).is_file():
        folder.write_about(about)


# -- one process


@dataclass
class Job:
    """The work of one process.

    Attributes:
        folder: where shards are written.
        encoder, source: of what they are.
        layout: of the shards.
        settings, progress: as for ``embed``.
    """

    folder: Folder
    encoder: Encoder
    source: Source
    layout: Layout
    settings: Settings
    progress: Callable[[Progress], object] | None

    def run(self, shards: Sequence[int]) -> int:
        """Writes shards; returns how many rows were added."""
        count = rows = errors = 0
        total = self._count(shards)
        outputs = self._embed(shards)
        try:
            groups = groupby(outputs, lambda output: output.input.shard)  # type: ignore[attr-defined]  # of a Sample
            group = next(groups, None)
            for index in shards:
                with open_shard(self.folder.find_shard(index), self.layout) as writer:
                    found = group[1] if group and group[0] == index else iter(())
                    for output in found:
                        self._write(output, writer)
                        rows, errors = rows + (not output.error), errors + bool(output.error)
                        if self.progress is not None:
                            self.progress(Progress(rows, errors, count, len(shards), total))
                    if group and group[0] == index:
                        group = next(groups, None)
                count += 1
        finally:
            outputs.close()
        return rows

    def _count(self, shards: Sequence[int]) -> int | None:
        """Counts the samples in shards; all of them have as many, apart from the last one."""
        rows = self.source.rows
        if rows is None:
            return None
        return sum(min(self.settings.shard_size, rows - index * self.settings.shard_size) for index in shards)

    def _write(self, output: Output, writer: ShardWriter) -> None:
        sample = output.input
        assert isinstance(sample, Sample)
        if output.error is None:
            writer.add(sample, output.outputs)
            return
        self.source.check()
        if self.settings.on_error == "stop":
            raise OperationError(f"{sample.path or sample.name}: {output.error}")
        writer.add_error(sample, output.error)

    def _embed(self, shards: Sequence[int]) -> Generator[Output, None, None]:
        """Yields the outputs for all samples of shards, in their order."""
        data = self.encoder.data
        batch = min(self.settings.batch_size, self.encoder.max_batch or self.settings.batch_size)
        size, workers = max(1, batch // data.views), self.settings.workers or count_workers()
        samples = chain.from_iterable(map(self.source.read, shards))
        read = read_ahead(samples, self._read, size + workers, workers)
        try:
            yield from answer_batches(_cut(read, size), one_by_one(self.encoder))
        finally:
            read.close()

    def _read(self, sample: Input) -> Array:
        """Reads a sample, in a thread."""
        source = sample.source
        if isinstance(source, ImageError):
            raise source
        if isinstance(source, Part):
            try:
                sample = Input(sample.name, source.read())
            except OSError as error:
                raise ImageError(Path(source.file), error) from None
        return read_input(sample, self.encoder.data, self.encoder.channels)


Read = tuple[Input, "Array | ImageError"]


def _cut(read: Iterator[Read], size: int) -> Iterator[list[Read]]:
    """Yields batches of at most ``size`` samples of one shard, so that they do not depend on other shards."""
    for _, group in groupby(read, lambda entry: entry[0].shard):  # type: ignore[attr-defined]  # of a Sample
        while batch := [*islice(group, size)]:
            yield batch


# -- several processes


def _find_rank() -> tuple[int, int]:
    """Returns the number of this process and how many there are, as torchrun says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _place(settings: Settings) -> Settings:
    """Gives each process of torchrun a GPU of its own, where there are some."""
    if settings.device is None and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        return settings.model_copy(update={"device": device})
    return settings


@contextmanager
def _joined(processes: int) -> Iterator[None]:
    """Lets the processes of torchrun wait for each other, which they do on the CPU."""
    if processes == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _first_alone(rank: int, processes: int) -> Iterator[None]:
    """Lets the first process go ahead; where it fails, the others end as well."""
    said: list[str] = [""]
    try:
        if rank == 0:
            yield
    except BaseException as error:
        said = [str(error) or type(error).__name__]
        raise
    finally:
        if processes > 1:
            distributed.broadcast_object_list(said, src=0)
    if rank:
        if said[0]:
            raise ConfigError(f"the first process says: {said[0]}")
        yield


def _wait(processes: int) -> None:
    if processes > 1:
        distributed.barrier()
