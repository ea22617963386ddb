"""A training job made ready: settings, data and model agree, or an error says where they do not."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from classy_vision.config import Config, ConfigError, unknown
from classy_vision.data.batches import Batch, Samples
from classy_vision.data.config import DataConfig, TableConfig
from classy_vision.data.images import MODES, ImageError, check_images, read_size
from classy_vision.data.masks import PixelLabels, check_labels
from classy_vision.data.preprocessing import from_published, with_statistics
from classy_vision.data.sources import Records, load_records, load_test_records
from classy_vision.data.split import Strata, Stratum
from classy_vision.models import MLP, MODELS, ClassyModel, ResNeXt3D, build_model
from classy_vision.models.published import with_published
from classy_vision.text import list_some
from classy_vision.train.best import check_best
from classy_vision.train.config import TaskConfig, TrainConfig, WeightsConfig
from classy_vision.train.model import check_freezing, check_model, name_frozen_heads
from classy_vision.train.tasks import (
    KINDS,
    Classification,
    DenseTask,
    Regression,
    Segmentation,
    Task,
    can_convert,
    find_classes,
)
from classy_vision.train.weighting import check_weighting
from classy_vision.trunk.meta import OnMeta
from classy_vision.weights.catalogue import Preprocessing, is_published, published
from classy_vision.weights.sources import find_file

AnyData = TypeVar("AnyData", bound=DataConfig)
SAMPLED, PIXELS = 256, 2**16
"""Images of which pixels are counted, and about so many of each."""
MAX_BINS = 10
"""Of the numbers of a regression, by their rank."""
# Options that make a head give logits in evaluation too, which the losses and metrics take.
LOGITS: dict[str, dict[str, Any]] = {"fully_convolutional_linear": {"activation_func": "identity"}}


@dataclass(frozen=True)
class Job:
    """What is trained, on what.

    Attributes:
        settings: complete: a model for ``build_model``, classes, mean and std.
        records: the images or videos.
        tasks: by head id, in the order of the heads.
        targets: by head id, a row per record; of labels of pixels, whether there are some.
        dense: the labels of pixels, by head id.
    """

    settings: TrainConfig
    records: Records
    tasks: Mapping[str, Task]
    targets: Mapping[str, Tensor]
    dense: Mapping[str, PixelLabels] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return int(self.settings.model["in_channels"])

    def samples(self, seed: int | None = None) -> Samples:
        """Reads the records; ``seed`` is of the augmentation of training, None for evaluation."""
        return Samples(self.records.images, self.settings.data, self.channels, seed, self.dense)

    def targets_of(self, head: str, batch: Batch) -> Tensor:
        """The targets of a head for the rows of a batch; (n, h, w) of labels of pixels."""
        return batch.dense[head] if head in self.dense else self.targets[head][batch.rows]

    def row_weights(self) -> Tensor | None:
        """How often each training row is drawn, where ``schedule.balance`` names a head: (n,).

        Each class of that head is as likely as each other; rows without a label as an average one.
        """
        head = self.settings.schedule.balance
        if head is None:
            return None
        codes = self.targets[head][torch.tensor(self.records.rows(held_out=False))]
        known = codes != self.tasks[head].missing
        counts = torch.bincount(codes[known], minlength=self.tasks[head].outputs)
        weights = 1 / counts.clamp(min=1).double()
        found = weights[codes.where(known, 0)]
        return found.where(known, found[known].mean())

    def fingerprint(self) -> str:
        """Hashes the files' names, their splits and their targets: a run is resumed with the same ones."""
        digest = sha256(repr([self.records.name(row) for row in range(len(self.records.images))]).encode())
        digest.update(repr(list(self.records.held_out)).encode())
        for head, targets in self.targets.items():
            digest.update(head.encode() + targets.numpy().tobytes())
        for labels in self.dense.values():
            digest.update(repr([cell for cell in labels.cells if isinstance(cell, str)]).encode())
        return digest.hexdigest()


def prepare(settings: TrainConfig, records: Records | None = None) -> Job:
    """Reads the labels and checks everything that can be checked before work is done.

    Args:
        settings: the job.
        records: of its data, where they are known.

    Raises:
        ConfigError: what does not fit, with the values on both sides.
    """
    given, settings = settings, take_published(_complete_paths(settings))
    check_packages(settings)
    heads = _name_heads(settings.model)
    configs = _find_task_configs(settings, heads)
    if records is None:
        records = load_records(settings.data, lambda columns: _balance(settings, configs, columns))
    records = replace(
        records, note="; ".join(filter(None, [records.note, _describe_published(given, settings)]))
    )
    tasks = {head: _complete_task(head, config, records) for head, config in configs.items()}
    model = _complete_model(settings.model, heads, tasks, records)
    settings = settings.model_copy(
        update={
            "model": model,
            "data": with_statistics(settings.data, model["in_channels"]),
            "tasks": {head: task.config for head, task in tasks.items()},
        }
    )
    _check_augmentation(settings, tasks)
    if not settings.data.clip:
        check_images(records.images, model["in_channels"], settings.data)
    network = check_model(settings, tasks)
    _check_schedule(settings, records)
    check_best(settings.schedule, tasks)
    check_weighting(settings, tasks)
    _check_balance(settings, tasks)
    targets = {head: _encode_targets(task, records) for head, task in tasks.items()}
    dense = _open_dense(tasks, records, settings.data)
    for head in (head for entries in network.get_heads().values() for head in entries):
        name, rows = str(head.unique_id), records.rows(held_out=False)
        known = (
            partial(_sample_pixels, dense[name], records, rows)
            if name in dense
            else partial(targets[name].__getitem__, rows)
        )
        tasks[name] = tasks[name].with_statistics(known, can_convert(head))
    settings = settings.model_copy(update={"tasks": {head: task.config for head, task in tasks.items()}})
    return Job(settings, records, tasks, targets, dense)


def check_network(settings: TrainConfig) -> None:
    """Builds the network without memory: what can be told before the data are read.

    Raises:
        ConfigError: it cannot be built, or the schedule names a block or a head that it does not have.
    """
    settings = take_published(settings)
    heads = [{"num_classes": 2, **head} for head in _name_heads(settings.model).values()]
    with OnMeta(), torch.no_grad():
        network = build_model({**settings.model, "heads": heads})
        check_freezing(network, settings.schedule)


def name_frozen(job: Job, model: ClassyModel) -> Job:
    """The job with the ids of the heads that are frozen, as ``model`` was built for it.

    Heads that end as they start give numbers in the units of the table all the time.
    """
    schedule = name_frozen_heads(job.settings.schedule, model)
    kept = schedule.kept_heads
    tasks = {head: task.in_units() if head in kept else task for head, task in job.tasks.items()}
    configs = {head: task.config for head, task in tasks.items()}
    settings = job.settings.model_copy(update={"schedule": schedule, "tasks": configs})
    return replace(job, settings=settings, tasks=tasks)


def _check_augmentation(settings: TrainConfig, tasks: Mapping[str, Task]) -> None:
    augment, channels = settings.data.augmentation, settings.model["in_channels"]
    if augment.changes_colours and channels not in MODES:
        raise ConfigError(
            f"data.augment: policy, colours and blur are for images in grey or colour, and the model takes "
            f"{channels} channels"
        )
    dense = [head for head, task in tasks.items() if task.dense]
    if augment.policy and dense:
        raise ConfigError(
            f"data.augment.policy = {augment.policy!r} moves pixels without their labels, which head "
            f"{dense[0]!r} learns: use rotate, shift, zoom, shear, brightness, contrast, saturation and hue"
        )
    if augment.hue and channels == 1:
        raise ConfigError("data.augment.hue changes nothing in grey images: leave it out")


def _open_dense(tasks: Mapping[str, Task], records: Records, data: DataConfig) -> dict[str, PixelLabels]:
    """The labels of pixels by head, of which some are looked at.

    Raises:
        ConfigError: they are missing, or do not fit their images.
    """
    found = {}
    for head, task in tasks.items():
        if isinstance(task, DenseTask):
            if data.clip:
                raise ConfigError(f"tasks.{head}: {task.config.kind} is of images, and data.clip makes clips")
            if data.crops > 1:
                raise ConfigError(
                    f"tasks.{head}: {task.config.kind} has an answer for each pixel, and data.crops = "
                    f"{data.crops} averages answers over different parts of an image: leave data.crops out"
                )
            assert task.config.target is not None
            found[head] = task.open(records.paths(task.config.target))
            splits = {"training": records.rows(False), "validation": records.rows(True)}
            check_labels(head, found[head], records.images, splits, data)
    return found


def _sample_pixels(labels: PixelLabels, records: Records, rows: Sequence[int]) -> Tensor:
    """Pixels (p,) of images from all over some rows."""
    found = []
    for row in rows[:: max(1, len(rows) // SAMPLED)][:SAMPLED]:
        image = records.images[row]
        with suppress(ImageError):  # whoever reads it raises
            size = image.size if isinstance(image, Image.Image) else read_size(image)
            whole = labels.read(row, image, size)
            if whole is not None:
                thin = max(1, math.isqrt(whole.size // PIXELS))
                found.append(torch.from_numpy(np.array(whole[::thin, ::thin])).flatten())
    return torch.cat(found)


def test_records(settings: TrainConfig) -> Records:
    """The records that ``data.test`` sets aside: those that training with ``settings`` does not read.

    Raises:
        ConfigError: there are none.
    """
    settings = _complete_paths(settings)
    configs = _find_task_configs(settings, _name_heads(settings.model))
    return load_test_records(settings.data, lambda columns: _balance(settings, configs, columns))


def check_packages(settings: TrainConfig) -> None:
    """Raises where the settings need a package that is not installed.

    Raises:
        ConfigError: says what to install.
    """
    for key, package, extra, wanted in (
        ("data.clip", "av", "video", settings.data.clip is not None),
        ("schedule.lora", "peft", "lora", settings.schedule.lora is not None),
        (
            *("schedule.loss_weighting: upgrad", "torchjd", "multitask"),
            settings.schedule.loss_weighting == "upgrad",
        ),
    ):
        if wanted and find_spec(package) is None:
            raise ConfigError(f"{key} needs: pip install 'classy-vision-models[{extra}]'")
    if settings.all_trackers:
        from classy_vision.train.trackers import check_trackers  # accelerate is an extra that evaluation lacks

        check_trackers(settings.all_trackers)


def _complete_paths(settings: TrainConfig) -> TrainConfig:
    """Makes paths absolute, so that the run can be resumed from anywhere."""
    paths = {name: getattr(settings.data, name, None) for name in ("root", "file", "images", "masks")}
    data = settings.data.model_copy(update={name: _complete(path) for name, path in paths.items() if path})
    return settings.model_copy(update={"data": data})


def _complete(path: str) -> str:
    return str(Path(os.path.expanduser(path)).absolute())


def _complete_weights(source: str) -> str:
    """The absolute path of weights, where they are a file or a folder."""
    return _complete(source) if os.path.exists(os.path.expanduser(source)) else source


# -- what published weights need


def take_published(settings: TrainConfig) -> TrainConfig:
    """Adds what published weights need to the settings: options of the network, and their preprocessing.

    Raises:
        ConfigError: there are no such weights, or they are another network's.
    """
    model = dict(settings.model)
    inside = model.pop("weights", None)
    if inside is not None and settings.weights is not None:
        raise ConfigError("weights are given twice, in the model and beside it: leave one out")
    weights = settings.weights if inside is None else inside
    if weights is True:
        weights = model.get("name")
    if isinstance(weights, Mapping):
        weights = WeightsConfig.parse(weights, "weights")
    if weights is not None and not isinstance(weights, (str, WeightsConfig)):
        raise ConfigError(f"weights = {weights!r}: the name of a file or of published weights is needed")
    source = weights.source if isinstance(weights, WeightsConfig) else weights
    if "name" in model:
        model = with_published({**model, "weights": source}, MODELS)[0]
    data = settings.data
    if source is not None:
        find_file(source)  # before any work is done
        whole = _complete_weights(source)
        weights = weights.model_copy(update={"source": whole}) if isinstance(weights, WeightsConfig) else whole
        if is_published(source):
            data = _take_preprocessing(data, published(source).preprocessing, model.get("in_channels"))
    return settings.model_copy(update={"model": model, "weights": weights, "data": data})


def _take_preprocessing(data: AnyData, theirs: Preprocessing, channels: int | None) -> AnyData:
    """Fills in what the weights expect, where ``data`` does not say something else."""
    taken = from_published(theirs, data)
    if channels not in (None, len(theirs.mean)):
        taken = {name: value for name, value in taken.items() if name not in ("mean", "std")}
    given = {name: getattr(data, name) for name in data.model_fields_set}
    return type(data).parse({**given, **taken}, "data")


def _describe_published(given: TrainConfig, settings: TrainConfig) -> str:
    """Says what ``take_published`` took from published weights for the data."""
    before, after = given.data, settings.data
    names = ("image_size", "resize", "interpolation", "eval_transform", "mean", "std", "clip")
    taken = [
        f"{name} = {_show(value)}" for name in names if (value := getattr(after, name)) != getattr(before, name)
    ]
    source = getattr(settings.weights, "source", settings.weights)
    return f"preprocessing of {source}: {', '.join(taken)}" if taken else ""


def _show(value: Any) -> Any:
    if isinstance(value, Config):
        return value.model_dump(exclude_unset=True)
    return list(value) if isinstance(value, tuple) else value


# -- heads and tasks


def _name_heads(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The heads by id, in their order."""
    heads = model.get("heads")
    if not isinstance(heads, (list, tuple)) or not heads:
        hint = "; num_classes comes from the data" if "num_classes" in model else ""
        raise ConfigError(f"model.heads: at least one head is needed, in a list{hint}")
    named: dict[str, dict[str, Any]] = {}
    for head in heads:
        if not isinstance(head, Mapping) or not head.get("unique_id"):
            raise ConfigError(f"model.heads: every head is a mapping with a unique_id, not {head!r}")
        if str(head["unique_id"]) in named:
            raise ConfigError(f"model.heads: two heads have the id {head['unique_id']!r}")
        named[str(head["unique_id"])] = {**LOGITS.get(str(head.get("name")), {}), **head}
    return named


def _find_task_configs(settings: TrainConfig, heads: Mapping[str, Any]) -> dict[str, TaskConfig]:
    if not settings.tasks:
        return {head: TaskConfig() for head in heads}
    for head in settings.tasks:
        if head not in heads:
            raise unknown("head", head, heads, "tasks")
    for head in heads:
        if head not in settings.tasks:
            raise ConfigError(f"tasks: head {head!r} has no task; give it one, or remove the head")
    return {head: settings.tasks[head] for head in heads}


def _find_target(head: str, config: TaskConfig, columns: Mapping[str, Any]) -> str:
    """The column of a head."""
    target = config.target or (next(iter(columns)) if len(columns) == 1 else head)
    if target not in columns:
        raise unknown("column", target, columns, f"tasks.{head}.target")
    return target


def _balance(
    settings: TrainConfig, configs: Mapping[str, TaskConfig], columns: Mapping[str, Sequence[Any]]
) -> Strata:
    """Finds the strata of all columns that are learned."""
    assert isinstance(settings.data, TableConfig)
    kinds = {_find_target(head, config, columns): KINDS[config.kind] for head, config in configs.items()}
    return find_strata(columns, kinds, settings.data.val_fraction)


def _complete_task(head: str, config: TaskConfig, records: Records) -> Task:
    """The task with its column and classes found."""
    columns = records.columns
    target, kind = _find_target(head, config, columns), KINDS[config.kind]
    for held_out, split in ((False, "training"), (True, "validation")):
        labelled = [row for row in records.rows(held_out) if columns[target][row] is not None]
        needed = 2 if held_out and kind is Regression else 1  # r2 is of a spread
        if len(labelled) < needed:
            raise ConfigError(
                f"tasks.{head}: column {target!r} has {len(labelled)} labels in the {split} split; "
                f"at least {needed} is needed"
            )
    classes = config.classes or (records.classes.get(target) if kind.has_classes else None)
    if kind is Segmentation and classes is None:
        raise ConfigError(
            f"tasks.{head}: a segmentation needs classes, the names of the values 0, 1, … in its masks, "
            f"such as classes: [background, road]"
        )
    if kind.has_classes and classes is None:
        classes = find_classes(kind, (columns[target][row] for row in records.rows(False)))
    if config.kind in ("classification", "segmentation") and classes is not None and len(classes) < 2:
        raise ConfigError(f"tasks.{head}: column {target!r} has only one class in training: {classes[0]!r}")
    for name in config.class_weights if isinstance(config.class_weights, dict) else ():
        if name not in (classes or ()):
            raise unknown("class", name, classes or (), f"tasks.{head}.class_weights")
    return kind(head, config.model_copy(update={"target": target, "classes": classes}))


def _encode_targets(task: Task, records: Records) -> Tensor:
    """The targets of all rows, (n,) or (n, k)."""
    assert task.config.target is not None
    encoded = []
    for row, cell in enumerate(records.columns[task.config.target]):
        try:
            encoded.append(task.encode(cell))
        except ConfigError as error:
            hint = "; the classes are those of the training split" if task.has_classes else ""
            where = f"{records.name(row)}, column {task.config.target!r}"
            raise ConfigError(f"{where}: {error}{hint}") from None
    return torch.tensor(encoded)


# -- the model and the schedule


def _complete_model(
    model: Mapping[str, Any],
    heads: Mapping[str, Mapping[str, Any]],
    tasks: Mapping[str, Task],
    records: Records,
) -> dict[str, Any]:
    family = MODELS[model["name"]].cls if model.get("name") in MODELS else ClassyModel
    if issubclass(family, MLP):
        raise ConfigError(f"model.name = {model['name']!r} does not take single images; see: classy list")
    complete = []
    for name, head in heads.items():
        found, given = tasks[name].outputs, head.get("num_classes")
        if given not in (None, found):
            classes = list_some(tasks[name].classes) if tasks[name].has_classes else "a number"
            raise ConfigError(
                f"head {name!r} has num_classes = {given}, but column {tasks[name].config.target!r} "
                f"has {found}: {classes}; leave num_classes out to take the data's"
            )
        complete.append({**head, "num_classes": found})
    model = dict(model)
    if issubclass(family, ResNeXt3D) and "input_planes" in model:  # the original's word
        model["in_channels"] = model.pop("input_planes")
    return {"in_channels": records.channels, **model, "heads": complete}


def _check_balance(settings: TrainConfig, tasks: Mapping[str, Task]) -> None:
    head = settings.schedule.balance
    if head is None:
        return
    if head not in tasks:
        raise unknown("head", head, tasks, "schedule.balance")
    if tasks[head].config.kind != "classification":
        raise ConfigError(
            f"schedule.balance = {head!r} is for a classification, and this is a {tasks[head].config.kind}"
        )


def _check_schedule(settings: TrainConfig, records: Records) -> None:
    unit = settings.data.unit
    count, batch = len(records.rows(False)), settings.schedule.batch_size
    if batch > count:
        raise ConfigError(
            f"schedule.batch_size = {batch} is more than the {count} training {unit}s; "
            f"{min(32, max(1, count // 4))} would do"
        )
    if settings.schedule.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("schedule.mixed_precision = 'fp16' needs a GPU; a CPU can use 'bf16'")


# -- what a split balances


def find_strata(
    columns: Mapping[str, Sequence[Any]], targets: Mapping[str, type[Task]], fraction: float
) -> Strata:
    """Finds what a split of a table has to balance: its classes, its labels, and the range of its numbers.

    Args:
        columns: cells by column; None where a label is missing.
        targets: kinds of tasks by column.
        fraction: part of the rows that is held out.
    """
    rows: list[set[Stratum]] = [set() for _ in next(iter(columns.values()))]
    for name, kind in targets.items():
        bins = _find_bins(columns[name], fraction) if kind is Regression else {}
        for row, cell in enumerate(columns[name]):
            found: Sequence[str | int] = [] if cell is None else kind.labels(cell)
            found = [bins[row]] if row in bins else found
            rows[row] |= {Stratum(name, value, kind is Classification) for value in found}
            if not found:
                rows[row].add(Stratum(name, None))
    return rows


def _find_bins(cells: Sequence[Any], fraction: float) -> dict[int, int]:
    """The bin of each row that has a number; each is large enough that a row of it is held out."""
    numbers = {row: number for row, cell in enumerate(cells) if (number := _read_number(cell)) is not None}
    count = max(1, min(MAX_BINS, int(len(numbers) * fraction)))
    ranked = sorted(numbers, key=numbers.__getitem__)
    return {row: place * count // len(ranked) for place, row in enumerate(ranked)}


def _read_number(cell: Any) -> float | None:
    try:
        return None if cell is None else float(cell)
    except (TypeError, ValueError):
        return None  # an error once it is encoded
