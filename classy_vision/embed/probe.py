"""Which block to read: classifiers on the features of every block, against what it costs to compute them.

One pass over the data gives the features, which are kept where ``classy train`` keeps those of frozen trunks.
Then nearest neighbours, linear classifiers and perhaps attentive probes are fitted to those of each block and
pooling.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from classy_vision.atomic import replacing
from classy_vision.config import ConfigError, system_error, unknown
from classy_vision.cost.count import count
from classy_vision.data.config import DataConfig
from classy_vision.data.sources import Records, load_records
from classy_vision.embed.attentive import fit_attentive, measure_attentive
from classy_vision.embed.classify import classify_by_neighbours, classify_linearly, fit_linear, standardize
from classy_vision.embed.probe_features import ATTENTION, BlockFeatures, Spot, compute_features, describe_head
from classy_vision.embed.probe_picture import draw_probe
from classy_vision.embed.readings import Probe, Reading
from classy_vision.embed.records import read_data
from classy_vision.embed.settings import ProbeSettings
from classy_vision.embed.work import Progress
from classy_vision.heads.classy_head import ClassyHead, build_head
from classy_vision.heads.pooling import WITH_TOKEN
from classy_vision.identify.networks import load_model
from classy_vision.models import ClassyModel
from classy_vision.predict.predictor import find_data, find_device
from classy_vision.study.figure import save
from classy_vision.train.config import TrainConfig
from classy_vision.train.job import Job, prepare
from classy_vision.train.run_folder import hash_state
from classy_vision.trunk.names import END
from classy_vision.trunk.use import preprocessing_of

EPOCHS, BATCH = 30, 64
REACH = 1.0
ATTENTIVE_REACH = 0.1
"""How far Adam could move a weight over the training, in multiples of the weights that it begins with."""
POOLED = ("mean", "max", "gem", *WITH_TOKEN)
TABLE, RESULT, PICTURE, CONFIG, MODEL = "probe.csv", "probe.json", "probe.png", "train.yaml", "model"
UNFINISHED = re.compile(r"\.(probe\.(csv|json|png)|train\.yaml)\.\d+\.part")
"""What a probe leaves that was killed while it wrote."""


Classifier = Mapping[str, Tensor]
"""The weights of a head, for features as they are."""


def probe(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    force: bool = False,
    progress: Callable[[Progress], object] | None = None,
    tell: Callable[[str], object] | None = None,
    **settings: Any,
) -> Probe:
    """Finds out which block of a trunk to read for a task, with classifiers on features that are computed once.

    The split is that of ``classy train``. The weight decay and the learning rate are those that are best on
    what is held out, as in DINOv2's protocol.

    Args:
        model: what means a model with weights.
        data: a folder with one folder per class, a table, "digits" or "scenes".
        output: the folder to write.
        force: replace what was found of another trunk or other data.
        progress: is called while features are computed.
        tell: is called with what is said before: how many bytes of features are written, and where.
        settings: values of ``ProbeSettings``: ``columns``, ``blocks``, ``attentive``, ….

    Raises:
        ConfigError: something is not there or does not fit.
        CacheError: there is no space for the features.
    """
    how = ProbeSettings.parse(settings, "probe")
    network, folder = load_model(model, "classy probe"), Path(output).expanduser()
    _check_folder(folder)
    seen, device = find_data(network), find_device(how.device)
    if seen.clip is None:
        seen = seen.model_copy(update={"crops": 1})  # features of one crop are what a training keeps
    source = read_data(str(data), seen)
    records = load_records(source)
    classes = {name: _read_classes(records, name) for name in how.columns or _choose_columns(records)}
    spots = _choose_spots(network, how)
    macs = _count(network, {block for block, _ in spots}, seen)
    config = _describe_job(network, source, len(records.rows(held_out=False)), classes, how.batch_size)
    subject = {"trunk": hash_state(network.state_dict()), "data": config["data"]}
    if not force:
        _check_subject(folder, subject)
    features = compute_features(network, _prepare(config, how.workers), spots, device, progress, tell)
    found = _fit(features, classes, macs, how)
    result = Probe(tuple(found), folder, features.new)
    _write_all(result, found, network, config, seen, subject)
    return result


def _check_folder(folder: Path) -> None:
    """Raises where a folder holds something else than a probe, which would be mixed with it.

    Raises:
        ConfigError: it does, or cannot be read.
    """
    if not os.path.lexists(folder):
        return
    try:
        names = {name for name in os.listdir(folder) if not UNFINISHED.fullmatch(name)}
    except OSError as error:
        raise system_error(error, f"cannot write to {str(folder)!r}") from None
    if names - {TABLE, RESULT, PICTURE, CONFIG, MODEL} and RESULT not in names:
        raise ConfigError(f"{str(folder)!r} holds something else than a probe: choose another folder")


def _check_subject(folder: Path, subject: Mapping[str, Any]) -> None:
    """Raises where a folder holds a probe of another trunk or other data, whose results would be lost.

    Raises:
        ConfigError: it does.
    """
    file = folder / RESULT
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8")).get("subject", subject)
        other = [name for name in subject if before[name] != subject[name]]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{str(file)!r} is not a result of a probe: choose another folder") from None
    except OSError as error:
        raise system_error(error, f"cannot read {str(file)!r}") from None
    if other:
        what = " and ".join({"trunk": "another trunk", "data": "other data"}[name] for name in other)
        raise ConfigError(
            f"{str(folder)!r} holds a probe of {what}: choose another folder, or replace it with --force"
        )


def _choose_spots(model: ClassyModel, how: ProbeSettings) -> list[Spot]:
    """Chooses the blocks and poolings."""
    blocks = how.blocks or tuple(model.block_aliases())
    pooling = how.pooling or _choose_poolings(model, blocks)
    _check(model, blocks, pooling)
    attention = [ATTENTION] if how.attentive else []
    return [(block, kind) for block in blocks for kind in (*pooling, *attention)]


def _check(model: ClassyModel, blocks: Sequence[str], pooling: Sequence[str]) -> None:
    for block in blocks:
        if block not in model.block_names:
            raise unknown("block", block, model.block_names)
    for kind in pooling:
        if kind not in POOLED:
            raise unknown("pooling", kind, POOLED)


def _choose_columns(records: Records) -> tuple[str, ...]:
    names = [name for name in records.columns if name not in ("mask", "distance")]
    if len(names) == 1 or "label" in names:
        return ("label",) if "label" in names else tuple(names)
    raise ConfigError(f"the data have several columns: name one or more of {', '.join(names)}")


def _choose_poolings(model: ClassyModel, blocks: Sequence[str]) -> tuple[str, ...]:
    layouts = [model.token_layout(model._step(block)) for block in blocks]
    has_token = all(layout is not None and layout.has_class_token for layout in layouts)
    return ("mean", *WITH_TOKEN) if has_token else ("mean",)


def _read_classes(records: Records, column: str) -> list[str]:
    """Reads the classes in a column.

    Raises:
        ConfigError: there is no such column, or its cells are not classes.
    """
    if column not in records.columns:
        raise unknown("column", column, records.columns)
    cells = records.columns[column]
    if any(isinstance(cell, (list, float)) or callable(cell) for cell in cells):
        raise ConfigError(
            f"column {column!r} does not hold classes: one name or whole number for each row is needed"
        )
    classes = sorted({str(cell) for cell in cells if cell is not None})
    if len(classes) < 2:
        raise ConfigError(f"column {column!r} has {len(classes)} class: at least 2 are needed")
    return classes


def _number_labels(records: Records, column: str, classes: Sequence[str]) -> Tensor:
    """Gives the classes of all rows as numbers; -1 is a missing one."""
    numbers = {name: number for number, name in enumerate(classes)}
    cells = records.columns[column]
    return torch.tensor([-1 if cell is None else numbers[str(cell)] for cell in cells])


def _count(model: ClassyModel, blocks: Iterable[str], seen: DataConfig) -> dict[str, int]:
    """Counts the multiply-adds up to each block."""
    channels = model.input_shape[0]
    costs = count(model, seen.input_shape(channels, training=False))
    steps = [step for step in costs.steps if not step.reads]
    upto = dict(zip((step.name for step in steps), accumulate(step.macs for step in steps)))
    return {block: upto[model._step(block)] for block in blocks}


def _prepare(config: Mapping[str, Any], workers: int | None) -> Job:
    """Prepares the training that is recommended, but for its heads, so that it has the same features."""
    heads = [{**describe_head("mean", name), "fork_block": END} for name in config["tasks"]]
    schedule = {**config["schedule"], "workers": workers}
    settings = {key: config[key] for key in ("data", "tasks")}
    model = {**config["model"], "heads": heads}
    return prepare(TrainConfig.parse({**settings, "model": model, "schedule": schedule}))


def _fit(
    features: BlockFeatures,
    classes: Mapping[str, Sequence[str]],
    macs: Mapping[str, int],
    how: ProbeSettings,
) -> dict[Reading, Classifier]:
    """Fits classifiers to the features of all blocks and poolings."""
    found: dict[Reading, Classifier] = {}
    rows = [features.list_rows(held_out) for held_out in (False, True)]
    labels = {name: _number_labels(features.job.records, name, classes[name]) for name in classes}
    for block, kind in features.heads:
        if kind == ATTENTION and not features.has_positions(block):
            continue
        pooled = (
            []
            if kind == ATTENTION
            else [features.pool(block, kind, rows[held], held) for held in (False, True)]
        )
        for column, targets in labels.items():
            if not all((targets[part] >= 0).any() for part in rows):
                raise ConfigError("no labelled sample of the training or of the validation split could be read")
            what = column, block, kind, macs[block]
            if kind == ATTENTION:
                one, own = _attend(what, features, rows, targets, len(classes[column]), how.rates)
            else:
                one, own = _measure(what, pooled, rows, targets, len(classes[column]), how.decays)
            found[one] = own
    return found


What = tuple[str, str, str, int]
"""A column, a block, a pooling, and the multiply-adds up to the block."""


def _measure(
    what: What,
    features: Sequence[Tensor],
    rows: Sequence[Tensor],
    targets: Tensor,
    classes: int,
    decays: Sequence[float],
) -> tuple[Reading, Classifier]:
    """Measures nearest neighbours and the best linear classifier.

    Args:
        what: is measured.
        features: (n, c), of both splits.
        rows: (n,), of both splits.
        targets: of all rows; -1 is a missing one.
        classes: how many.
        decays: that are tried.
    """
    labels = [targets[part] for part in rows]
    train, test = (x[found >= 0] for x, found in zip(features, labels))
    known, wanted = (found[found >= 0] for found in labels)
    knn = classify_by_neighbours(train, known, test, classes)
    seen, unseen, mean, scale = standardize(train, test)
    weight, bias = fit_linear(seen, known, classes, decays)
    accuracies = (classify_linearly(unseen, weight, bias) == wanted).double().mean(1)
    best = int(accuracies.argmax())
    plain = weight[best] * scale[:, None]
    own = {"fc.weight": plain.T, "fc.bias": bias[best] - mean.double() @ plain}
    right = float((knn == wanted).double().mean())
    column, block, kind, macs = what
    return Reading(column, block, kind, train.shape[1], macs, right, float(accuracies[best]), decays[best]), own


def _attend(
    what: What,
    features: BlockFeatures,
    rows: Sequence[Tensor],
    targets: Tensor,
    classes: int,
    rates: Sequence[float],
) -> tuple[Reading, Classifier]:
    """Measures the best attentive probe; see ``_measure``."""
    column, block, kind, macs = what
    train, test = (part[targets[part] >= 0] for part in rows)
    read, look = (partial(features.read_tokens, block, held_out=held) for held in (False, True))
    heads = fit_attentive(read, train, targets[train], classes, rates)
    accuracies = measure_attentive(heads, look, test, targets[test])
    best = max(range(len(rates)), key=accuracies.__getitem__)
    own = {name: x.detach().cpu() for name, x in heads[best].state_dict().items()}
    channels = int(heads[best].in_plane or 0)
    return Reading(column, block, kind, channels, macs, None, None, None, accuracies[best], rates[best]), own


# -- what is written


def _write_all(
    result: Probe,
    found: Mapping[Reading, Classifier],
    model: ClassyModel,
    job: Mapping[str, Any],
    seen: DataConfig,
    subject: Mapping[str, Any],
) -> None:
    """Writes the table, the picture, the model with the classifiers that were chosen, and the config."""
    chosen = {one.column: result.cheapest(one.column) for one in found}
    classifiers = {one: found[one] for one in chosen.values()}
    _save_model(model, result.folder / MODEL, classifiers, job["tasks"], seen)
    _write(result, _complete_job(job, chosen, classifiers, result.folder), subject)


def _describe_job(
    model: ClassyModel,
    data: DataConfig,
    rows: int,
    classes: Mapping[str, Sequence[str]],
    batch_size: int | None,
) -> dict[str, Any]:
    """Describes a training with a frozen trunk, apart from the heads."""
    batch = batch_size or min(BATCH, max(1, rows // 4))
    model.clear_heads()
    config = {
        key: value for key, value in model.to_config().items() if key not in ("heads", "preprocessing", "tasks")
    }
    told = data.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return {
        "model": {**config, "in_channels": model.input_shape[0]},  # grey data would make it one of grey images
        "data": {key: str(Path(v).resolve()) if key in ("root", "file") else v for key, v in told.items()},
        "schedule": {"epochs": EPOCHS, "batch_size": batch, "weight_decay": 0.0, "freeze": {"until": END}},
        "tasks": {column: {"kind": "classification", "classes": [*classes[column]]} for column in classes},
        "steps": EPOCHS * -(-rows // batch),
    }


def _complete_job(
    job: Mapping[str, Any],
    chosen: Mapping[str, Reading],
    classifiers: Mapping[Reading, Classifier],
    folder: Path,
) -> dict[str, Any]:
    """Completes a training by the heads, which begin with the classifiers of the probe."""
    heads = [{**describe_head(one.pooling, one.column), "fork_block": one.block} for one in chosen.values()]
    sizes = {column: _find_reach(one, classifiers[one]) for column, one in chosen.items()}
    rates = {column: max(1e-6, min(1.0, size / job["steps"])) for column, size in sizes.items()}
    return {
        "model": {**job["model"], "heads": heads},
        "weights": str((folder / MODEL).resolve()),
        "data": job["data"],
        "schedule": {**job["schedule"], "head_learning_rate": rates},
        "tasks": job["tasks"],
    }


def _find_reach(one: Reading, classifier: Classifier) -> float:
    """How far Adam may move a weight over the training: as far as weights are from zero, on average."""
    if one.attentive is None:
        return REACH * float(classifier["fc.weight"].square().mean().sqrt())
    weights = torch.cat([x.flatten() for name, x in classifier.items() if name.endswith("weight")])
    return ATTENTIVE_REACH * float(weights.square().mean().sqrt())


def _save_model(
    model: ClassyModel,
    place: Path,
    classifiers: Mapping[Reading, Classifier],
    tasks: Mapping[str, Any],
    seen: DataConfig,
) -> None:
    """Saves the model with the classifiers of the probe as its heads."""
    heads: dict[str | tuple[str, ...], list[ClassyHead]] = {}
    for one in classifiers:
        classes = len(tasks[one.column]["classes"])
        head = build_head({**describe_head(one.pooling, one.column), "num_classes": classes})
        head.task = {**tasks[one.column]}
        heads.setdefault((one.block,), []).append(head)
    model.cpu().set_heads(heads)
    attached = {head.unique_id: head for found in model.get_heads().values() for head in found}
    for one, weights in classifiers.items():
        odd = attached[one.column].load_state_dict(weights, strict=False)  # gem has a power, which stays
        assert not odd.unexpected_keys
    model.preprocessing = preprocessing_of(seen.model_dump(mode="json", exclude_none=True))
    model.save_pretrained(place)


def _write(found: Probe, config: Mapping[str, Any], subject: Mapping[str, Any]) -> None:
    columns = [*dict.fromkeys(one.column for one in found.readings)]
    chosen = {column: found.cheapest(column) for column in columns}
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [*asdict(found.readings[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, found.readings))
    said = {
        "subject": subject,
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
