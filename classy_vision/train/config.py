"""What a training job is told: the model, the data, the tasks of its heads and the schedule."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from classy_vision.config import (
    Config,
    ConfigError,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    parse_yaml,
    read_config,
    unknown,
)
from classy_vision.data.config import (
    SOURCES,
    DataConfig,
    DigitsConfig,
    FolderConfig,
    ScenesConfig,
    TableConfig,
)
from classy_vision.presets import check_keys
from classy_vision.train.recipes import DENSE as DENSE
from classy_vision.train.recipes import apply_recipe, take_recipe
from classy_vision.trunk.names import END
from classy_vision.weights.methods import Channels, ClassToken, Patches

THRESHOLD = 0.5
"""The probability from which a label of several counts as present."""


Kind = Literal["classification", "multilabel", "regression", "segmentation", "dense_regression"]
"""Of tasks: what ``tasks.<head>.kind`` may be."""
Loss = Literal["cross_entropy", "bce", "focal", "dice", "cross_entropy+dice", "l1", "huber", "scale_invariant"]
"""Of the tasks that have a choice; see ``LOSSES``."""
LOSSES: dict[str, tuple[Loss, ...]] = {
    "classification": ("cross_entropy", "bce", "focal"),
    "multilabel": ("bce", "focal"),
    "segmentation": ("cross_entropy", "dice", "cross_entropy+dice"),
    "dense_regression": ("l1", "huber", "scale_invariant"),
}
"""By kind of task; the first is that of tasks that do not say one."""
NUMBERS = ("regression", "dense_regression")
"""The kinds without classes."""
Optimizer = Literal["sgd", "adamw", "lamb", "muon", "schedule_free_sgd", "schedule_free_adamw"]
OPTIONS: dict[str, tuple[str, ...]] = {
    "label_smoothing": ("classification",),
    "class_weights": ("classification", "segmentation"),
    "mean": NUMBERS,
    "std": NUMBERS,
    "loss": tuple(LOSSES),
    "ignore_index": ("segmentation",),
    "missing": ("dense_regression",),
    "scale": ("dense_regression",),
}
"""The kinds of tasks that an option is for."""


class TaskConfig(Config):
    """What a head learns.

    Attributes:
        target: the column; the head's id where it is left out, or the only column there is.
        kind: cross-entropy over classes, any number of labels at once, or a number (MSE);
            "segmentation" and "dense_regression" are a class and a number for each pixel, of which the
            column names a file per row.
        classes: their names in order; those of the training split where they are left out. Those of a
            segmentation are the numbers 0, 1, … in its masks, and are needed.
        weight: of this loss in the sum of all.
        label_smoothing: for classification, in training; losses of what was held out are without it.
        class_weights: what the loss of each class is multiplied by in training, by name, 1 where one is
            left out; "balanced" weighs classes by the inverse of how common they are.
        mean, std: for numbers, by which they are standardised to be learned; those of the training split
            where they are left out. The trained model gives numbers as they are in the table.
        loss: of a classification "cross_entropy", "bce", which asks for each class by itself whether it is
            there (Wightman et al., "ResNet strikes back", 2021), or "focal"; of several labels "bce" or
            "focal", which gives what is already right less weight (Lin et al., 2017); of a segmentation
            "cross_entropy", "dice" (over the classes in each image) or their sum,
            "cross_entropy+dice"; of a dense regression "l1", "huber" or "scale_invariant" (Eigen et al.,
            2014), which is for positive numbers. The first is the default.
        gamma: of "focal"; 0 is the loss without it.
        ignore_index: the value in masks of pixels that have no class.
        missing: the value in maps of pixels that have no number, beside NaN.
        scale: what a value in a map is multiplied by, such as 0.001 for millimetres that are learned as metres.
        patience: the head stops learning after so many epochs in which its validation loss was not lower; the
            other heads go on without it (Zhang et al., "Facial landmark detection by deep multi-task
            learning", 2014). The run ends when every head has stopped.
    """

    target: str | None = None
    kind: Kind = "classification"
    classes: tuple[str, ...] | None = None
    weight: PositiveFloat = 1.0
    label_smoothing: Probability = 0.0
    class_weights: dict[str, PositiveFloat] | Literal["balanced"] | None = None
    mean: float | None = None
    std: PositiveFloat | None = None
    loss: Loss | None = None
    gamma: NonNegativeFloat = 2.0
    ignore_index: Annotated[int, Field(ge=0, le=2**16)] = 255
    missing: float | None = None
    scale: PositiveFloat = 1.0
    patience: PositiveInt | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _as_text(cls, classes: Any) -> Any:
        return tuple(map(str, classes)) if isinstance(classes, tuple) else classes

    @field_validator("class_weights", mode="before")
    @classmethod
    def _name_as_text(cls, weights: Any) -> Any:
        return {str(name): value for name, value in weights.items()} if isinstance(weights, dict) else weights

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        for name, kinds in OPTIONS.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for {' and '.join(kinds)}, not for {self.kind}")
        if self.loss is not None and self.loss not in LOSSES[self.kind]:
            raise ValueError(f"loss = {self.loss!r} is not one of {self.kind}: {', '.join(LOSSES[self.kind])}")
        if self.gamma != type(self).model_fields["gamma"].default and self.loss != "focal":
            raise ValueError(f"gamma = {self.gamma:g} is for loss: focal")
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.classes is None:
            return self
        if self.kind in NUMBERS:
            raise ValueError(f"{self.kind} has no classes")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes = {list(self.classes)}: a name is there twice")
        return self


class FreezeConfig(Config):
    """What stays as it is at first.

    Attributes:
        until: the last block that is frozen, a name in ``block_names``; "trunk_output", which is the default,
            is the whole trunk, and null none of it.
        heads: the heads that are frozen, by id; "loaded" stands for all that ``weights`` has.
    """

    until: str | None = END
    heads: tuple[str, ...] | Literal["loaded"] = ()


class UnfreezeConfig(Config):
    """A change of what is frozen.

    Attributes:
        epoch: the first that is trained so, counted from 1.
        until: the last block that is still frozen; nothing is where it is left out.
        heads: the heads that are still frozen, by id.
    """

    epoch: Annotated[int, Field(ge=2)]
    until: str | None = None
    heads: tuple[str, ...] = ()


class LoraConfig(Config):
    """Low-rank adapters in place of the weights of the trunk (Hu et al., "LoRA", 2021).

    Attributes:
        rank: of each adapter, which learns rank * (inputs + outputs) numbers.
        alpha: what the adapters add to the weights is multiplied by alpha / rank.
        dropout: of what adapters of linear layers read.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SwaConfig(Config):
    """An average of the weights at the ends of epochs (Izmailov et al., "Averaging weights leads to wider
    optima", 2018).

    Attributes:
        epoch: the first whose weights count, counted from 1.
        learning_rate: of that epoch and all after it, which is constant; by default that which the schedule
            has at its start.
    """

    epoch: PositiveInt
    learning_rate: PositiveFloat | None = None


class ScheduleConfig(Config):
    """How the model is trained.

    Attributes:
        epochs: passes over the training images or videos.
        batch_size: images or clips per step, over all processes together.
        accumulate: parts in which each batch goes through the model, one after the other, which takes less
            memory. Batch norms see one part at a time.
        optimizer: "sgd" has a Nesterov momentum; "lamb" is for large batches; "muon" is for matrices and
            kernels of the trunk, and leaves the rest to AdamW; "schedule_free_sgd" and "schedule_free_adamw"
            need no falling rate. All but "sgd" and "adamw" need the extra ``optimizers``.
        momentum: of the optimizer, the first beta where it has two; by default 0.9, and 0.95 for "muon".
        learning_rate: its peak.
        learning_rate_schedule: how it falls after the warm-up: along a "cosine", in a straight line
            ("linear"), by ``decay_factor`` at each of ``decay_epochs`` ("step"), or not ("constant").
            "one_cycle" also rises along a cosine, over ``warmup_epochs`` or three tenths of the steps.
        min_learning_rate: where it ends.
        decay_epochs, decay_factor: of "step".
        warmup_epochs: over which the rate rises linearly.
        layer_decay: what each layer's rate is multiplied by to get that of the layer before it: heads learn
            at ``learning_rate``, the last block at ``layer_decay`` times that, and the stem slowest.
        head_learning_rate: the peak for heads, one for all or by id.
        weight_decay: of weights; norms, biases, LayerScale, learned tokens and positions have none.
        balance: the head whose classes are drawn equally often: each epoch draws as many images as there are,
            some of them several times.
        best: the metric whose best epoch the run gives, such as "val/digit/accuracy"; by default it gives the
            last epoch.
        patience: training ends after so many epochs without a better one.
        loss_weighting: how the losses of heads are added: "fixed" by ``tasks.<head>.weight``; "uncertainty"
            also learns what each counts, by its uncertainty (Kendall et al., 2018); "upgrad" turns the trunk's
            gradient so that it makes no loss larger (Quinton and Rey, 2024), on one process, and needs the
            extra ``multitask``.
        clip_grad_norm: the largest norm of all gradients together.
        mixup: mixes pairs of images, and their losses, by a part drawn from Beta(mixup, mixup).
        cutmix: gives images a box of another one, of an area drawn from Beta(cutmix, cutmix). With both, half
            of the pairs are mixed either way.
        mix_probability: part of the pairs that are mixed.
        ema: keeps an average of the weights, of which the last ones count for ``1 - ema`` per step, and fewer
            steps at the start. The average is what is measured, and what the run gives.
        swa: averages the weights of the last epochs: ``{epoch: 20}`` those from the 20th on. From then on the
            average is what is measured, and what the run gives.
        lora: trains low-rank adapters of the trunk's linear and attention layers, and the heads; the rest of
            the trunk stays as it is: ``{rank: 8, alpha: 16}``. Needs the extra ``lora``. The run gives an
            ordinary model, into which the adapters are merged.
        freeze: blocks and heads that do not learn: ``{until: block2}``, or ``{heads: loaded}`` for the whole
            trunk and the heads of ``weights``, beside which new ones are trained. Their norms keep their
            statistics.
        unfreeze_at: when fewer are frozen: ``{epoch: 5}``, or a list of such changes.
        freeze_trunk: train the heads only; the same as ``freeze: {until: trunk_output}``.
        cache_features: "auto" keeps on disk what heads read of a trunk that is frozen in every epoch, where
            images are not changed at random, so that later epochs and other runs read it; true demands that,
            and false runs the trunk in every epoch.
        mixed_precision: the type of the forward pass; weights stay float32.
        channels_last: images and weights are laid out with channels last, which most processors
            are quicker with; clips are not, nor, on a CPU, networks with strided 1x1 convolutions of
            less than 8 channels, nor weights that processes share by FSDP2.
        compile: run the model through ``torch.compile``; the first steps of a run take a minute or more.
        workers: processes per device that read files; by default one per processor, at most 4.
        seed: of weights, order and augmentation; ``data.split_seed`` is that of the split.
    """

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 64
    accumulate: PositiveInt = 1
    optimizer: Optimizer = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    learning_rate: PositiveFloat = 1e-3
    learning_rate_schedule: Literal["cosine", "linear", "step", "constant", "one_cycle"] = "cosine"
    min_learning_rate: NonNegativeFloat = 0.0
    decay_epochs: tuple[PositiveInt, ...] = ()
    decay_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup_epochs: NonNegativeFloat = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    head_learning_rate: PositiveFloat | dict[str, PositiveFloat] | None = None
    weight_decay: NonNegativeFloat = 0.05
    balance: str | None = None
    best: str | None = None
    patience: PositiveInt | None = None
    loss_weighting: Literal["fixed", "uncertainty", "upgrad"] = "fixed"
    clip_grad_norm: PositiveFloat | None = None
    mixup: PositiveFloat | None = None
    cutmix: PositiveFloat | None = None
    mix_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    swa: SwaConfig | None = None
    lora: LoraConfig | None = None
    freeze: FreezeConfig | None = None
    unfreeze_at: tuple[UnfreezeConfig, ...] = ()
    freeze_trunk: bool = False
    cache_features: Literal["auto"] | bool = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    compile: bool = False
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _yaml_no(cls, value: Any) -> Any:
        return "no" if value is False else value  # `no` without quotes is false in YAML

    @field_validator("unfreeze_at", mode="before")
    @classmethod
    def _one_change(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Mapping) else value

    @field_validator("decay_epochs", mode="before")
    @classmethod
    def _one_epoch(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs:g} leaves none of {self.epochs} epochs")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate = {self.min_learning_rate:g} is above "
                f"learning_rate = {self.learning_rate:g}"
            )
        if (self.learning_rate_schedule == "step") != bool(self.decay_epochs):
            raise ValueError("decay_epochs and learning_rate_schedule = 'step' need each other")
        if self.decay_epochs and max(self.decay_epochs) >= self.epochs:
            raise ValueError(f"decay_epochs = {list(self.decay_epochs)} are not all before epoch {self.epochs}")
        if self.patience is not None and self.best is None:
            raise ValueError("patience needs best, the metric that says which epoch is better")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} cannot be divided into accumulate = {self.accumulate} parts"
            )
        if self.mixes and self.batch_size // self.accumulate % 2:
            raise ValueError(
                f"mixup and cutmix mix pairs: batch_size / accumulate = "
                f"{self.batch_size // self.accumulate} is odd"
            )
        return self

    @model_validator(mode="after")
    def _check_upgrad(self) -> Self:
        if self.loss_weighting == "upgrad":
            for name, value, wanted in (
                ("accumulate", self.accumulate, 1),
                ("compile", self.compile, False),
                ("mixed_precision", self.mixed_precision == "fp16", False),
            ):
                if value != wanted:
                    raise ValueError(
                        f"loss_weighting = 'upgrad' takes the gradients of each loss apart, which does not "
                        f"work with {name} = {getattr(self, name)}"
                    )
        return self

    @model_validator(mode="after")
    def _check_frozen(self) -> Self:
        epochs = [change.epoch for change in self.unfreeze_at]
        if self.freeze and self.freeze_trunk:
            raise ValueError("freeze and freeze_trunk say the same: leave one out")
        whole = self.frozen_until(self.epochs - 1) == END
        if whole and self.layer_decay is not None:
            raise ValueError("layer_decay is for layers that learn, and the whole trunk is frozen")
        if self.freeze and self.freeze.until is None and not self.freeze.heads:
            raise ValueError("freeze says nothing: give it until, heads or both")
        if epochs and not (self.freeze or self.freeze_trunk):
            raise ValueError("unfreeze_at changes nothing without freeze")
        if epochs != sorted(set(epochs)) or (epochs and epochs[-1] > self.epochs):
            raise ValueError(f"unfreeze_at: epochs {epochs} do not rise up to epochs = {self.epochs}")
        return self

    @model_validator(mode="after")
    def _check_lora(self) -> Self:
        for name in ("freeze", "freeze_trunk", "unfreeze_at", "layer_decay"):
            if self.lora is not None and getattr(self, name):
                raise ValueError(
                    f"lora keeps the trunk as it is beside its adapters, and {name} says what of it learns: "
                    f"leave one out"
                )
        return self

    @model_validator(mode="after")
    def _check_swa(self) -> Self:
        if self.swa is None:
            return self
        if self.ema is not None:
            raise ValueError("swa and ema are two averages of the weights: leave one out")
        if self.optimizer.startswith("schedule_free"):
            raise ValueError(f"optimizer = {self.optimizer!r} averages the weights itself: leave swa out")
        if self.swa.epoch > self.epochs:
            raise ValueError(f"swa.epoch = {self.swa.epoch} is after the last of {self.epochs} epochs")
        if self.swa.epoch - 1 < self.warmup_epochs:
            raise ValueError(
                f"swa.epoch = {self.swa.epoch} begins before warmup_epochs = {self.warmup_epochs:g} are over"
            )
        return self

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self.mixup is not None or self.cutmix is not None

    def frozen_until(self, epoch: int) -> str | None:
        """The last block that is frozen in an epoch, counted from 0; None if nothing is."""
        until = self.freeze.until if self.freeze else END if self.freeze_trunk else None
        for change in self.unfreeze_at:
            until = change.until if epoch + 1 >= change.epoch else until
        return until

    def frozen_heads(self, epoch: int) -> tuple[str, ...]:
        """The heads that are frozen in an epoch, counted from 0; none as long as "loaded" stands for them."""
        heads = self.freeze.heads if self.freeze else ()
        for change in self.unfreeze_at:
            heads = change.heads if epoch + 1 >= change.epoch else heads
        return () if heads == "loaded" else heads

    @property
    def kept_heads(self) -> set[str]:
        """The heads that end as they start: they and the whole trunk are frozen in every epoch."""
        if any(self.frozen_until(epoch) != END for epoch in self.changes):
            return set()
        return set[str].intersection(*(set(self.frozen_heads(epoch)) for epoch in self.changes))

    @property
    def changes(self) -> list[int]:
        """The first epoch, counted from 0, and those from which on something else is frozen."""
        return [0, *(change.epoch - 1 for change in self.unfreeze_at)]


class WeightsConfig(Config):
    """The weights that training starts from, with what ``load_weights`` can be told.

    Attributes:
        source: a file, checkpoint or run folder, published weights, or a repository of the hub.
        skip_heads: "unfit" keeps every head that the file has by the same id and shape; true makes
            all heads anew, and a list those of these ids.
        layout, head, channels, patches, class_token, prefix: as for ``load_weights``.
    """

    source: str
    skip_heads: bool | tuple[str, ...] | Literal["unfit"] = "unfit"
    layout: str | None = None
    head: str | None = None
    channels: Channels | None = None
    patches: Patches | None = None
    class_token: ClassToken | None = None
    prefix: str = ""


class TrainConfig(Config):
    """A training job.

    Attributes:
        model: as for ``build_model``; a head's ``num_classes`` may be left to the data.
        data: one of ``SOURCES``, by its ``source``.
        tasks: by head id; classification of the head's column where none are given.
        schedule: how the model is trained.
        recipe: the name of a recipe, which fills in what ``data``, ``tasks`` and ``schedule`` do not say. A
            config file without a schedule takes the one for its tasks and the family of its trunk.
        weights: what the model starts from: a file, checkpoint or run folder, published weights
            ("timm/resnet50.a1_in1k"), "hf-hub:owner/repository", or a mapping with such a
            ``source``. Heads that it has by the same id and shape continue from there, the others
            are new. ``weights`` in ``model`` is the same. The size, resizing, interpolation, mean
            and std that published ones expect are the defaults of ``data``.
        tensorboard: also write TensorBoard logs; the same as ``trackers: [tensorboard]``.
        trackers: where losses and metrics are logged as well, by the names of accelerate's trackers, such as
            "tensorboard", "wandb" and "mlflow".
    """

    model: dict[str, Any]
    data: Annotated[DigitsConfig | ScenesConfig | FolderConfig | TableConfig, Field(discriminator="source")]
    tasks: dict[str, TaskConfig] = {}
    schedule: ScheduleConfig = ScheduleConfig()
    recipe: str | None = None
    weights: str | WeightsConfig | None = None
    tensorboard: bool = False
    trackers: tuple[str, ...] = ()

    @property
    def all_trackers(self) -> list[str]:
        """The names of ``trackers``, and that for which ``tensorboard`` stands, each once."""
        return list(dict.fromkeys((*(("tensorboard",) if self.tensorboard else ()), *self.trackers)))

    def without_training(self) -> Self:
        """The settings by which the data of a run are read again, without what only training needs."""
        changed = {"mixed_precision": "no", "loss_weighting": "fixed", "lora": None}
        schedule = self.schedule.model_copy(update=changed)
        return self.model_copy(update={"schedule": schedule, "tensorboard": False, "trackers": ()})

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_tracker(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str = "config", also: Iterable[str] = ()) -> Self:
        """Checks every section by its own class, so that messages name the nearest key.

        Raises:
            ConfigError: names every wrong key and value of the first wrong section.
        """
        given = dict(data)
        if "data" in given:
            given["data"] = _parse_data(given["data"])
        if "schedule" in given:
            given["schedule"] = ScheduleConfig.parse(_section("schedule", given["schedule"]), "schedule")
        if isinstance(given.get("weights"), Mapping):
            given["weights"] = WeightsConfig.parse(given["weights"], "weights")
        if "tasks" in given:
            given["tasks"] = {
                str(head): TaskConfig.parse(_section(f"tasks.{head}", task or {}), f"tasks.{head}")
                for head, task in _section("tasks", given["tasks"]).items()
            }
        parsed = super().parse(given, where, also)
        check_keys(parsed.model)  # before torch is imported, which takes seconds
        return parsed


def _section(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is a mapping of keys to values, not {value!r}")
    return value


def _parse_data(value: Any) -> DataConfig:
    given = _section("data", value)
    if "source" not in given:
        raise ConfigError(f"data: key 'source' is required (allowed: {', '.join(SOURCES)})")
    if not isinstance(given["source"], str) or given["source"] not in SOURCES:
        raise unknown("source", given["source"], SOURCES, "data")
    return SOURCES[given["source"]].parse(given, "data")


def load_settings(path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Reads a job from a YAML or JSON file.

    Args:
        path: the file. Relative paths in it start at its folder.
        overrides: "dotted.key=value", the value in YAML; an index counts in a list. Relative paths in
            these start at the current folder.

    Raises:
        ConfigError: the file or an override cannot be read, or says something impossible.
    """
    data = read_config(path)
    _start_paths_at(data, Path(path).parent)
    if "schedule" not in data and "recipe" not in data:
        data = take_recipe(data)
    for override in overrides:
        _override(data, override)
    return TrainConfig.parse(apply_recipe(data), str(path))


def load_run_settings(path: Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Reads the config in a run folder, which says everything; ``overrides`` are those of ``load_settings``.

    What it does not say is as it was in the version that wrote it: ``schedule.seed`` drew the split,
    and numbers were learned as they are.

    Raises:
        ConfigError: the file cannot be read, or says something impossible.
    """
    given = read_config(path)
    data, seed = given.get("data"), (given.get("schedule") or {}).get("seed", 0)
    if isinstance(data, dict) and data.get("source") in ("folder", "table") and "split_seed" not in data:
        data["split_seed"] = seed
        if data["source"] == "table":
            data["stratify"] = False
    for task in (given.get("tasks") or {}).values():
        if isinstance(task, dict) and task.get("kind") == "regression" and "std" not in task:
            task |= {"mean": 0.0, "std": 1.0}
    for override in overrides:
        _override(given, override)
    return TrainConfig.parse(given, str(path))


PATHS = (
    *(("data", "root"), ("data", "file"), ("data", "images"), ("data", "masks")),
    *(("weights",), ("weights", "source"), ("model", "weights"), ("model", "weights", "source")),
)
"""Where a job names files and folders; of weights, also what is published."""


def _start_paths_at(data: dict[str, Any], folder: Path) -> None:
    """Makes relative paths in a config file start at ``folder``.

    Those that are only found from the current folder still work, with a warning: they used to start there.
    """
    for *sections, name in PATHS:
        section: Any = data
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        given = section.get(name) if isinstance(section, dict) else None
        if not isinstance(given, str) or not given or os.path.isabs(os.path.expanduser(given)):
            continue
        beside = os.path.join(folder, given)
        here = os.path.exists(given) and not os.path.exists(beside)
        if here:
            key = ".".join((*sections, name))
            warnings.warn(
                f"{key}: {given!r} was found in the current folder, but paths in a config start at the "
                f"config's folder ({str(folder)!r}): write {os.path.relpath(given, folder)!r}, or give it by "
                f"--set {key}={given}",
                FutureWarning,  # which, other than DeprecationWarning, people see
                stacklevel=3,
            )
        elif "weights" not in (*sections, name) or os.path.exists(beside):
            section[name] = beside


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes dotted.key=value, such as schedule.epochs=3, not {override!r}")
    try:
        value = parse_yaml(text)
    except ConfigError:
        raise ConfigError(f"--set {key}: {text!r} cannot be read as YAML") from None
    *parents, last = key.split(".")
    place: Any = data
    for part in parents:
        place = _entry(place, part, key)
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"--set {key}: {parents[-1]!r} holds {place!r}, which has no keys")


def _entry(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    if not isinstance(place, dict):
        raise ConfigError(f"--set {key}: there is nothing to hold {part!r} in {place!r}")
    return place.setdefault(part, {})


def _index(place: list[Any], part: str, key: str) -> int:
    if not (part.isascii() and part.isdigit()) or int(part[:9]) >= len(place):
        raise ConfigError(f"--set {key}: {part!r} is not an index of a list of {len(place)}")
    return int(part)


def dump_settings(settings: TrainConfig) -> str:
    """``settings`` as YAML that ``load_settings`` reads."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
