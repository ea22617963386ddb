"""The model of a job: checked without memory, built, and loaded with the weights that training starts from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classy_vision.config import ConfigError, first_line, read_config, unknown
from classy_vision.models import ClassyModel, build_model, load_weights
from classy_vision.run_files import BEST, CHECKPOINT, PREVIOUS, RUN_CONFIG
from classy_vision.train.adapters import add_adapters, keep_norms
from classy_vision.train.config import ScheduleConfig, TrainConfig, WeightsConfig, load_run_settings
from classy_vision.train.shards import read_whole
from classy_vision.train.tasks import KINDS, Task, name_outputs, standardize, to_units
from classy_vision.trunk.meta import OnMeta
from classy_vision.weights.report import Report


def check_model(settings: TrainConfig, tasks: Mapping[str, Task]) -> ClassyModel:
    """Builds the model without memory, and runs it on the shape of a batch.

    Raises:
        ConfigError: it cannot be built, does not take such images or clips, or does not give logits.
    """
    with OnMeta(), torch.no_grad():
        model = build_model(settings.model)
        _check_outputs(model.eval(), settings, tasks, training=False)
        _adapt(model, settings)
        check_freezing(model, settings.schedule)
        model.train()
        _check_outputs(model, settings, tasks, training=True)
    return model.eval()


def _check_outputs(
    model: ClassyModel, settings: TrainConfig, tasks: Mapping[str, Task], training: bool
) -> None:
    shape = settings.data.input_shape(settings.model["in_channels"], training)
    count = settings.schedule.batch_size // settings.schedule.accumulate if training else 2
    try:
        outputs = name_outputs(model(torch.empty(count, *shape)), tasks)
    except (RuntimeError, ValueError) as error:
        cannot = f"does not train on batches of {count}," if training else "does not take"
        raise ConfigError(f"the model {cannot} {_describe_inputs(shape)}: {first_line(error)}") from None
    for head, output in outputs.items():
        task = tasks[head]
        if not task.fits(output.shape):
            wanted = f"{task.outputs} numbers; a head such as 'fully_connected' gives those"
            if task.dense:
                wanted = f"({task.outputs}, h, w), a map; a head such as 'linear_dense' gives that"
            raise ConfigError(
                f"head {head!r} gives {tuple(output.shape[1:])} for {_describe_inputs(shape)}, but its task "
                f"needs {wanted}"
            )


def _describe_inputs(shape: Sequence[int]) -> str:
    """Inputs (c, h, w) or (c, t, h, w) in words."""
    clips = f"clips of {shape[1]} frames" if len(shape) == 4 else "images"
    return f"{clips} of {shape[-1]}x{shape[-2]} pixels"


def build_initial(settings: TrainConfig, tasks: Mapping[str, Task]) -> ClassyModel:
    """Builds the model as training starts: from the seed, or from the weights of the settings."""
    torch.manual_seed(settings.schedule.seed)
    model = build_model(settings.model)
    if settings.weights is not None:
        model.loaded = load_initial(model, settings.weights, tasks)
    schedule = name_frozen_heads(settings.schedule, model)
    if model.loaded is not None:
        other = {*model.loaded.kept, *schedule.kept_heads}
        standardize(model, {name: task for name, task in tasks.items() if name not in other})
    _adapt(model, settings)
    freeze(model, schedule, epoch=0)
    return model


def build_stopped(settings: TrainConfig, state: Mapping[str, Any]) -> ClassyModel:
    """Builds the model of a checkpoint."""
    model = build_model(settings.model)
    _adapt(model, settings)
    freeze(model, settings.schedule, len(state["history"]))
    model.load_state_dict(read_whole(state["model"]))
    return model


def _adapt(model: ClassyModel, settings: TrainConfig) -> None:
    """Adds the adapters of ``schedule.lora``."""
    if settings.schedule.lora is not None:
        shape = settings.data.input_shape(settings.model["in_channels"], training=False)
        add_adapters(model, settings.schedule.lora, shape)


def freeze(model: ClassyModel, schedule: ScheduleConfig, epoch: int) -> None:
    """Freezes what stays as it is in an epoch, counted from 0.

    Heads that are frozen are put into evaluation, and beside adapters the norms of the trunk: call it after
    ``model.train()``.

    Raises:
        ConfigError: there is no such block or head.
    """
    until = schedule.frozen_until(epoch)
    if until is not None or model.frozen_until is not None:
        model.freeze(until)
    if schedule.lora is not None:
        keep_norms(model)
    heads, frozen = find_heads(model), schedule.frozen_heads(epoch)
    for name in dict.fromkeys(name for start in schedule.changes for name in schedule.frozen_heads(start)):
        if name not in heads:
            raise unknown("head", name, heads, "schedule.freeze.heads")
        heads[name].requires_grad_(name not in frozen)
        heads[name].train(model.training and name not in frozen)


def check_freezing(model: ClassyModel, schedule: ScheduleConfig) -> None:
    """Freezes what stays as it is at first, and raises where the schedule does not go with the model.

    Raises:
        ConfigError: there is no such block or head, or one that learns is frozen again in a later epoch: the
            optimizer holds only what learns in the last one.
    """
    later: set[str] | None = None
    for epoch in reversed(schedule.changes):
        freeze(model, schedule, epoch)
        now = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        if later is not None and (lost := sorted(now - later)):
            raise ConfigError(
                f"schedule.unfreeze_at: {lost[0]!r} learns in epoch {epoch + 1} and is frozen again later; "
                f"each entry has to leave less frozen than the one before it"
            )
        later = now


def name_frozen_heads(schedule: ScheduleConfig, model: ClassyModel) -> ScheduleConfig:
    """The schedule with the ids of the heads that "loaded" stands for.

    Args:
        schedule: of the job.
        model: as training starts; its ``loaded`` says which heads are new.

    Raises:
        ConfigError: no head was loaded, a frozen one is new, or nothing is left that learns.
    """
    if schedule.freeze is None or not schedule.freeze.heads:
        return schedule
    names, loaded = list(find_heads(model)), model.loaded
    there = [name for name in names if loaded is not None and name not in loaded.kept]
    heads = there if schedule.freeze.heads == "loaded" else schedule.freeze.heads
    if not heads:
        raise ConfigError("schedule.freeze.heads = 'loaded', but no head continues from weights")
    for name in heads:
        if name not in names:
            raise unknown("head", name, names, "schedule.freeze.heads")
        if name not in there:
            raise ConfigError(f"schedule.freeze.heads: head {name!r} is new, and would never learn")
    found = schedule.model_copy(update={"freeze": schedule.freeze.model_copy(update={"heads": tuple(heads)})})
    if found.kept_heads == set(names):
        raise ConfigError("schedule.freeze freezes the whole trunk and all heads: nothing would learn")
    return found


def stop_heads(model: ClassyModel, names: Collection[str]) -> None:
    """Keeps heads as they are from now on: call it after ``model.train()`` and ``freeze``."""
    heads = find_heads(model)
    for name in names:
        heads[name].requires_grad_(False).eval()


def find_heads(model: ClassyModel) -> dict[str, nn.Module]:
    """The heads by id."""
    return {str(head.unique_id): head for entries in model.get_heads().values() for head in entries}


# -- weights to start from


def load_initial(model: ClassyModel, weights: str | WeightsConfig, tasks: Mapping[str, Task]) -> Report:
    """Loads the weights that a job starts from.

    Heads that have the id and shape of one in the file continue from there; the others stay as they
    are. A run names its classes: a head whose classes are others stays as it is, too.

    Args:
        model: as it was built.
        weights: what to load.
        tasks: by head.

    Raises:
        ConfigError: the weights cannot be read, or are not this trunk's.
    """
    options = {"source": weights} if isinstance(weights, str) else dict(weights)
    heads = {head.unique_id: head for entries in model.get_heads().values() for head in entries}
    file = Path(os.path.expanduser(str(options["source"])))
    others = _find_other_tasks(file, tasks)
    standardized = _find_standardized(file)
    before = {name: deepcopy(heads[name].state_dict()) for name in others}
    report = load_weights(model, **{"skip_heads": "unfit", **options})
    to_units(model, {name: task for name, task in standardized.items() if name not in report.kept})
    for name, state in before.items():
        heads[name].load_state_dict(state)
    return replace(report, kept=tuple(sorted({*report.kept, *before})))


def _find_standardized(file: Path) -> dict[str, Task]:
    """The tasks of the heads that give standardised numbers in a file, which those of a run's best epoch do.

    Raises:
        ConfigError: it is a checkpoint of a run.
    """
    config = file.parent / RUN_CONFIG
    if file.name not in (BEST, CHECKPOINT, PREVIOUS) or not config.is_file():
        return {}
    if file.name != BEST:
        raise ConfigError(
            f"weights = {str(file)!r} is what a run is resumed from: take its folder {str(file.parent)!r} once "
            f"it is finished, or {BEST} in it"
        )
    return {name: KINDS[task.kind](name, task) for name, task in load_run_settings(config).tasks.items()}


def _find_other_tasks(path: Path, tasks: Mapping[str, Task]) -> list[str]:
    """The heads that have the id of one of a run, but another kind or other classes."""
    config = (path if path.is_dir() else path.parent) / RUN_CONFIG
    theirs: Any = read_config(config).get("tasks") if config.is_file() else None
    if not isinstance(theirs, Mapping):
        return []
    there = {name: theirs[name] for name in tasks if isinstance(theirs.get(name), Mapping)}
    return [
        name
        for name, task in there.items()
        if (task.get("kind"), tuple(task.get("classes") or ()))
        != (tasks[name].config.kind, tuple(tasks[name].classes))
    ]


# -- speed


def speed_up(model: ClassyModel, schedule: ScheduleConfig) -> None:
    """Sets the layout in memory and the compiler; keys and, apart from rounding, numbers stay."""
    safe = _is_safe_with_channels_last(model)
    if schedule.channels_last and safe and not any(p.dim() == 5 for p in model.parameters()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    if schedule.compile:
        # The compiler chooses layouts itself.
        model.compile(options=None if safe else {"layout_optimization": False})


def _is_safe_with_channels_last(model: ClassyModel) -> bool:
    """Whether oneDNN can train the model so.

    On processors with AVX2 and without AVX-512, oneDNN 3.12 writes the gradients of strided 1x1 weights of
    less than 8 input channels beyond their memory.
    """
    return not any(
        isinstance(part, nn.Conv2d)
        and part.weight.device.type == "cpu"
        and part.kernel_size == (1, 1) != part.stride
        and part.in_channels < 8
        for part in model.modules()
    )
