"""``classy embed``: features of any blocks and outputs of heads for whole collections."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.options import (
    OUTPUT,
    RUNNING,
    TRAINED,
    DeviceOption,
    EmbedBatchOption,
    ForceOption,
    TrustOption,
    WorkersOption,
    option,
    training_packages,
)
from classy_vision.cli.progress import show_progress
from classy_vision.errors import ConfigError

if TYPE_CHECKING:
    from classy_vision.embed import Summary

SHARD_SIZE = 4096


class OnError(str, Enum):
    """What is done about a sample that cannot be read."""

    SKIP = "skip"
    STOP = "stop"


class Dtype(str, Enum):
    """In what features are written."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Engine(str, Enum):
    """Who embeds."""

    LOCAL = "local"
    RAY = "ray"


Word = Annotated[str, typer.Argument(metavar="MODEL", help=f"The model: {TRAINED}.")]
_SOURCE = (
    "A folder of images or videos, a CSV or Parquet table with a column 'path', tar files of WebDataset "
    "('shards/{000..099}.tar', or a folder of them), or 'hf:NAME[:SPLIT]' of Hugging Face datasets."
)
SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help=_SOURCE)]
OutputOption = Annotated[Path, option("--output -o", "FOLDER", "The folder to write.", OUTPUT)]
_END = "trunk_output, where there is no --head"
Blocks = Annotated[
    list[str] | None, option("--block", "BLOCK", "Write features of this block; repeatable.", show_default=_END)
]
_ALL = "of an exported file all"
Heads = Annotated[
    list[str] | None, option("--head", "HEAD", "Write outputs of this head; repeatable.", show_default=_ALL)
]
_POOLING = "Read blocks so: mean, max, gem, token, token_and_mean, tokens or map; repeatable."
Poolings = Annotated[list[str] | None, option("--pooling", "POOLING", _POOLING, show_default="mean")]
_NORM = "Read inner layers of a vision transformer as they are, not through the trunk's last norm."
NoNorm = Annotated[bool, option("--no-trunk-norm", "", _NORM)]
DtypeOption = Annotated[Dtype, option("--dtype", "float32|float16", "Write features in this type.", OUTPUT)]
ShardOption = Annotated[int, option("--shard-size", "N", "Write this many rows to a file.", OUTPUT, min=1)]
_OPTIMIZE = "Run the model on this engine: openvino, onnxruntime, torch, plain, or auto for the fastest."
Optimize = Annotated[
    str | None, option("--optimize", "ENGINE", _OPTIMIZE, RUNNING, show_default="PyTorch as it is")
]
_ON_ERROR = "Skip samples that cannot be read and list them in errors.csv, or stop at the first one."
OnErrorOption = Annotated[OnError, option("--on-error", "skip|stop", _ON_ERROR, RUNNING)]
_ENGINE = "Embed in this process, or on Ray: on the cluster of RAY_ADDRESS, or on this machine."
EngineOption = Annotated[Engine, option("--engine", "local|ray", _ENGINE, RUNNING)]
_ACTORS = "Let at most this many actors of Ray hold the model."
_FIT = "as many as find a GPU, or processors for their threads"
Actors = Annotated[
    int | None,
    option(
        "--actors",
        "N",
        _ACTORS,
        RUNNING,
        min=1,
        show_default=_FIT,
    ),
]
_THREADS = "Run the model in this many threads of the CPU, in each process."
Threads = Annotated[
    int | None, option("--threads", "N", _THREADS, RUNNING, min=1, show_default="as many as torch uses")
]
_LANCE = "Also write a Lance dataset of all rows to the folder, embeddings.lance, when they are complete."
Lance = Annotated[bool, option("--lance", "", _LANCE, OUTPUT)]
Resume = Annotated[bool, option("--resume", "", "Continue what was interrupted in the folder.", OUTPUT)]


def embed(
    model: Word,
    source: SourceArgument,
    output: OutputOption,
    blocks: Blocks = None,
    heads: Heads = None,
    pooling: Poolings = None,
    no_trunk_norm: NoNorm = False,
    dtype: DtypeOption = Dtype.FLOAT32,
    shard_size: ShardOption = SHARD_SIZE,
    lance: Lance = False,
    resume: Resume = False,
    force: ForceOption = False,
    on_error: OnErrorOption = OnError.SKIP,
    engine: EngineOption = Engine.LOCAL,
    actors: Actors = None,
    optimize: Optimize = None,
    threads: Threads = None,
    trust: TrustOption = False,
    device: DeviceOption = None,
    batch_size: EmbedBatchOption = None,
    workers: WorkersOption = None,
) -> None:
    """Write features of blocks and outputs of heads for a collection of images or videos.

    One pass gives any number of them, in Parquet files with ids, paths and the columns of the source. What was
    stopped or killed continues with --resume. A file that cannot be read makes the exit code 1.
    """
    settings: dict[str, Any] = {"blocks": blocks or (), "heads": heads or (), "pooling": pooling or "mean"}
    settings |= {"trunk_norm": not no_trunk_norm, "dtype": dtype.value, "shard_size": shard_size}
    settings |= {"on_error": on_error.value, "engine": optimize, "trust": trust, "device": device}
    settings |= {"runner": engine.value, "actors": actors, "threads": threads}
    settings |= {"lance": lance, "batch_size": batch_size, "workers": workers, "resume": resume, "force": force}
    _check(model, source, output, resume, force)
    _check_engine(engine, actors)
    _tell(_run(model, source, output, settings))


def _run(model: str, source: str, output: Path, settings: Mapping[str, Any]) -> Summary:
    with training_packages():
        from classy_vision.embed.job import embed
    try:
        with show_progress() as progress:
            return embed(model, source, output, progress=progress, **settings)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command with --resume continues", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _tell(found: Summary) -> None:
    """Prints what was written; the exit code is 1 where samples could not be read."""
    rate = ""
    if found.new:
        rate = f", {found.new / found.seconds:,.1f} per second, the model was busy {found.busy:.0%} of the time"
    print(f"{found.rows:,} rows in {found.folder} ({found.new:,} new in {found.seconds:.1f} s{rate})")
    if len(found.ways) > 1:
        ways = "; ".join(", ".join(f"{name} {value}" for name, value in way.items()) for way in found.ways)
        typer.echo(f"rows were computed in several ways, and may differ by rounding: {ways}", err=True)
    if found.errors:
        listed = found.folder / "errors.csv"
        typer.echo(f"{found.errors:,} could not be read, and are listed in {listed}", err=True)
        raise typer.Exit(1)


def _check(model: str, source: str, output: Path, resume: bool, force: bool) -> None:
    """Checks what can be checked without torch."""
    from classy_vision.resolve import TRAINED, resolve

    resolve(model, TRAINED, "classy embed")
    try:
        from classy_vision.embed.folder import Folder
        from classy_vision.embed.sources import find_kind
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"classy embed needs {error.name}: pip install 'classy-vision-models[train]'"
        ) from None
    find_kind(source)
    Folder(output.expanduser()).check(resume=resume, force=force)


def _check_engine(engine: Engine, actors: int | None) -> None:
    if engine is Engine.RAY and find_spec("ray") is None:
        raise ConfigError("--engine ray needs the package ray: pip install 'classy-vision-models[ray]'")
    if engine is Engine.LOCAL and actors is not None:
        raise ConfigError("--actors are those of Ray: add --engine ray")
