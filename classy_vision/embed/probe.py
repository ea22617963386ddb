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
from dataclasses import asdict
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
from classy_vision.embed.job import embed
from classy_vision.embed.probe_picture import draw_probe
from classy_vision.embed.readings import Probe, Reading
from classy_vision.embed.records import RecordSource, read_data
from classy_vision.embed.settings import Settings
from classy_vision.embed.stored import Embeddings, load
from classy_vision.embed.work import Progress
from classy_vision.heads.classy_head import ClassyHead, build_head
from classy_vision.heads.pooling import WITH_TOKEN
from classy_vision.identify.networks import load_model
from classy_vision.models import ClassyModel
from classy_vision.predict.predictor import find_data
from classy_vision.study.figure import save
from classy_vision.train.run_folder import hash_state
from classy_vision.trunk.names import END
from classy_vision.trunk.use import preprocessing_of
from classy_vision.weights.files import replacing

DECAYS = tuple(10.0**power for power in range(-6, 2))
EPOCHS, BATCH = 30, 64
REACH = 1.0
"""How far Adam could move a weight over the training, in multiples of the weights that it begins with."""
POOLED = ("mean", "max", "gem", *WITH_TOKEN)
TABLE, RESULT, PICTURE, CONFIG, MODEL = "probe.csv", "probe.json", "probe.png", "train.yaml", "model"


Classifier = tuple[Tensor, Tensor]
"""Weights (c, k) and biases (k,) for features as they are."""


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
    stored, new = _find_features(network, source, folder, blocks, pooling, progress, settings)
    found = _fit(stored, source, labels, [(b, kind, macs[b]) for b in blocks for kind in pooling], decays)
    result = Probe(tuple(found), folder, new)
    _write_all(result, found, network, source)
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
    classes = _list_classes(source, column)
    if len(classes) < 2:
        raise ConfigError(f"column {column!r} has {len(classes)} class: at least 2 are needed")
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([-1 if cell is None else numbers[str(cell)] for cell in cells])


def _list_classes(source: RecordSource, column: str) -> list[str]:
    return sorted({str(cell) for cell in source.records.columns[column] if cell is not None})


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


def _fit(
    stored: Embeddings,
    source: RecordSource,
    labels: Mapping[str, Tensor],
    places: Sequence[tuple[str, str, int]],
    decays: Sequence[float],
) -> dict[Reading, Classifier]:
    """Fits classifiers to the features of all blocks and poolings, which are given with their multiply-adds."""
    found: dict[Reading, Classifier] = {}
    rows, held_out = torch.tensor(stored.column("row")), source.records.held_out
    for block, kind, macs in places:
        features = stored.tensor(f"{block}/{kind}").float()
        for column, targets in labels.items():
            knn, linear, decay, own = _measure(features, rows, targets, held_out, decays)
            found[Reading(column, block, kind, features.shape[1], macs, knn, linear, decay)] = own
    return found


def _measure(
    features: Tensor, rows: Tensor, targets: Tensor, held_out: Sequence[bool], decays: Sequence[float]
) -> tuple[float, float, float, Classifier]:
    """Returns the accuracies of neighbours and of the best linear classifier, its decay, and itself."""
    labels, held = targets[rows], torch.tensor(held_out)[rows]
    train, test = (labels >= 0) & ~held, (labels >= 0) & held
    classes, wanted = int(targets.max()) + 1, labels[test]
    if not train.any() or not test.any():
        raise ConfigError("no labelled sample of the training or of the validation split could be read")
    knn = classify_by_neighbours(features[train], labels[train], features[test], classes)
    seen, unseen, mean, scale = standardize(features[train], features[test])
    weight, bias = fit_linear(seen, labels[train], classes, decays)
    accuracies = (classify_linearly(unseen, weight, bias) == wanted).double().mean(1)
    best = int(accuracies.argmax())
    plain = weight[best] * scale[:, None]
    classifier = plain, bias[best] - mean.double() @ plain
    return float((knn == wanted).double().mean()), float(accuracies[best]), decays[best], classifier


# -- what is written


def _write_all(
    result: Probe, found: Mapping[Reading, Classifier], model: ClassyModel, source: RecordSource
) -> None:
    """Writes the table, the picture, the model with the classifiers that were chosen, and the config."""
    chosen = {one.column: result.cheapest(one.column) for one in found}
    classes = {column: _list_classes(source, column) for column in chosen}
    classifiers = {one: found[one] for one in chosen.values()}
    job = _describe_job(model, source)
    _save_model(model, result.folder / MODEL, classifiers, classes, find_data(model))
    _write(result, _complete_job(job, chosen, classifiers, classes, result.folder))


def _describe_job(model: ClassyModel, source: RecordSource) -> dict[str, Any]:
    """Describes a training with a frozen trunk, apart from the heads, and the number of its steps."""
    data, rows = source.data, len(source.records.rows(held_out=False))
    batch = min(BATCH, max(1, rows // 4))
    model.clear_heads()
    config = {
        key: value for key, value in model.to_config().items() if key not in ("heads", "preprocessing", "tasks")
    }
    told = data.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return {
        "model": {**config, "in_channels": model.input_shape[0]},  # grey data would make it one of grey images
        "steps": EPOCHS * -(-rows // batch),
        "data": {key: str(Path(v).resolve()) if key in ("root", "file") else v for key, v in told.items()},
        "schedule": {"epochs": EPOCHS, "batch_size": batch, "weight_decay": 0.0, "freeze": {"until": END}},
    }


def _complete_job(
    job: Mapping[str, Any],
    chosen: Mapping[str, Reading],
    classifiers: Mapping[Reading, Classifier],
    classes: Mapping[str, Sequence[str]],
    folder: Path,
) -> dict[str, Any]:
    """Completes a training by the heads, which begin with the classifiers of the probe."""
    heads = [{**_describe_head(one), "fork_block": one.block} for one in chosen.values()]
    sizes = {column: float(classifiers[one][0].square().mean().sqrt()) for column, one in chosen.items()}
    rates = {column: max(1e-6, min(1.0, REACH * size / job["steps"])) for column, size in sizes.items()}
    return {
        "model": {**job["model"], "heads": heads},
        "weights": str((folder / MODEL).resolve()),
        "data": job["data"],
        "schedule": {**job["schedule"], "head_learning_rate": rates},
        "tasks": {column: {"kind": "classification", "classes": [*classes[column]]} for column in chosen},
    }


def _describe_head(one: Reading) -> dict[str, Any]:
    return {"name": "fully_connected", "unique_id": one.column, "pooling": one.pooling}


def _save_model(
    model: ClassyModel,
    place: Path,
    classifiers: Mapping[Reading, Classifier],
    classes: Mapping[str, Sequence[str]],
    seen: DataConfig,
) -> None:
    """Saves the model with the classifiers of the probe as its heads."""
    heads: dict[str | tuple[str, ...], list[ClassyHead]] = {}
    for one, (weight, _) in classifiers.items():
        head = build_head({**_describe_head(one), "num_classes": weight.shape[1]})
        head.task = {"kind": "classification", "classes": [*classes[one.column]]}
        heads.setdefault((one.block,), []).append(head)
    model.set_heads(heads)
    attached = {head.unique_id: head for found in model.get_heads().values() for head in found}
    with torch.no_grad():
        for one, (weight, bias) in classifiers.items():
            (layer,) = attached[one.column].output_layers()
            layer.weight.copy_(weight.T)
            assert layer.bias is not None
            layer.bias.copy_(bias)
    model.preprocessing = preprocessing_of(seen.model_dump(mode="json", exclude_none=True))
    model.save_pretrained(place)


def _write(found: Probe, config: Mapping[str, Any]) -> None:
    columns = [*dict.fromkeys(one.column for one in found.readings)]
    chosen = {column: found.cheapest(column) for column in columns}
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
    texts = {
        TABLE: table.getvalue(),
        RESULT: json.dumps(said, indent=2) + "\n",
        CONFIG: yaml.safe_dump(config, sort_keys=False),
    }
    for name, text in texts.items():
        with replacing(found.folder / name) as beside:
            beside.write_text(text, encoding="utf-8")
    save(draw_probe(found, columns), found.folder / PICTURE)
