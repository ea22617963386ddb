"""The config that builds a model again, read from the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from classy_vision.config import ConfigError, config_of
from classy_vision.heads.classy_head import HEADS, ClassyHead
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.models.classy_model import MODELS, ClassyModel

CONFIG = "config.json"
LEFT_OUT = ("in_plane",)
"""Options of heads that their block gives."""


def _activation(head: Any) -> str:
    kinds = {type(new_activation(kind)): kind.value for kind in ActivationType}
    if not hasattr(head, "activation"):
        return ActivationType.RELU.value
    kind = kinds.get(type(head.activation))
    if kind is None:
        name = type(head.activation).__name__
        raise ConfigError(f"head {head.unique_id!r}: no config can name the activation {name}")
    return kind


def _dropout(head: Any) -> float:
    return head.dropout.p if hasattr(head, "dropout") else 0.5


def _pool_size(head: Any) -> Any:
    return getattr(head.final_avgpool, "kernel_size", None)


READERS: Mapping[str, Callable[[Any], Any]] = {
    "activation": _activation,
    "dropout_rate": _dropout,
    "dropout_ratio": _dropout,
    "pool_size": _pool_size,
    "use_dropout": lambda head: hasattr(head, "dropout"),
}
"""Options of heads that are not kept by their name."""


def describe(model: nn.Module) -> dict[str, Any]:
    """The config, of JSON values, that ``build_model`` makes ``model`` from, without its weights.

    Raises:
        ConfigError: the model or a head is of a class without a name, or a head does not keep an
            option of its constructor as an attribute.
    """
    names = [entry.name for entry in MODELS if entry.cls is type(model) and not entry.is_preset]
    if not names or not isinstance(model, ClassyModel):
        raise ConfigError(
            f"{type(model).__name__} has no name that a config could give: use register_model, and build_model"
        )
    heads = [
        {**_describe_head(head), "fork_block": block}
        for block, entries in model.get_heads().items()
        for head in entries
    ]
    options = model.config.model_dump(mode="json", exclude_defaults=True)
    config = {"name": names[0], **options, "heads": heads}
    return json.loads(json.dumps(config))


def _describe_head(head: ClassyHead) -> dict[str, Any]:
    names = [entry.name for entry in HEADS if entry.cls is type(head)]
    if not names:
        raise ConfigError(f"{type(head).__name__} has no name that a config could give: use register_head")
    options: dict[str, Any] = {}
    for key, option in config_of(type(head).__init__).model_fields.items():
        if key in LEFT_OUT or key == "unique_id":
            continue
        if key not in READERS and not hasattr(head, key):
            raise ConfigError(f"{type(head).__name__} keeps no attribute {key!r}, so no config can be made")
        value = READERS[key](head) if key in READERS else getattr(head, key)
        if value != option.default:
            options[key] = value
    return {"name": names[0], "unique_id": head.unique_id, **options}
