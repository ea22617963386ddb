"""What embeds: a model that gives features of any blocks and outputs of heads in one pass, on any engine.

A feature is read by a head without weights, so that whatever runs a model with heads gives features as well:
one walk through the trunk, nothing after the deepest block that is read, and pooling on the engine.

Axes: n samples, v views, c channels, s tokens, h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.data.config import DataConfig
from classy_vision.data.files import hash_file
from classy_vision.embed.settings import Settings
from classy_vision.heads.classy_head import ClassyHead, Source, TokenLayout
from classy_vision.heads.pooling import POOLINGS, Pool, as_tokens, check_pooling
from classy_vision.identify.networks import load_model
from classy_vision.models import ClassyModel
from classy_vision.predict.predictor import find_data, find_device
from classy_vision.predict.streaming import Array
from classy_vision.resolve import TRAINED, Kind, resolve
from classy_vision.train.run_folder import hash_state
from classy_vision.trunk.names import END, split_place
from classy_vision.trunk.use import preprocessing_of

READINGS = (*(kind for kind in POOLINGS if kind != "attention"), "tokens", "map")
"""How a block is read: pooled, or as tokens or a map. Pooling by attention is left out: it is learned."""
BATCH, BATCH_PER_THREAD = 32, 4
"""The default on a GPU, and for each thread of a CPU: its caches do not hold features of larger batches."""
HEAD = "head"
"""What the columns of outputs of heads begin with."""


class FeatureHead(ClassyHead):
    """Gives the feature of a block in one of ``READINGS``; it has no weights.

    Shape: maps, clips, tokens or vectors to (n, c); to (n, s, c) as "tokens", to (n, c, h, w) as "map".

    Args:
        unique_id: the head's name.
        reading: how.
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm, as heads do.
    """

    def __init__(self, unique_id: str, reading: str, trunk_norm: bool = True) -> None:
        super().__init__(unique_id)
        if reading not in READINGS:
            raise unknown("pooling", reading, READINGS)
        self.reading, self.trunk_norm = reading, trunk_norm
        self.reads_maps = reading == "map"
        self.pool: nn.Module = nn.Identity()

    def connect(self, sources: Sequence[Source]) -> None:
        (source,) = sources
        tokens = source.tokens or TokenLayout()
        check_pooling(self.reading, source.block, tokens.has_class_token)
        if self.reading in POOLINGS:
            self.pool = Pool(self.reading, source.channels or 0, tokens.prefix)  # type: ignore[arg-type]  # checked

    def forward(self, x: Tensor) -> Tensor:
        return as_tokens(x) if self.reading == "tokens" else self.pool(x)


@dataclass(frozen=True)
class Encoder:
    """A model that embeds.

    Attributes:
        run: the model, from (n, c, h, w) or (n, c, t, h, w) to a tensor or tensors by id.
        data: what it sees of an image or a video.
        channels: of its input.
        device: where it is.
        ids: the ids of outputs by column.
        about: which model it is, as JSON values.
        max_batch: how many inputs it takes at once; None where any number is taken.
    """

    run: Callable[[Tensor], Any]
    data: DataConfig
    channels: int
    device: torch.device
    ids: Mapping[str, str]
    about: Mapping[str, Any]
    max_batch: int | None = None

    def __call__(self, views: Array) -> dict[str, Array]:
        """Embeds the views (n, v, ...) of samples; returns the average over views by column, in float32."""
        with torch.inference_mode():
            images = torch.from_numpy(views).flatten(0, 1).to(self.device)
            outputs = self.run(images)
            named = outputs if isinstance(outputs, Mapping) else dict.fromkeys(self.ids.values(), outputs)
            return {column: _average(named[name], len(views)) for column, name in self.ids.items()}

    def measure(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of all columns, without n; runs the model once.

        Raises:
            ConfigError: the model does not run on its input.
        """
        shape = self.data.input_shape(self.channels, training=False)
        try:
            found = self(np.zeros((1, 1, *shape), np.float32))
        except RuntimeError as error:
            raise ConfigError(f"the model does not run on inputs of {shape}: {error}") from error
        return {column: value.shape[1:] for column, value in found.items()}


def _average(output: Tensor, count: int) -> Array:
    """Averages the views of ``count`` samples."""
    by_sample = output.float().reshape(count, -1, *output.shape[1:])
    return (by_sample[:, 0] if by_sample.shape[1] == 1 else by_sample.mean(1)).cpu().numpy()


def load_encoder(word: str | Path | ClassyModel, settings: Settings) -> Encoder:
    """Loads a model, and prepares it to give features and outputs in one pass.

    Args:
        word: what means a model with weights, or the model itself, whose heads are replaced.
        settings: what it gives, and where it runs.

    Raises:
        ConfigError: there is no such model, block, head, pooling or engine, or they do not fit.
    """
    if not isinstance(word, ClassyModel):
        source = resolve(word, TRAINED, "classy embed")
        if source.kind is Kind.EXPORTED:
            return _load_exported(str(source.path), settings)
        word = load_model(str(source.path or source.name), "classy embed")
    model = word.eval().requires_grad_(False)
    data, channels = find_data(model), model.input_shape[0]
    _check_crops(data, settings)
    about = {
        "class": type(model).__name__,
        "config": _describe(model),
        "digest": hash_state(model.state_dict()),
        "trunk_norm": settings.trunk_norm,
        "preprocessing": _describe_data(data),
    }
    ids = attach_readings(model, settings)
    device = find_device("cpu" if settings.engine and settings.device is None else settings.device)
    model.to(device)
    if settings.engine is None:
        return Encoder(model, data, channels, device, ids, about)
    from classy_vision.engines.search import optimize

    shape = (choose_batch(settings, device), *data.input_shape(channels, training=False))
    fast = optimize(model, torch.randn(shape, device=device), engine=settings.engine)
    return Encoder(fast, data, channels, device, ids, {**about, "engine": fast.engine})


def _check_crops(data: DataConfig, settings: Settings) -> None:
    """Refuses to average features of places over crops, in which the places are others."""
    if data.crops > 1 and (odd := next((p for p in settings.pooling if p not in POOLINGS), None)):
        raise ConfigError(
            f"pooling = {odd!r} keeps places, and the model sees {data.crops} crops of each {data.unit} "
            f"(preprocessing.crops), over which features are averaged: pool by {', '.join(READINGS[:-2])}"
        )


def choose_batch(settings: Settings, device: torch.device) -> int:
    """Chooses how many images or clips the model sees at once."""
    if settings.batch_size is not None:
        return settings.batch_size
    return BATCH if device.type != "cpu" else min(BATCH, BATCH_PER_THREAD * torch.get_num_threads())


def attach_readings(model: ClassyModel, settings: Settings) -> dict[str, str]:
    """Replaces the heads of a model by those that are wanted and those that give features.

    Returns:
        The ids of heads by column: "block3/mean", "head/species".

    Raises:
        ConfigError: there is no such block or head, or a block cannot be pooled so.
    """
    heads = settings.heads
    attached = {head.unique_id: place for place, found in model.get_heads().items() for head in found}
    if (odd := next((name for name in heads if name not in attached), None)) is not None:
        raise unknown("head", odd, attached)
    wanted: dict[str | tuple[str, ...], list[ClassyHead]] = {}
    for place, found in model.get_heads().items():
        if kept := [head for head in found if head.unique_id in heads]:
            wanted[tuple(split_place(place))] = kept
    ids = {f"{HEAD}/{name}": str(name) for name in heads}
    for block in dict.fromkeys(settings.blocks or ([] if heads else [END])):
        if block not in model.block_names:
            raise unknown("block", block, model.block_names)
        for reading in dict.fromkeys(settings.pooling):
            column = f"{block}/{reading}"
            ids[column] = f"feature {len(ids)}"
            wanted.setdefault((block,), []).append(FeatureHead(ids[column], reading, settings.trunk_norm))
    model.set_heads(wanted)
    model.eval()
    return ids


def _describe(model: ClassyModel) -> Any:
    """The config of a model; None where none can describe it."""
    try:
        return model.to_config()
    except ConfigError:
        return None


def _describe_data(data: DataConfig) -> dict[str, Any]:
    return preprocessing_of(data.model_dump(mode="json", exclude_none=True))


def _load_exported(path: str, settings: Settings) -> Encoder:
    """Loads an exported file, which gives outputs of heads alone."""
    from classy_vision.export.compare import Batched
    from classy_vision.export.exported_model import load_exported
    from classy_vision.predict.array_predictor import input_of

    if settings.blocks or settings.engine:
        what = "an engine: it has its own"
        if settings.blocks:
            what = f"block {settings.blocks[0]!r}: it gives outputs of heads alone"
        raise ConfigError(f"{path!r} is an exported file, which does not have {what}")
    exported = load_exported(path, trust=settings.trust)
    data = input_of(exported)
    if (odd := next((name for name in settings.heads if name not in exported.heads), None)) is not None:
        raise unknown("head", odd, exported.heads)
    ids = {f"{HEAD}/{name}": name for name in settings.heads or exported.heads}
    about: dict[str, Any] = {"class": "ExportedModel", "config": None}
    about |= {"digest": hash_file(Path(path))}
    about["preprocessing"] = _describe_data(data)
    cpu, most = torch.device("cpu"), exported.metadata.max_batch
    return Encoder(Batched(exported), data, len(data.mean or ()), cpu, ids, about, most)
