"""Writes the catalogue of published weights, from the peers' own: python -m tests.peers.catalogue

A row is written where our network has the same parameters as the peer's, key by key.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision.models
from timm.models import get_pretrained_cfg, model_entrypoint
from torch import nn

from classy_vision.config import ConfigError
from classy_vision.models import MODELS, build_model
from classy_vision.trunk.loading import load_weights
from classy_vision.weights.catalogue import DATA
from tests.peers.test_vision_transformer import beyond_us
from tests.peers.test_vision_transformer import config_of as config_of_vit

Config = dict[str, Any]
IMAGENET, KINETICS = "imagenet_1k", "kinetics_400"


# -- our config for timm's models; None where ours has no switch for what they do


def of_resnet(model: Any) -> Config | None:
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    block = stages[0][0]
    kinds = {type(block).__name__ for stage in stages for block in stage}
    reduced = block.conv1.out_channels != block.conv2.in_channels
    if len(kinds) > 1 or reduced or _is_pruned(stages):
        return None
    basic = kinds == {"BasicBlock"}
    groups = block.conv2.groups
    config: Config = {"name": "resnext", "num_blocks": [len(stage) for stage in stages], "basic_layer": basic}
    config |= {"init_planes": 64, "zero_init_bn_residuals": True, **_stem_of_resnet(model)}
    if basic:
        config["reduction"] = 1
    elif (groups, block.conv2.out_channels) != (1, 64):
        config["base_width_and_cardinality"] = [block.conv2.out_channels // groups, groups]
    downsample = stages[1][0].downsample
    if downsample[0].kernel_size not in (1, 2, (1, 1)):
        return None
    if len(downsample) == 3:
        config["shortcut"] = "avg"
    if isinstance(model.bn1, nn.GroupNorm):
        config["norm"] = "group"
    return config | _attention_of_resnet(block)


def _is_pruned(stages: list[Any]) -> bool:
    widths = {block.conv2.out_channels for block in stages[0]}
    return len(widths) > 1 or stages[0][0].bn1.weight.shape[0] not in (64, 128, 256, 512, 1024, 2048)


def _stem_of_resnet(model: Any) -> Config:
    config: Config = {}
    if type(model.conv1) is nn.Sequential:
        width = model.conv1[3].out_channels
        config |= {"stem": "deep" if model.conv1[0].out_channels == width else "tiered", "stem_width": width}
    aa = getattr(model.layer2[0], "aa", None)
    if aa is not None and type(aa) is not nn.Identity:
        config["anti_alias"] = "avg" if type(aa) is nn.AvgPool2d else "blur"
    if type(model.maxpool) is nn.Sequential and type(model.maxpool[0]) is nn.Conv2d:
        config["stem_pool"] = "conv"
    return config


def _attention_of_resnet(block: Any) -> Config:
    se = getattr(block, "se", None)
    if se is None:
        return {}
    if not hasattr(se, "fc1"):
        return {"use_eca": True}
    return {"use_se": True, "se_reduction_ratio": round(se.fc1.in_channels / se.fc1.out_channels)}


def of_densenet(model: Any) -> Config | None:
    if not hasattr(model.features, "pool0") or type(model.features.pool0) is not nn.MaxPool2d:
        return None
    stages = [child for name, child in model.features.named_children() if name.startswith("denseblock")]
    layer = stages[0].denselayer1
    growth = layer.conv2.out_channels
    return {
        "name": "densenet",
        "num_blocks": [len(stage) for stage in stages],
        "init_planes": model.features.conv0.out_channels,
        "growth_rate": growth,
        "expansion": layer.conv1.out_channels // growth,
    }


def of_efficientnet(model: Any) -> Config | None:
    """Its networks by name: what a module does with strides and shortcuts can't be read from it at once."""
    name = preset_of_timm(model.pretrained_cfg["architecture"])
    if name not in MODELS:
        return None
    same = "Same" in type(model.conv_stem).__name__
    return {"name": name, "bn_epsilon": model.bn1.eps, "padding": "same" if same else "symmetric"}


OTHER_NAMES = {
    "efficientnet_el_pruned": "efficientnet_el",  # whose pruned weights are zeros
    "efficientnet_es_pruned": "efficientnet_es",
    "fbnetc_100": "fbnet_c",
    "mnasnet_100": "mnasnet1_0",
}


def preset_of_timm(name: str) -> str:
    """What we call a network of timm's modules efficientnet and mobilenetv3; some are not here."""
    name = name.removeprefix("tf_")
    spaced = re.sub(r"^(efficientnet|mobilenet|fbnet)(v\d)", r"\1_\2", name)
    if spaced.startswith(("mobilenet_v1_100", "mobilenet_v2_100", "mobilenet_v3")):
        spaced = spaced.removesuffix("_100")
    return OTHER_NAMES.get(name, spaced)


def of_regnet(model: Any) -> Config | None:
    stages = [model.s1, model.s2, model.s3, model.s4]
    blocks = [stage.b1 for stage in stages]
    if type(blocks[0]).__name__ != "Bottleneck":
        return None
    linear = type(blocks[0].act3) is nn.Identity
    inner = [block.conv2.conv.out_channels for block in blocks]
    widths = [block.conv3.conv.out_channels for block in blocks]
    if not linear and any(type(stage.b1.downsample).__name__ == "DownsampleAvg" for stage in stages):
        return None
    config: Config = {
        "name": "anynet",
        "depths": [len(list(stage.children())) for stage in stages],
        "widths": widths,
        "group_widths": [block.conv2.conv.weight.shape[1] for block in blocks],
        "bottleneck_multipliers": [a / b for a, b in zip(inner, widths)],
        "strides": [block.conv2.conv.stride[0] for block in blocks],
        "stem_width": model.stem.conv.out_channels,
        "use_se": hasattr(blocks[0].se, "fc1"),
    }
    if linear:
        config |= {"block_type": "res_bottleneck_linear_block", "activation": "silu"}
        conv = getattr(model.final_conv, "conv", None)
        if conv is None:
            config["final_activation"] = type(model.final_conv) is not nn.Identity
        else:
            config["conv_planes"] = conv.out_channels
    return config


def of_vision_transformer(model: Any) -> Config | None:
    if type(model).__name__ not in ("VisionTransformer", "VisionTransformerDistilled", "Eva") or beyond_us(
        model
    ):
        return None
    config = config_of_vit(model)
    height, width = config["image_size"]
    if height == width:
        config["image_size"] = height
    if config["class_token"] is (config["classifier"] == "token"):
        del config["class_token"]
    if config["attention"] == "softmax":
        del config["attention"]
    return {"name": "vision_transformer", **config}


TIMM = {
    "timm.models.resnet": of_resnet,
    "timm.models.densenet": of_densenet,
    "timm.models.efficientnet": of_efficientnet,
    "timm.models.mobilenetv3": of_efficientnet,
    "timm.models.regnet": of_regnet,
    "timm.models.vision_transformer": of_vision_transformer,
    "timm.models.deit": of_vision_transformer,
    "timm.models.eva": of_vision_transformer,
}


# -- short configs: a preset and what differs


SIZES = {"num_layers", "num_heads", "hidden_dim", "mlp_dim", "patch_size"}
"""A vision transformer of other sizes is another network, not a preset with changes."""


def short(config: Config) -> Config:
    """The preset that leaves the least to say, or the family."""
    entry = MODELS[config["name"]]
    families = {"anynet": ("anynet", "regnet"), "resnext": ("resnext", "resnet")}.get(
        entry.family, (entry.family,)
    )
    options = [config]
    for preset in MODELS:
        if preset.is_preset and preset.family in families:
            options += _as_preset(config, preset)
    return min(options, key=lambda option: (len(option), len(str(option))))


def _as_preset(config: Config, preset: Any) -> Iterator[Config]:
    wanted = _resolved(config)
    for more in ({}, {"width_rounding": "torchvision"}):
        try:
            base = {"name": preset.name, **more}
            given = _resolved(base)
        except ConfigError:
            continue
        fields = {key: value for key, value in wanted.items() if given.get(key) != value}
        own = MODELS[preset.name].cls.config_class.model_fields
        if all(key in own for key in fields) and not SIZES & fields.keys():
            yield {**base, **fields}


def _resolved(config: Config) -> Config:
    entry = MODELS[config["name"]]
    options = {k: v for k, v in {**entry.preset, **config}.items() if k not in ("name", "conv_planes")}
    parsed = entry.cls.config_class.parse(options, "catalogue")
    parsed = parsed.to_anynet() if hasattr(parsed, "to_anynet") else parsed
    return parsed.model_dump(mode="json")


# -- rows


def row(config: Config, theirs: nn.Module, layout: str, **more: Any) -> Config | None:
    """The row of a file, where every tensor of ``theirs`` has its place in our network."""
    with torch.device("meta"):
        ours = build_model(config)
    state = {key: value.to("meta") for key, value in theirs.state_dict().items()}
    load_weights(ours, state, layout=layout)
    params = sum(p.numel() for p in theirs.parameters())
    assert params == sum(p.numel() for p in ours.parameters())
    return {"config": json.loads(json.dumps(config)), "params": params, **more}


def of_timm(name: str) -> Config | None:
    read = TIMM.get(model_entrypoint(name.partition(".")[0]).__module__)
    if read is None:
        return None
    cfg = get_pretrained_cfg(name)
    with torch.device("meta"):
        theirs = timm.create_model(name)
    config = read(theirs)
    if config is None:
        return None
    planes = config.pop("conv_planes", None)
    config = short(config)
    if planes and cfg.num_classes:
        head = {"name": "fully_connected", "unique_id": "default_head", "num_classes": cfg.num_classes}
        head |= {"conv_planes": planes, "activation": "silu", "fork_block": "trunk_output"}
        config["heads"] = [head]
    elif cfg.num_classes:
        config["num_classes"] = cfg.num_classes
    elif config["name"].startswith("efficientnet"):
        config["heads"] = []
    size = cfg.input_size[1]
    resize = [size, size] if cfg.crop_mode == "squash" else int(size / cfg.crop_pct)
    top1 = TOP1.get((name, size))
    return row(
        config,
        theirs,
        "timm",
        outputs=outputs_of(name, cfg.num_classes),
        preprocessing={
            "image_size": size,
            "resize": resize,
            "interpolation": cfg.interpolation,
            "mean": list(cfg.mean),
            "std": list(cfg.std),
        },
        labels=IMAGENET if cfg.num_classes == 1000 else None,
        top1=top1,
        license=cfg.license,
        place=f"timm/{name}",
    )


def outputs_of(name: str, classes: int) -> str:
    """A file of CLIP is a classifier's where it was fine-tuned."""
    if not classes:
        return "features"
    embeds = any(part in name for part in ("_clip_", "_pe_core_"))
    return "embeddings" if embeds and "_ft_" not in name else "classes"


# The models of its families that are ours.
TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *(f"efficientnet_b{n}" for n in range(8)),
    *("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
    *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    *(f"regnet_y_{n}" for n in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")),
    *(f"regnet_x_{n}" for n in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
    *("r3d_18", "mc3_18", "r2plus1d_18"),
)


def of_torchvision(name: str, weights: Any) -> Config | None:
    transforms, meta = weights.transforms(), weights.meta
    size = transforms.crop_size[0]
    resize = transforms.resize_size
    ours = name.replace("_6gf", ".6gf").replace("_2gf", ".2gf") if name.startswith("regnet") else name
    config: Config = {"name": ours}
    if ours in ("regnet_x_400mf", "regnet_y_800mf", "regnet_y_8gf"):
        config["width_rounding"] = "torchvision"
    if ours[:-1] == "efficientnet_b" and ours[-1] in "01234":
        config["bn_epsilon"] = 1e-5
    if name.startswith("vit") and size != 224:
        config["image_size"] = size
    classes = len(meta["categories"])
    video = name in ("r3d_18", "mc3_18", "r2plus1d_18")
    if video:
        head = {"name": "fully_convolutional_linear", "unique_id": "default_head", "num_classes": classes}
        config["heads"] = [{**head, "fork_block": "trunk_output", "activation_func": "identity"}]
    else:
        config["num_classes"] = classes
    options = {"image_size": size} if "image_size" in config else {}
    theirs = torchvision.models.get_model(name, weights=None, **options)
    metrics = next(iter(meta["_metrics"].values()))
    return row(
        config,
        theirs,
        "torchvision",
        outputs="classes",
        preprocessing={
            "image_size": size,
            "resize": list(resize) if len(resize) > 1 else resize[0],
            "interpolation": transforms.interpolation.value,
            "mean": list(transforms.mean),
            "std": list(transforms.std),
        },
        labels=KINETICS if video else IMAGENET,
        top1=metrics["acc@1"],
        license="cc-by-nc-4.0" if "SWAG" in weights.name else "bsd-3-clause",
        place=weights.url.rpartition("/")[2],
    )


# -- repositories in transformers' layouts: preset, options, clip, classes, top-1

VIDEOMAE, VJEPA2 = "MCG-NJU/videomae-", "facebook/vjepa2-"
LICENSES = {VIDEOMAE: "cc-by-nc-4.0", VJEPA2: "mit"}
BEFORE_TUNING = {"final_norm": "before_pool"}
# Frames of Something-Something v2 were taken evenly from whole videos of a few seconds; these are the steps of
# VideoMAE's pre-training on it.
KINETICS_CLIP, SSV2_CLIP = {"frames": 16, "stride": 4}, {"frames": 16, "stride": 2}
LONG_CLIP = {"frames": 64, "fps": 4}
CLIPS: dict[str, tuple[str, Config, Config, int | None, float | None]] = {
    f"{VIDEOMAE}base": ("videomae_base", BEFORE_TUNING, KINETICS_CLIP, None, None),
    f"{VIDEOMAE}base-finetuned-kinetics": ("videomae_base", {}, KINETICS_CLIP, 400, 80.9),
    f"{VIDEOMAE}base-finetuned-ssv2": ("videomae_base", {}, SSV2_CLIP, 174, 70.6),
    f"{VIDEOMAE}base-short": ("videomae_base", BEFORE_TUNING, KINETICS_CLIP, None, None),
    f"{VIDEOMAE}base-short-finetuned-kinetics": ("videomae_base", {}, KINETICS_CLIP, 400, 79.4),
    f"{VIDEOMAE}base-short-finetuned-ssv2": ("videomae_base", {}, SSV2_CLIP, 174, 69.6),
    f"{VIDEOMAE}base-short-ssv2": ("videomae_base", BEFORE_TUNING, SSV2_CLIP, None, None),
    f"{VIDEOMAE}base-ssv2": ("videomae_base", BEFORE_TUNING, SSV2_CLIP, None, None),
    f"{VIDEOMAE}huge-finetuned-kinetics": ("videomae_huge", {}, KINETICS_CLIP, 400, 86.6),
    f"{VIDEOMAE}large": ("videomae_large", BEFORE_TUNING, KINETICS_CLIP, None, None),
    f"{VIDEOMAE}large-finetuned-kinetics": ("videomae_large", {}, KINETICS_CLIP, 400, 84.7),
    f"{VIDEOMAE}small-finetuned-kinetics": ("videomae_small", {}, KINETICS_CLIP, 400, 79.0),
    f"{VIDEOMAE}small-finetuned-ssv2": ("videomae_small", {}, SSV2_CLIP, 174, 66.8),
    f"{VJEPA2}vitl-fpc64-256": ("vjepa2_large", {}, LONG_CLIP, None, None),
    f"{VJEPA2}vith-fpc64-256": ("vjepa2_huge", {}, LONG_CLIP, None, None),
    f"{VJEPA2}vitg-fpc64-256": ("vjepa2_giant", {}, LONG_CLIP, None, None),
    f"{VJEPA2}vitg-fpc64-384": ("vjepa2_giant", {"image_size": 384}, LONG_CLIP, None, None),
    f"{VJEPA2}vitl-fpc16-256-ssv2": ("vjepa2_large", {}, {"frames": 16, "stride": 4}, 174, 73.7),
    # Accuracies on Diving48 are of probes of several layers, which the repositories do not have.
    f"{VJEPA2}vitl-fpc32-256-diving48": ("vjepa2_large", {}, {"frames": 32, "stride": 2}, 48, None),
    f"{VJEPA2}vitg-fpc64-384-ssv2": (
        "vjepa2_giant",
        {"image_size": 384},
        {"frames": 64, "stride": 2},
        174,
        77.3,
    ),
    f"{VJEPA2}vitg-fpc32-384-diving48": (
        "vjepa2_giant",
        {"image_size": 384},
        {"frames": 32, "stride": 2},
        48,
        None,
    ),
}


def of_transformers(name: str) -> Config:
    """The row of a repository; ``test_transformers_clips`` compares its parameters with the peer's."""
    preset, options, clip, classes, top1 = CLIPS[name]
    config: Config = {"name": preset, **options}
    kind = VJEPA2 if name.startswith(VJEPA2) else VIDEOMAE
    if kind == VJEPA2 and clip["frames"] != 64:
        config["frames_per_clip"] = clip["frames"]
    if classes and kind == VIDEOMAE:
        config["num_classes"] = classes
    elif classes:
        heads = MODELS[preset].preset["num_heads"]
        head = {"name": "attention_pool", "unique_id": "default_head", "num_classes": classes, "depth": 4}
        config["heads"] = [{**head, "style": "vjepa2", "num_heads": heads, "fork_block": "ln"}]
    with torch.device("meta"):
        model = build_model(config)
    size = model.input_shape[-1]
    return {
        "config": config,
        "params": sum(p.numel() for p in model.parameters()),
        "outputs": "classes" if classes else "features",
        "preprocessing": {
            "image_size": size,
            "resize": size * 256 // 224 if kind == VJEPA2 else size,
            "interpolation": "bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "clip": clip,
        },
        "labels": KINETICS if classes == 400 else None,
        "top1": top1,
        "license": LICENSES[kind],
        "place": name,
    }


def write(name: str, rows: Mapping[str, Any]) -> None:
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(rows.items()))
    (DATA / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def accuracies() -> dict[tuple[str, int], float]:
    """By name and image size. Timm's package does not tell them, so those that are there are kept.

    ``results-imagenet.csv`` has others, of results/results-imagenet.csv in timm's repository, and one of its
    release notes. Many are for a larger image than a file's own preprocessing gives; those are not taken.
    """
    found: dict[tuple[str, int], float] = {}
    with Path(__file__).with_name("results-imagenet.csv").open() as file:
        for line in csv.DictReader(file):
            found[line["model"], int(line["img_size"])] = float(line["top1"])
    for name, entry in json.loads((DATA / "timm.json").read_text()).items():
        if entry["top1"] is not None:
            found[name, entry["preprocessing"]["image_size"]] = entry["top1"]
    return found


TOP1 = accuracies()

if __name__ == "__main__":
    write("transformers", {name: of_transformers(name) for name in CLIPS})
    models = torchvision.models
    found: dict[str, Any] = {}
    for name in TORCHVISION:
        for weights in models.get_model_weights(name):
            found[f"{name}.{weights.name}"] = of_torchvision(name, weights)
    write("torchvision", found)
    for name, weights in ((IMAGENET, "resnet18"), (KINETICS, "r3d_18")):
        categories = next(iter(models.get_model_weights(weights))).meta["categories"]
        (DATA / f"{name}.txt").write_text("\n".join(categories) + "\n")
    rows = {name: of_timm(name) for name in timm.list_models(pretrained=True)}
    write("timm", {name: found for name, found in rows.items() if found})
