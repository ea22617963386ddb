"""What is embedded, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from classy_vision.config import Config, PositiveFloat, PositiveInt

SHARD = 4096
"""The rows in a shard: a kill loses at most so much work."""
DECAYS = tuple(10.0**power for power in range(-6, 2))
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


class Settings(Config):
    """What is written for each sample, and how.

    Attributes:
        blocks: whose features are written; by default the end of the trunk, where no head is named. An exported
            file has none.
        heads: whose outputs are written; of an exported file by default all.
        pooling: how blocks are read, in one or several ways: "mean", "max", "gem", "token", "token_and_mean",
            "tokens" or "map".
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm, as heads do.
        dtype: in which values are written.
        shard_size: the rows in a file; of tar files one file is written for each.
        lance: also write all rows to a Lance dataset in the folder, ``embeddings.lance``, when they are there.
        batch_size: images or clips that the model sees at once; by default 32 on a GPU, and on a CPU 4 for each
            thread, at most 32: features of larger batches do not fit its caches.
        workers: threads that read files, by default one per processor, at most 4.
        engine: runs the model on an engine of ``classy_vision.engines``, or on the fastest with "auto"; by
            default it runs in PyTorch as it is.
        device: "cpu", "cuda", …; by default a GPU where there is one.
        threads: in which each process runs the model on the CPU, by default as many as torch uses. Features are
            the same bit for bit only where these are as many: the last batches of files may round otherwise.
        runner: who embeds: "local" is this process, or those of torchrun; "ray" is actors of Ray.
        actors: how many actors hold the model at most; by default as many as there are GPUs, or as many as find
            processors for their threads.
        trust: read a ``.pt2`` file, which can run any code.
        on_error: "stop" at a sample that cannot be read, or "skip" it and list it in ``errors.csv``.
    """

    blocks: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ("mean",)
    trunk_norm: bool = True
    dtype: Literal["float32", "float16"] = "float32"
    shard_size: PositiveInt = SHARD
    lance: bool = False
    batch_size: PositiveInt | None = None
    workers: PositiveInt | None = None
    engine: str | None = None
    device: str | None = None
    threads: PositiveInt | None = None
    runner: Literal["local", "ray"] = "local"
    actors: PositiveInt | None = None
    trust: bool = False
    on_error: Literal["skip", "stop"] = "skip"

    @field_validator("pooling", "blocks", "heads", mode="before")
    @classmethod
    def _read_names(cls, value: Any) -> Any:
        return _as_tuple(value)

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, value: str | None) -> str | None:
        if value in ("local", "ray"):
            raise ValueError(f"an engine runs the model; runner={value!r} says who embeds")
        return value

    @model_validator(mode="after")
    def _check_actors(self) -> Settings:
        if self.actors is not None and self.runner != "ray":
            raise ValueError("actors are those of Ray: set runner='ray' as well")
        return self


class ProbeSettings(Config):
    """What ``classy probe`` looks at, and how.

    Attributes:
        columns: of the labels; by default the only one, or "label".
        blocks: by default all.
        pooling: "mean", "max", "gem", "token" or "token_and_mean"; by default "mean", and those with a token
            where every block has one.
        attentive: train an attention pool as well, on the tokens or maps of blocks that have them. These take
            far more space than pooled features.
        decays: weight decays that are tried for linear classifiers.
        rates: learning rates that are tried for attention pools.
        device: "cpu", "cuda", …; by default a GPU where there is one.
        batch_size: images or clips that the model sees at once, which becomes that of the training; by default
            64, and less for few samples.
        workers: processes that read files, by default one per processor, at most 4.
    """

    columns: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()
    attentive: bool = False
    decays: tuple[PositiveFloat, ...] = Field(DECAYS, min_length=1)
    rates: tuple[PositiveFloat, ...] = Field(RATES, min_length=1)
    device: str | None = None
    batch_size: PositiveInt | None = None
    workers: NonNegativeInt | None = None

    @field_validator("columns", "blocks", "pooling", mode="before")
    @classmethod
    def _read_names(cls, value: Any) -> Any:
        return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    """Takes a single name as well."""
    return (value,) if isinstance(value, str) else value
