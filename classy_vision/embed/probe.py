"""Which block to read: classifiers on the features of every block, against what it costs to compute them.

One pass over the data gives the features, which stay on disk under a name that changes with the weights, the
preprocessing and the data. Then nearest neighbours and linear classifiers are fitted to those of each block and
pooling.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from classy_vision.config import ConfigError, unknown
from classy_vision.cost.count import count
from classy_vision.data.config import DataConfig
from classy_vision.embed.classify import classify_by_neighbours, classify_linearly, fit_linear, standardize
from classy_vision.embed.folder import ABOUT, MANIFEST
from classy_vision.embed.job import Progress, embed
from classy_vision.embed.records import RecordSource, read_data
from classy_vision.embed.settings import Settings
from classy_vision.embed.stored import Embeddings, load
from classy_vision.heads.pooling import WITH_TOKEN
from classy_vision.identify.networks import load_model
from classy_vision.models import ClassyModel
from classy_vision.predict.predictor import find_data
from classy_vision.train.run_folder import hash_state
from classy_vision.trunk.names import END
from classy_vision.trunk.use import preprocessing_of

DECAYS = tuple(10.0**power for power in range(-6, 2))
WITHIN = 0.01
"""How much accuracy may be given up for a cheaper block."""
EPOCHS, BATCH = 30, 64
REACH = 16.0
"""How far Adam could move a weight over the training, in multiples of what the weights of the probe are."""
POOLED = ("mean", "max", "gem", *WITH_TOKEN)
TABLE, RESULT, PICTURE, CONFIG = "probe.csv", "probe.json", "probe.png", "train.yaml"


@dataclass(frozen=True)
class Reading:
    """A block and a pooling, and what they are worth.

    Attributes:
        column: of the labels.
        block, pooling: which.
        channels: of the features.
        macs: multiply-adds up to that block, for one sample.
        knn: the accuracy of nearest neighbours on what was held out.
        linear: that of the best linear classifier.
        weight_decay: of that classifier.
        scale: the root mean square of its weights, for features as they are.
    """

    column: str
    block: str
    pooling: str
    channels: int
    macs: int
    knn: float
    linear: float
    weight_decay: float
    scale: float


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        readings: of all columns, blocks and poolings, as they run.
        folder: where it was written.
        new: how many samples were embedded for it; the others were on disk.
    """

    readings: tuple[Reading, ...]
    folder: Path
    new: int

    def best(self, column: str) -> Reading:
        """The reading with the highest linear accuracy."""
        return max(self._of(column), key=lambda one: (one.linear, -one.macs))

    def cheapest(self, column: str) -> Reading:
        """The cheapest reading within one point of the best; of one block the best."""
        least = self.best(column).linear - WITHIN
        return min(
            (one for one in self._of(column) if one.linear >= least), key=lambda one: (one.macs, -one.linear)
        )

    def front(self, column: str) -> list[Reading]:
        """The readings that are better than all cheaper ones."""
        kept: list[Reading] = []
        for one in sorted(self._of(column), key=lambda one: (one.macs, -one.linear)):
            if not kept or one.linear > kept[-1].linear:
                kept.append(one)
        return kept

    def _of(self, column: str) -> list[Reading]:
        return [one for one in self.readings if one.column == column]


def probe(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    columns: Sequence[str] = (),
    blocks: Sequence[str] = (),
    pooling: Sequence[str] = (),
    decays: Sequence[float] = DECAYS,
    progress: Callable[[Progress], object] | None = None,
    **settings: Any,
) -> Probe:
    """Finds out which block of a trunk to read for a task, without training.

    The split is that of ``classy train``. The weight decay is the one that is best on what is held out, as in
    DINOv2's protocol.

    Args:
        model: what means a model with weights.
        data: a folder with one folder per class, a table, "digits" or "scenes".
        output: the folder to write. Features are in it, and are used again as long as weights and data are the
            same.
        columns: of the labels; by default the only one, or "label".
        blocks: by default all.
        pooling: "mean", "max", "gem", "token" or "token_and_mean"; by default "mean", and those with a token
            where every block has one.
        decays: weight decays that are tried.
        progress: as for ``embed``.
        settings: as for ``embed``.

    Raises:
        ConfigError: something is not there or does not fit.
    """
    network, folder = load_model(model, "classy probe"), Path(output).expanduser()
    seen = find_data(network)
    source = RecordSource(read_data(str(data), seen), Settings.parse(settings, "probe").shard_size)
    labels = {name: _read_labels(source, name) for name in columns or _choose_columns(source)}
    blocks = tuple(blocks) or tuple(network.block_aliases())
    pooling = tuple(pooling) or _choose_poolings(network, blocks)
    _check(network, blocks, pooling)
    macs = _count(network, blocks, seen)
    trained = _describe_job(network, model, source)
    stored, new = _find_features(network, source, folder, blocks, pooling, progress, settings)
    rows = torch.tensor(stored.column("row"))
    readings = []
    for name, of_blocks in ((block, macs[block]) for block in blocks):
        for kind in pooling:
            features = stored.tensor(f"{name}/{kind}").float()
            for column, targets in labels.items():
                found = _measure(features, rows, targets, source.records.held_out, decays)
                readings.append(Reading(column, name, kind, features.shape[1], of_blocks, *found))
    result = Probe(tuple(readings), folder, new)
    _write(result, trained)
    return result


def _check(model: ClassyModel, blocks: Sequence[str], pooling: Sequence[str]) -> None:
    for block in blocks:
        if block not in model.block_names:
            raise unknown("block", block, model.block_names)
    for kind in pooling:
        if kind not in POOLED:
            raise unknown("pooling", kind, POOLED)


def _choose_columns(source: RecordSource) -> tuple[str, ...]:
    names = [name for name in source.records.columns if name not in ("mask", "distance")]
    if len(names) == 1 or "label" in names:
        return ("label",) if "label" in names else tuple(names)
    raise ConfigError(f"the data have several columns: name one or more of {', '.join(names)}")


def _choose_poolings(model: ClassyModel, blocks: Sequence[str]) -> tuple[str, ...]:
    layouts = [model.token_layout(model._step(block)) for block in blocks]
    has_token = all(layout is not None and layout.has_class_token for layout in layouts)
    return ("mean", *WITH_TOKEN) if has_token else ("mean",)


def _read_labels(source: RecordSource, column: str) -> Tensor:
    """Reads the classes of all rows as numbers; -1 is a missing one.

    Raises:
        ConfigError: there is no such column, or its cells are not classes.
    """
    columns = source.records.columns
    if column not in columns:
        raise unknown("column", column, columns)
    cells = columns[column]
    if any(isinstance(cell, (list, float)) or callable(cell) for cell in cells):
        raise ConfigError(
            f"column {column!r} does not hold classes: one name or whole number for each row is needed"
        )
    classes = sorted({str(cell) for cell in cells if cell is not None})
    if len(classes) < 2:
        raise ConfigError(f"column {column!r} has {len(classes)} class: at least 2 are needed")
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([-1 if cell is None else numbers[str(cell)] for cell in cells])


def _count(model: ClassyModel, blocks: Sequence[str], seen: DataConfig) -> dict[str, int]:
    """Counts the multiply-adds up to each block."""
    channels = model.input_shape[0]
    costs = count(model, seen.input_shape(channels, training=False))
    steps = [step for step in costs.steps if not step.reads]
    upto = dict(zip((step.name for step in steps), accumulate(step.macs for step in steps)))
    return {block: upto[model._step(block)] for block in blocks}


def _find_features(
    model: ClassyModel,
    source: RecordSource,
    folder: Path,
    blocks: Sequence[str],
    pooling: Sequence[str],
    progress: Callable[[Progress], object] | None,
    settings: Mapping[str, Any],
) -> tuple[Embeddings, int]:
    """Embeds the data, or reads what was embedded before by the same weights of the same data."""
    model.clear_heads()
    seen = preprocessing_of(find_data(model).model_dump(mode="json", exclude_none=True))
    key = [hash_state(model.state_dict()), seen, source.about, source.fingerprint, blocks, pooling, settings]
    name = sha256(json.dumps(key, default=str, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / "features" / name
    if (place / MANIFEST).is_file():
        return load(place), 0
    resume = (place / ABOUT).is_file()
    found = embed(
        model, source, place, blocks=blocks, pooling=pooling, resume=resume, progress=progress, **settings
    )
    return load(place), found.new


def _measure(
    features: Tensor, rows: Tensor, targets: Tensor, held_out: Sequence[bool], decays: Sequence[float]
) -> tuple[float, float, float, float]:
    """Returns the accuracies of neighbours and of the best linear classifier, its decay and its scale."""
    labels, held = targets[rows], torch.tensor(held_out)[rows]
    train, test = (labels >= 0) & ~held, (labels >= 0) & held
    classes, wanted = int(targets.max()) + 1, labels[test]
    if not train.any() or not test.any():
        raise ConfigError("no labelled sample of the training or of the validation split could be read")
    knn = classify_by_neighbours(features[train], labels[train], features[test], classes)
    seen, unseen, scale = standardize(features[train], features[test])
    weight, bias = fit_linear(seen, labels[train], classes, decays)
    accuracies = (classify_linearly(unseen, weight, bias) == wanted).double().mean(1)
    best = int(accuracies.argmax())
    size = float((weight[best] * scale[:, None]).square().mean().sqrt())
    return float((knn == wanted).double().mean()), float(accuracies[best]), decays[best], size


# -- what is written


def _describe_job(model: ClassyModel, word: str | Path, source: RecordSource) -> dict[str, Any]:
    """Describes a training with a frozen trunk, apart from the heads, and the number of its steps."""
    data, rows = source.data, len(source.records.rows(held_out=False))
    config = {
        key: value for key, value in model.to_config().items() if key not in ("heads", "preprocessing", "tasks")
    }
    told = data.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    path = Path(word).expanduser()
    return {
        "model": config,
        "weights": {"source": str(path.resolve() if path.exists() else word), "skip_heads": True},
        "steps": EPOCHS * -(-rows // BATCH),
        "data": {key: str(Path(v).resolve()) if key in ("root", "file") else v for key, v in told.items()},
        "schedule": {"epochs": EPOCHS, "batch_size": BATCH, "weight_decay": 0.0, "freeze": {"until": END}},
    }


def _write(found: Probe, job: Mapping[str, Any]) -> None:
    from classy_vision.embed.probe_picture import draw_probe
    from classy_vision.study.figure import save
    from classy_vision.weights.files import replacing

    columns = [*dict.fromkeys(one.column for one in found.readings)]
    chosen = {column: found.cheapest(column) for column in columns}
    heads = [
        {
            "name": "fully_connected",
            "unique_id": column,
            "fork_block": one.block,
            "pooling": one.pooling,
        }
        for column, one in chosen.items()
    ]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [*asdict(found.readings[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, found.readings))
    said = {
        "readings": [asdict(one) for one in found.readings],
        "best": {column: asdict(found.best(column)) for column in columns},
        "cheapest": {column: asdict(one) for column, one in chosen.items()},
        "front": {column: [f"{one.block}/{one.pooling}" for one in found.front(column)] for column in columns},
    }
    tasks = {column: {"kind": "classification"} for column in columns}
    rates = {column: min(1.0, REACH * one.scale / job["steps"]) for column, one in chosen.items()}
    schedule = {**job["schedule"], "head_learning_rate": rates}
    config = {**job, "model": {**job["model"], "heads": heads}, "schedule": schedule, "tasks": tasks}
    del config["steps"]
    texts = {
        TABLE: table.getvalue(),
        RESULT: json.dumps(said, indent=2) + "\n",
        CONFIG: yaml.safe_dump(config, sort_keys=False),
    }
    for name, text in texts.items():
        with replacing(found.folder / name) as beside:
            beside.write_text(text, encoding="utf-8")
    save(draw_probe(found, columns), found.folder / PICTURE)
