"""A training job made ready: settings, data and model agree, or an error says where they do not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.data.config import TableConfig
from classy_vision.data.images import check_images
from classy_vision.data.preprocessing import with_statistics
from classy_vision.data.sources import Records, load_records, load_test_records
from classy_vision.data.split import Strata
from classy_vision.heads import ClassyHead
from classy_vision.models import MLP, MODELS, ClassyModel, ResNeXt3D, build_model
from classy_vision.train.config import TaskConfig, TrainConfig
from classy_vision.train.initial import what_is_published, with_network
from classy_vision.train.strata import strata_of
from classy_vision.train.tasks import KINDS, Regression, Task, find_classes
from classy_vision.train.views import by_head

# Options that make a head give logits in evaluation too, which the losses and metrics take.
LOGITS: dict[str, dict[str, Any]] = {"fully_convolutional_linear": {"activation_func": "identity"}}


@dataclass(frozen=True)
class Job:
    """What is trained, on what.

    Attributes:
        settings: complete: a model for ``build_model``, classes, mean and std.
        records: the images or videos.
        tasks: by head id, in the order of the heads.
        targets: by head id, a row per record.
    """

    settings: TrainConfig
    records: Records
    tasks: Mapping[str, Task]
    targets: Mapping[str, Tensor]

    @property
    def channels(self) -> int:
        return int(self.settings.model["in_channels"])

    def fingerprint(self) -> str:
        """Of the files' names, their split and their targets: what a run goes on with."""
        digest = sha256(repr([self.records.name(row) for row in range(len(self.records.images))]).encode())
        digest.update(repr(list(self.records.held_out)).encode())
        for head, targets in self.targets.items():
            digest.update(head.encode() + targets.numpy().tobytes())
        return digest.hexdigest()


def prepare(settings: TrainConfig, records: Records | None = None) -> Job:
    """Reads the labels and checks everything that can be checked before work is done.

    Args:
        settings: the job.
        records: of its data, where they are known.

    Raises:
        ConfigError: what does not fit, with the values on both sides.
    """
    given, settings = settings, with_network(_with_whole_paths(settings))
    check_packages(settings)
    heads = _heads(settings.model)
    configs = _task_configs(settings, heads)
    if records is None:
        records = load_records(settings.data, lambda columns: _strata(settings, configs, columns))
    records = replace(records, note="; ".join(filter(None, [records.note, what_is_published(given, settings)])))
    tasks = {head: _task(head, config, records) for head, config in configs.items()}
    model = _complete_model(settings.model, heads, tasks, records)
    settings = settings.model_copy(
        update={
            "model": model,
            "data": with_statistics(settings.data, model["in_channels"]),
            "tasks": {head: task.config for head, task in tasks.items()},
        }
    )
    if not settings.data.clip:
        check_images(records.images, model["in_channels"], settings.data)
    network = check_model(settings, tasks)
    _check_schedule(settings, records)
    targets = {head: _targets(task, records) for head, task in tasks.items()}
    for head in (head for entries in network.get_heads().values() for head in entries if _is_affine(head)):
        name = str(head.unique_id)
        tasks[name] = tasks[name].standardized(targets[name][records.rows(held_out=False)])
    settings = settings.model_copy(update={"tasks": {head: task.config for head, task in tasks.items()}})
    return Job(settings, records, tasks, targets)


def _is_affine(head: ClassyHead) -> bool:
    """Whether its last layer can take the mean and standard deviation of what it says."""
    layers = head.output_layers()
    return bool(layers) and all(layer.bias is not None for layer in layers)


def test_records(settings: TrainConfig) -> Records:
    """The records that ``data.test`` sets aside: those that training with ``settings`` does not read.

    Raises:
        ConfigError: there are none.
    """
    settings = _with_whole_paths(settings)
    configs = _task_configs(settings, _heads(settings.model))
    return load_test_records(settings.data, lambda columns: _strata(settings, configs, columns))


def check_model(settings: TrainConfig, tasks: Mapping[str, Task]) -> ClassyModel:
    """Builds the model without memory, and runs it on the shape of a batch.

    Raises:
        ConfigError: it cannot be built, does not take such images or clips, or gives no logits.
    """
    with torch.device("meta"), torch.no_grad():
        model = build_model(settings.model)
        _check_outputs(model.eval(), settings, tasks, training=False)
        model.train()
        if settings.schedule.freeze_trunk:
            for part in trunk_parts(model):
                part.eval()
        _check_outputs(model, settings, tasks, training=True)
    return model.eval()


def _check_outputs(
    model: ClassyModel, settings: TrainConfig, tasks: Mapping[str, Task], training: bool
) -> None:
    shape = settings.data.input_shape(settings.model["in_channels"], training)
    count = settings.schedule.batch_size if training else 2
    try:
        outputs = by_head(model(torch.empty(count, *shape)), tasks)
    except (RuntimeError, ValueError) as error:
        cannot = f"does not train on batches of {count}," if training else "does not take"
        raise ConfigError(f"the model {cannot} {_kind(shape)}: {first_line(error)}") from None
    for head, output in outputs.items():
        if output.shape != (count, tasks[head].outputs):
            raise ConfigError(
                f"head {head!r} gives {tuple(output.shape[1:])} for {_kind(shape)}, but its task needs "
                f"{tasks[head].outputs} numbers; a head such as 'fully_connected' gives those"
            )


def _kind(shape: Sequence[int]) -> str:
    """Inputs (c, h, w) or (c, t, h, w) in words."""
    clips = f"clips of {shape[1]} frames" if len(shape) == 4 else "images"
    return f"{clips} of {shape[-1]}x{shape[-2]} pixels"


def trunk_parts(model: nn.Module) -> list[nn.Module]:
    """Everything but the heads."""
    return [part for name, part in model.named_children() if name != "heads"]


def check_packages(settings: TrainConfig) -> None:
    """Raises where the settings need a package that is not installed.

    Raises:
        ConfigError: says what to install.
    """
    for key, package, extra, wanted in (
        ("data.clip", "av", "video", settings.data.clip is not None),
        ("tensorboard: true", "tensorboard", "tensorboard", settings.tensorboard),
    ):
        if wanted and find_spec(package) is None:
            raise ConfigError(f"{key} needs: pip install 'classy-vision-models[{extra}]'")


def _with_whole_paths(settings: TrainConfig) -> TrainConfig:
    """``settings`` with whole paths, so that the run can be resumed from anywhere."""
    paths = {name: getattr(settings.data, name, None) for name in ("root", "file", "images")}
    data = settings.data.model_copy(update={name: _whole(path) for name, path in paths.items() if path})
    return settings.model_copy(update={"data": data})


def _whole(path: str) -> str:
    return str(Path(os.path.expanduser(path)).absolute())


# -- heads and tasks


def _heads(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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


def _task_configs(settings: TrainConfig, heads: Mapping[str, Any]) -> dict[str, TaskConfig]:
    if not settings.tasks:
        return {head: TaskConfig() for head in heads}
    for head in settings.tasks:
        if head not in heads:
            raise unknown("head", head, heads, "tasks")
    for head in heads:
        if head not in settings.tasks:
            raise ConfigError(f"tasks: head {head!r} has no task; give it one, or remove the head")
    return {head: settings.tasks[head] for head in heads}


def _target(head: str, config: TaskConfig, columns: Mapping[str, Any]) -> str:
    """The column of a head."""
    target = config.target or (next(iter(columns)) if len(columns) == 1 else head)
    if target not in columns:
        raise unknown("column", target, columns, f"tasks.{head}.target")
    return target


def _strata(
    settings: TrainConfig, configs: Mapping[str, TaskConfig], columns: Mapping[str, Sequence[Any]]
) -> Strata:
    """What the split of a table balances: all that is learned."""
    assert isinstance(settings.data, TableConfig)
    kinds = {_target(head, config, columns): KINDS[config.kind] for head, config in configs.items()}
    return strata_of(columns, kinds, settings.data.val_fraction)


def _task(head: str, config: TaskConfig, records: Records) -> Task:
    """The task with its column and classes found."""
    columns = records.columns
    target, kind = _target(head, config, columns), KINDS[config.kind]
    for held_out, split in ((False, "training"), (True, "validation")):
        labelled = [row for row in records.rows(held_out) if columns[target][row] is not None]
        needed = 2 if held_out and kind is Regression else 1  # r2 is of a spread
        if len(labelled) < needed:
            raise ConfigError(
                f"tasks.{head}: column {target!r} has {len(labelled)} labels in the {split} split; "
                f"at least {needed} is needed"
            )
    classes = config.classes
    if kind.has_classes and classes is None:
        classes = find_classes(kind, (columns[target][row] for row in records.rows(False)))
    if config.kind == "classification" and classes is not None and len(classes) < 2:
        raise ConfigError(f"tasks.{head}: column {target!r} has only one class in training: {classes[0]!r}")
    return kind(head, config.model_copy(update={"target": target, "classes": classes}))


def _targets(task: Task, records: Records) -> Tensor:
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
            raise ConfigError(
                f"head {name!r} has num_classes = {given}, but column {tasks[name].config.target!r} "
                f"has {found}: {_few(tasks[name].classes)}; leave num_classes out to take the data's"
            )
        complete.append({**head, "num_classes": found})
    model = dict(model)
    if issubclass(family, ResNeXt3D) and "input_planes" in model:  # the original's word
        model["in_channels"] = model.pop("input_planes")
    return {"in_channels": records.channels, **model, "heads": complete}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "a number"


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
