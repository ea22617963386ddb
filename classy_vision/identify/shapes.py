"""What the shapes of a trunk's tensors, by our names, say about its config: a function per family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import ceil, isqrt
from typing import Any, NamedTuple, get_args

from classy_vision.models.anynet.model import BlockType
from classy_vision.models.efficientnet.model import BLOCK_PARAMS, HEAD_FILTERS
from classy_vision.models.resnext3d.model import ResNeXt3DConfig
from classy_vision.weights.catalogue import names, published

Shapes = dict[str, tuple[int, ...]]


class Inferred(NamedTuple):
    """A part of a config.

    Attributes:
        options: what goes with a preset as well.
        sizes: what a preset says itself.
    """

    options: dict[str, Any]
    sizes: dict[str, Any]


_BLOCK = re.compile(r"blocks\.(?:pathway0-stage(\d+)-block|block(\d+)-|layer_)(\d+)\.")


def depths(trunk: Iterable[str]) -> tuple[int, ...]:
    """Blocks per stage, by the names of tensors."""
    found: dict[int, int] = {}
    for match in filter(None, map(_BLOCK.match, trunk)):
        stage = int(match[1] or match[2] or 0)
        found[stage] = max(found.get(stage, 0), int(match[3]) + 1)
    return tuple(found[stage] for stage in sorted(found))


# -- ResNet, ResNeXt, DenseNet


def resnext(t: Shapes) -> Inferred:
    stem, deep = t["stem.conv.weight"], depths(t)
    first, last = "blocks.block0-0", f"blocks.block{len(deep) - 1}-{deep[-1] - 1}"
    basic = f"{first}.residual.c.conv.weight" not in t
    end = "b" if basic else "c"
    inner = t[f"{first}.residual.b.conv.weight"]
    width = t[f"{first}.residual.{end}.conv.weight"][0]
    sizes: dict[str, Any] = {"num_blocks": deep, "init_planes": stem[0]}
    if basic:
        sizes["basic_layer"] = True
    if basic or width != 4 * stem[0]:
        sizes["reduction"] = width // stem[0]
    if not basic and inner[:2] != (stem[0], stem[0]):
        sizes["base_width_and_cardinality"] = (inner[1], inner[0] // inner[1])
    options = {
        "in_channels": stem[1],
        "small_input": stem[2] == 3,
        "final_bn_relu": f"{last}.residual.{end}.norm.weight" in t,
        **_squeeze(t, f"{first}.se", width),
    }
    return Inferred(options, sizes)


def _squeeze(t: Shapes, se: str, width: int) -> dict[str, Any]:
    squeeze = t.get(f"{se}.excitation.0.weight")
    return {"use_se": True, "se_reduction_ratio": width // squeeze[0]} if squeeze else {}


def densenet(t: Shapes) -> Inferred:
    stem, first = t["stem.conv.weight"], "blocks.block0-0"
    inner, growth = t[f"{first}.conv1.weight"][0], t[f"{first}.conv2.weight"][0]
    sizes = {"num_blocks": depths(t), "init_planes": stem[0], "growth_rate": growth}
    options = {
        "in_channels": stem[1],
        "expansion": inner // growth,
        "small_input": stem[2] == 3,
        "final_bn_relu": "tail.norm.weight" in t,
        **_squeeze(t, f"{first}.se", growth),
    }
    return Inferred(options, sizes)


# -- EfficientNet


def efficientnet(t: Shapes) -> Inferred:
    """A scale of one's own has the least depth that gives these blocks."""
    depth = min(n / stage.repeats for n, stage in zip(depths(t), BLOCK_PARAMS))
    width = t["tail.conv.weight"][0] / HEAD_FILTERS
    scale = {"width_coefficient": width, "depth_coefficient": depth, "resolution": 224, "dropout_rate": 0.2}
    se = any(".se." in key for key in t)
    return Inferred({"in_channels": t["stem.conv.weight"][1], "use_se": se}, {"model_params": scale})


def scales(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The names of blocks, which some layouts count through, at scales with so many."""
    total = len({match[1] for key in theirs if (match := re.search(r"(?:^_|\.)blocks\.(\d+)\.", key))})
    found = {tuple(ceil(d / 20 * stage.repeats) for stage in BLOCK_PARAMS) for d in range(1, 81)}
    fitting = [counts for counts in sorted(found) if sum(counts) == total] or [()]
    for counts in fitting:
        yield {"blocks": [f"block{s}-{i}" for s, n in enumerate(counts) for i in range(n)]}


def depths_of_scale(config: Any) -> tuple[int, ...]:
    return tuple(config.depth(stage.repeats) for stage in BLOCK_PARAMS)


# -- AnyNet and RegNet


def anynet(t: Shapes) -> Inferred:
    stem, deep = t["stem.conv.weight"], depths(t)
    firsts = [f"blocks.block{s}-0" for s in range(1, len(deep) + 1)]
    kind, last = _block_type(t)
    widths = [t[f"{p}.{last}.conv.weight"][0] for p in firsts]
    before = [stem[0], *widths]
    changes = [a != b for a, b in zip(before, widths)]
    inner = [(w, w) if "c" not in last else t[f"{p}.residual.b.conv.weight"] for p, w in zip(firsts, widths)]
    if "c" in last and any(changes) and not any(f"{p}.shortcut.conv.weight" in t for p in firsts):
        kind = BlockType.RES_BOTTLENECK_LINEAR_BLOCK
    strided = [kind in _NO_SHORTCUT or c or f"{p}.shortcut.conv.weight" in t for p, c in zip(firsts, changes)]
    sizes = {
        "depths": deep,
        "widths": widths,
        "group_widths": [shape[1] for shape in inner],
        "bottleneck_multipliers": [float(shape[0] / w) for shape, w in zip(inner, widths)],
        "strides": [2 if far else 1 for far in strided],
        "block_type": kind.value,
    }
    squeezes = [(t[key][0], w) for p, w in zip(firsts, before) if (key := f"{p}.{_SE}") in t]
    options: dict[str, Any] = {
        "in_channels": stem[1],
        "stem_type": "res_stem_in" if stem[2] == 7 else "simple_stem_in",
        "stem_width": stem[0],
        "use_se": bool(squeezes) or "c" not in last,
    }
    if any(max(1, round(w / 4)) != squeeze for squeeze, w in squeezes):
        options["se_ratio"] = squeezes[-1][0] / squeezes[-1][1]
    return Inferred(options, sizes)


_SE = "residual.se.excitation.0.weight"
_NO_SHORTCUT = (BlockType.VANILLA_BLOCK, BlockType.RES_BOTTLENECK_LINEAR_BLOCK)


def _block_type(t: Shapes) -> tuple[BlockType, str]:
    """And the name of a block's last convolution."""
    if "blocks.block1-0.b.conv.weight" in t:
        return BlockType.VANILLA_BLOCK, "b"
    if "blocks.block1-0.residual.c.conv.weight" in t:
        return BlockType.RES_BOTTLENECK_BLOCK, "residual.c"
    return BlockType.RES_BASIC_BLOCK, "residual.b"


# -- vision transformers


def vit(t: Shapes) -> Inferred:
    first = "blocks.layer_0"
    width, inner = t[f"{first}.mlp.fc2.weight"]
    (layers,) = depths(t)
    q_norm = t.get(f"{first}.attn.q_norm.weight")
    of_head = t.get(f"{first}.attn.sub_norm.weight", q_norm)
    heads = width // of_head[0] if of_head else _heads(width, inner, layers)
    stem, patch = _patches(t)
    tokens = {name: t.get(f"stem.{name}", (1, 0))[1] for name in _TOKENS}
    placed, grid = _grid(t["stem.positions"][1], sum(tokens.values()))
    norm = "before_pool" if "blocks.ln.weight" in t else "after_pool" if "tail.norm.weight" in t else "none"
    gap = norm == "after_pool" or not tokens["class_token"]
    sizes = {"patch_size": patch, "num_layers": layers, "hidden_dim": width, "mlp_dim": inner}
    options = {
        **stem,
        "image_size": grid * patch,
        "classifier": "gap" if gap else "token",
        "class_token": True if gap and tokens["class_token"] else None,
        "distillation_token": bool(tokens["distillation_token"]),
        "num_register_tokens": tokens["register_tokens"],
        "pos_embed_prefix": placed,
        "pre_norm": "stem.norm.weight" in t,
        "final_norm": norm,
        "qkv_bias": f"{first}.attn.qkv.bias" in t,
        "qk_norm": q_norm is not None,
        "attention": "differential" if f"{first}.attn.lambda_q1" in t else "softmax",
        "layer_scale": 1e-5 if f"{first}.scale1" in t else None,
        "activation": "swiglu" if t[f"{first}.mlp.fc1.weight"][0] == 2 * inner else "gelu",
    }
    return Inferred(options, {**sizes, "num_heads": heads})


_TOKENS = ("class_token", "distillation_token", "register_tokens")


def _patches(t: Shapes) -> tuple[dict[str, Any], int]:
    """The stem, and the size of its patches; convolutions in it are taken to halve the size."""
    if shape := t.get("stem.proj.weight"):
        return {"in_channels": shape[1], "patch_bias": "stem.proj.bias" in t}, shape[2]
    layers = [t[key] for key in t if re.fullmatch(r"stem\.proj\.layer_\d+\.conv\.weight", key)]
    convs = [{"kernel": shape[2], "stride": 2, "out_channels": shape[0]} for shape in layers]
    bias = "stem.proj.last.bias" in t
    return {"in_channels": layers[0][1], "patch_bias": bias, "conv_stem_layers": convs}, 2 ** len(convs)


def _grid(positions: int, prefix: int) -> tuple[bool, int]:
    """Whether tokens that are no patches have positions, and the side of a square of patches."""
    for placed, patches in ((True, positions - prefix), (False, positions)):
        if patches > 0 and isqrt(patches) ** 2 == patches:
            return placed, isqrt(patches)
    raise ValueError("the patches are no square")


def _heads(width: int, inner: int, layers: int) -> int:
    """As in published networks of that size, or of 64 channels each."""
    for config in (published(name).config for name in names()):
        if [config.get(key) for key in ("hidden_dim", "mlp_dim", "num_layers")] == [width, inner, layers]:
            return int(config["num_heads"])
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)


def vit_probes(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    biases = [v.shape for key, v in theirs.items() if key.endswith("Attention_1.query.bias") and v.dim() == 2]
    heads, size = biases[0] if biases else (1, 1)
    for layers in (None, range(4)):
        yield {"conv_stem_layers": layers, "num_heads": heads, "hidden_dim": heads * size}


# -- ResNeXt3D


def resnext3d(t: Shapes) -> Inferred:
    deep, first = depths(t), "blocks.pathway0-stage1-block0.residual"
    kind, end = _transformation(t)
    basic = kind.startswith("basic")
    norm = t.get("blocks.pathway0-stage2-block0.skip.norm.weight")
    pre = norm is not None and norm[0] == t["blocks.pathway0-stage2-block0.skip.conv.weight"][1]
    kernels = [_kernels(t, s, depth, basic) for s, depth in enumerate(deep, 1)]
    inner = t[f"{first}.b.conv.weight"] if not basic else (64, 64)
    lone = inner[1] == 1 and inner[0] > 1
    sizes = {
        "num_blocks": deep,
        "residual_transformation_type": kind,
        "skip_transformation_type": "preactivated_shortcut" if pre else "postactivated_shortcut",
        "stage_planes": t[f"{first}.{end}.weight"][0],
        "num_groups": "depthwise" if lone else inner[0] // inner[1],
        "width_per_group": inner[0] if lone else inner[1],
        "stage_temporal_kernel_basis": [basis for basis, _ in kernels],
        "temporal_conv_1x1": [early for _, early in kernels],
        "stage_temporal_stride": [1] + [2] * (len(deep) - 1),
        "stage_spatial_stride": [1] + [2] * (len(deep) - 1),
        "stage_temporal_pool": [1] * len(deep),
        "stem_maxpool": not basic,
        "frames_per_clip": 16 if basic else 8,
        "clip_crop_size": 112 if basic else 224,
    }
    if split := t.get("stem.conv.spatial.weight"):
        planes = t["stem.conv.temporal.weight"][0]
        sizes |= {"stem_name": "r2plus1d_stem", "stem_planes": planes, "r2plus1d_stem_kernel": split[3]}
        return Inferred({"in_channels": split[1]}, sizes)
    planes, channels, time, size, _ = t["stem.conv.weight"]
    sizes |= {"stem_planes": planes, "stem_temporal_kernel": time, "stem_spatial_kernel": size}
    return Inferred({"in_channels": channels}, sizes)


def _transformation(t: Shapes) -> tuple[str, str]:
    """The kind of blocks, and their last convolution."""
    first = "blocks.pathway0-stage1-block0.residual"
    if f"{first}.a.conv.spatial.weight" in t:
        return "basic_r2plus1d_transformation", "b.conv.temporal"
    if f"{first}.c.conv.weight" not in t:
        return "basic_transformation", "b.conv"
    pre = any(key.endswith("-bn.weight") for key in t)
    return f"{'pre' if pre else 'post'}activated_bottleneck_transformation", "c.conv"


def _kernels(t: Shapes, stage: int, depth: int, basic: bool) -> tuple[list[int], bool]:
    """Temporal kernels of a stage, and whether they are on the first 1x1 convolution."""
    blocks = [f"blocks.pathway0-stage{stage}-block{i}.residual" for i in range(depth)]
    a = [t.get(f"{block}.a.conv.weight", (0, 0, 3))[2] for block in blocks]
    if basic or max(a) > 1:
        return a, not basic
    return [t[f"{block}.b.conv.weight"][2] for block in blocks], False


def clip_probes(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    stages = len({key.split(".")[1] for key in theirs if ".res_blocks." in key}) or 4
    kinds = get_args(ResNeXt3DConfig.model_fields["residual_transformation_type"].annotation)
    for kind, stem, pool in product(kinds, ("resnext3d_stem", "r2plus1d_stem"), (1, 2)):
        yield {
            "residual_transformation_type": kind,
            "skip_transformation_type": "",
            "stem_name": stem,
            "num_blocks": (1,) * stages,
            "stage_temporal_pool": (pool, *(1,) * (stages - 1)),
        }
