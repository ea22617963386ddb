"""The heads of a file, inferred from the shapes of their tensors by our key names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classy_vision.models.classy_model import MODELS
from classy_vision.trunk.names import split_place
from classy_vision.weights.layout import HEAD
from classy_vision.weights.shapes import Shapes
from classy_vision.weights.state import head_of

ID = "default_head"


def infer_heads(native: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the heads whose tensors are in ``native``, as part of a config."""
    places: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in native.items():
        place = head_of(key) or ("" if key.startswith(HEAD) else None)
        if place is not None:
            places.setdefault(place, {})[key.removeprefix(f"{place}." if place else HEAD)] = shape
    if not places:
        has_default = MODELS[config["name"]].cls.default_num_classes is not None
        return {"heads": []} if has_default else {}
    heads = [_infer_head(place, parts, config) for place, parts in places.items()]
    return heads[0] if set(heads[0]) == {"num_classes"} else {"heads": heads}


def _infer_head(place: str, parts: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of one head by the names of its layers; the place of a published classifier is ""."""
    weights = {key: shape[0] for key, shape in parts.items() if key.endswith("weight")}
    block, unique_id = place.split(".")[1:3] if place else ("trunk_output", ID)
    common = {"unique_id": unique_id, "fork_block": block}
    if "pooler.query_tokens" in parts:
        return _infer_attentive_probe(parts, config)
    if len(blocks := split_place(block)) > 1 and "fc.weight" in weights:
        return {"name": "concat", "num_classes": weights["fc.weight"], **common, "fork_block": list(blocks)}
    if "conv.weight" in weights:
        classes = weights.get("fc.weight", weights.get("classifier.weight"))
        act = config.get("activation") or dict(MODELS[config["name"]].preset).get("activation", "relu")
        more = {"num_classes": classes, "conv_planes": weights["conv.weight"], "activation": act}
        return {"name": "fully_connected", **more, **common}
    if "hidden.weight" in weights:
        classes = weights.get("fc.weight", weights.get("classifier.weight"))
        return _infer_hidden(parts, config) | common if place else {"num_classes": classes}
    if "fc.weight" in weights:
        return {"name": "fully_connected", "num_classes": weights["fc.weight"], **common}
    if "head_fcl.projection.weight" in weights or (not place and _is_convolutional(config)):
        classes = next(iter(weights.values()))
        logits = {"activation_func": "identity"}
        return {"name": "fully_convolutional_linear", "num_classes": classes, **logits, **common}
    classes = weights.get("classifier.weight", weights.get("layers.head.weight"))
    hidden, tokens = weights.get("layers.pre_logits.weight"), 2 if "layers_1.head.weight" in weights else None
    if not place and hidden is None:
        return {"num_classes": classes}
    options = {"num_classes": classes, "hidden_dim": hidden, "num_tokens": tokens}
    given = {key: value for key, value in options.items() if value is not None}
    return {"name": "vision_transformer_head", **given, **common}


def _infer_attentive_probe(parts: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of V-JEPA 2's head; it has as many heads of attention as the trunk's layers."""
    layers = {key.split(".")[2] for key in parts if key.startswith("pooler.self_attention_layers.")}
    num_heads = {**MODELS[config["name"]].preset, **config}.get("num_heads")
    sizes = {"depth": len(layers) + 1, "num_heads": num_heads, "num_classes": parts["classifier.weight"][0]}
    return {"name": "attention_pool", "style": "vjepa2", **sizes, "unique_id": ID, "fork_block": "ln"}


def _infer_hidden(parts: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a head with a hidden layer; no tensor shows its activation."""
    hidden = {"hidden_dim": parts["hidden.weight"][0], "bias": "hidden.bias" in parts}
    options = {**hidden, "norm": "norm.weight" in parts, "activation": _default_head(config).get("activation")}
    return {"name": "mobilenet_head", "num_classes": parts.get("fc.weight", (None,))[0]} | {
        key: value for key, value in options.items() if value is not None
    }


def _is_convolutional(config: Mapping[str, Any]) -> bool:
    """Tells whether the default head of the model's family is a fully convolutional one."""
    return bool(_default_head(config)["name"] == "fully_convolutional_linear")


def _default_head(config: Mapping[str, Any]) -> dict[str, Any]:
    entry = MODELS[config["name"]]
    options = {key: value for key, value in config.items() if key != "name"}
    parsed = entry.cls.config_class.parse({**entry.preset, **options})
    return entry.cls.default_head(parsed)
