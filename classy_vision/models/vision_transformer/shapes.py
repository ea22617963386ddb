"""The config of a vision transformer, read from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Any

from classy_vision.models.vision_transformer import keys
from classy_vision.weights.catalogue import names, published
from classy_vision.weights.shapes import FamilyShapes, Inferred, Shapes, count_blocks


def infer(t: Shapes) -> Inferred:
    first = "blocks.layer_0"
    width, inner = t[f"{first}.mlp.fc2.weight"]
    (layers,) = count_blocks(t)
    q_norm = t.get(f"{first}.attn.q_norm.weight")
    of_head = t.get(f"{first}.attn.sub_norm.weight", q_norm)
    heads = width // of_head[0] if of_head else _guess_heads(width, inner, layers)
    stem, patch = _infer_stem(t)
    tokens = {name: t.get(f"stem.{name}", (1, 0))[1] for name in _TOKENS}
    given = t.get("stem.positions")
    placed, grid = _infer_grid(given[1], sum(tokens.values())) if given else (True, 224 // patch)
    is_clip = len(t.get("stem.proj.weight", ())) == 5
    qv = f"{first}.attn.q_bias" in t
    norm = "before_pool" if "blocks.ln.weight" in t else "after_pool" if "tail.norm.weight" in t else "none"
    gap = norm == "after_pool" or not tokens["class_token"]
    sizes = {"patch_size": patch, "num_layers": layers, "hidden_dim": width, "mlp_dim": inner}
    if is_clip:
        sizes |= {"image_size": 224, "frames_per_clip": 8 * t["stem.proj.weight"][2]}
    options = {
        **stem,
        **({} if is_clip else {"image_size": grid * patch, "frames_per_clip": None}),
        "classifier": "attention" if "tail.query" in t else "gap" if gap else "token",
        "pos_embed": "sincos" if is_clip and qv else given is not None,
        "class_token": True if gap and tokens["class_token"] else None,
        "distillation_token": bool(tokens["distillation_token"]),
        "num_register_tokens": tokens["register_tokens"],
        "pos_embed_prefix": placed,
        "pre_norm": "stem.norm.weight" in t,
        "final_norm": norm,
        "qkv_bias": "qv" if qv else f"{first}.attn.qkv.bias" in t,
        "norm_type": "rms" if f"{first}.norm1.bias" not in t else "layer",
        "attention_norm": f"{first}.attn.norm.weight" in t,
        "mlp_norm": f"{first}.mlp.norm.weight" in t,
        "linear_bias": f"{first}.attn.proj.bias" in t,
        "patch_norm": "stem.patch_norm.weight" in t,
        **_infer_directions(t, is_clip and not qv),
        "qk_norm": q_norm is not None,
        "attention": "differential" if f"{first}.attn.lambda_q1" in t else "softmax",
        "layer_scale": 1e-5 if f"{first}.scale1" in t else None,
        "activation": "swiglu" if t[f"{first}.mlp.fc1.weight"][0] == 2 * inner else "gelu",
    }
    return Inferred(options, {**sizes, "num_heads": heads})


def _infer_directions(t: Shapes, of_clips: bool) -> dict[str, Any]:
    """Returns options of rotary positions, where they are learned or those of V-JEPA 2: others leave nothing in
    the file."""
    if of_clips:
        return {"rotary": {"kind": "tiled"}}
    if "stem.directions.freqs" not in t:
        return {}
    return {"rotary": {"kind": "mixed", "temperature": 10.0, "columns_first": True}}


_TOKENS = ("class_token", "distillation_token", "register_tokens")


def _infer_stem(t: Shapes) -> tuple[dict[str, Any], int]:
    """Returns options of the stem and the patch size; each convolution in it is taken to halve the size."""
    if shape := t.get("stem.proj.weight"):
        tubelet = {"tubelet_size": shape[2]} if len(shape) == 5 else {}
        return {"in_channels": shape[1], "patch_bias": "stem.proj.bias" in t, **tubelet}, shape[-1]
    layers = [t[key] for key in t if re.fullmatch(r"stem\.proj\.layer_\d+\.conv\.weight", key)]
    convs = [{"kernel": shape[2], "stride": 2, "out_channels": shape[0]} for shape in layers]
    bias = "stem.proj.last.bias" in t
    return {"in_channels": layers[0][1], "patch_bias": bias, "conv_stem_layers": convs}, 2 ** len(convs)


def _infer_grid(positions: int, prefix: int) -> tuple[bool, int]:
    """Tells whether tokens other than patches have positions, and returns the side of the square of patches."""
    for placed, patches in ((True, positions - prefix), (False, positions)):
        if patches > 0 and isqrt(patches) ** 2 == patches:
            return placed, isqrt(patches)
    raise ValueError("the patches do not form a square")


def _guess_heads(width: int, inner: int, layers: int) -> int:
    """Returns the number of heads of published models of that size, or one head per 64 channels."""
    for config in (published(name).config for name in names()):
        if [config.get(key) for key in ("hidden_dim", "mlp_dim", "num_layers")] == [width, inner, layers]:
            return int(config["num_heads"])
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)


def probe(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    biases = [v.shape for key, v in theirs.items() if key.endswith("Attention_1.query.bias") and v.dim() == 2]
    heads, size = biases[0] if biases else (1, 1)
    sizes = {"num_heads": heads, "hidden_dim": heads * size, **keys.probe(theirs)}
    for layers in (None, range(4)):
        yield {"conv_stem_layers": layers, **sizes}


SHAPES = FamilyShapes(
    "vision_transformer",
    infer,
    lambda config: (config.num_layers,),
    (
        "rotary",
        "frames_per_clip",
        "pool_norm_eps",
        "norm_after",
        "pool_num_heads",
        "num_heads",
        "layer_norm_eps",
        "activation",
        "classifier",
        "pos_embed_resize",
        "stochastic_depth",
    ),
    probe,
)
