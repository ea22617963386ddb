"""The peers' models, and what we call the same network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import efficientnet_pytorch
import pytorchvideo.models.hub
import timm
import torch
import torchvision.models
import transformers
from torch import Tensor, nn

from benchmarks.models import LOGITS


class Peer(NamedTuple):
    """A model of a peer.

    Attributes:
        layout: what we call its names.
        make: gives it, with random weights.
        config: of the same network here.
        shape: of a small input.
    """

    layout: str
    make: Callable[[], nn.Module]
    config: dict[str, Any]
    shape: tuple[int, ...] = (2, 3, 64, 64)


def of_torchvision(theirs: str, shape: tuple[int, ...] = (2, 3, 64, 64), /, **config: Any) -> Peer:
    return Peer("torchvision", lambda: torchvision.models.get_model(theirs), config, shape)


def of_timm(theirs: str, /, **config: Any) -> Peer:
    return Peer("timm", lambda: timm.create_model(theirs), config)


def of_transformers(kind: str, config: dict[str, Any], **options: Any) -> Peer:
    def make() -> nn.Module:
        settings = getattr(transformers, f"{kind}Config")(num_labels=1000, **options)
        return getattr(transformers, f"{kind}ForImageClassification")(settings)

    return Peer("transformers", make, config)


def of_pytorchvideo(name: str) -> Peer:
    def make() -> nn.Module:
        model = getattr(pytorchvideo.models.hub, name)(pretrained=False, model_num_class=400)
        head = model.blocks[-1]  # its pool is of a fixed size, for larger clips
        head.pool, head.activation = nn.AdaptiveAvgPool3d(1), None
        return model

    return Peer("pytorchvideo", make, {"name": name, "heads": [LOGITS]}, (1, 3, 8, 64, 64))


def of_lukemelas(theirs: str, /, **config: Any) -> Peer:
    make = efficientnet_pytorch.EfficientNet.from_name
    return Peer("lukemelas", lambda: make(theirs, image_size=64), config)  # its padding is for one size


def of_vision_transformer() -> Peer:
    """One with a convolutional stem, which torchvision has no name for."""
    stem = torchvision.models.vision_transformer.ConvStemConfig
    layers = [stem(out_channels=16, kernel_size=3, stride=4), stem(out_channels=24, kernel_size=3, stride=2)]
    sizes = {
        "image_size": 32,
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 32,
        "mlp_dim": 48,
    }

    def make() -> nn.Module:
        return torchvision.models.VisionTransformer(**sizes, conv_stem_configs=layers)

    ours = [{"out_channels": o, "kernel": 3, "stride": s} for o, s in ((16, 4), (24, 2))]
    return Peer(
        "torchvision",
        make,
        {"name": "vision_transformer", **sizes, "conv_stem_layers": ours},
        (2, 3, 32, 32),
    )


CLASSES = {"num_classes": 1000}
CONV_HEAD = {
    "name": "fully_connected",
    "unique_id": "class",
    "num_classes": 1000,
    "conv_planes": 1024,
    "activation": "silu",
    "fork_block": "trunk_output",
}
CLIP = (1, 3, 4, 32, 32)
BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
SE = {"use_se": True}

PEERS: dict[str, Peer] = {
    "resnet18": of_torchvision("resnet18", name="resnet18"),
    "resnet50": of_torchvision("resnet50", name="resnet50"),
    "resnext50_32x4d": of_torchvision("resnext50_32x4d", name="resnext50_32x4d"),
    "wide_resnet50_2": of_torchvision("wide_resnet50_2", name="wide_resnet50_2"),
    "timm seresnext50_32x4d": of_timm("seresnext50_32x4d", name="resnext50_32x4d", **SE),
    "timm resnet34": of_timm("resnet34", name="resnet34"),
    "hf resnet50": of_transformers("ResNet", {"name": "resnet50"}),
    "hf resnet18": of_transformers("ResNet", {"name": "resnet18"}, **BASIC),
    "densenet121": of_torchvision("densenet121", name="densenet121"),
    "timm densenet161": of_timm("densenet161", name="densenet161"),
    "efficientnet_b0": of_torchvision("efficientnet_b0", name="efficientnet_b0", bn_epsilon=1e-5),
    "efficientnet_b5": of_torchvision("efficientnet_b5", (1, 3, 32, 32), name="efficientnet_b5"),
    "mobilenet_v2": of_torchvision("mobilenet_v2", (1, 3, 32, 32), name="mobilenet_v2"),
    "mobilenet_v3_small": of_torchvision("mobilenet_v3_small", name="mobilenet_v3_small"),
    "timm mixnet_s": of_timm("mixnet_s", name="mixnet_s"),
    "timm mobilenetv4_hybrid_medium": of_timm("mobilenetv4_hybrid_medium", name="mobilenet_v4_hybrid_medium"),
    "timm tf_efficientnetv2_b0": of_timm("tf_efficientnetv2_b0", name="efficientnet_v2_b0", padding="same"),
    "timm efficientnet_b0": of_timm("efficientnet_b0", name="efficientnet_b0", bn_epsilon=1e-5),
    "timm tf_efficientnet_b0": of_timm("tf_efficientnet_b0", name="efficientnet_b0", padding="same"),
    "efficientnet-b1": of_lukemelas("efficientnet-b1", name="efficientnet_b1", padding="same"),
    "hf efficientnet-b0": of_transformers(
        "EfficientNet",
        {"name": "efficientnet_b0", "padding": "same"},
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
    ),
    "regnet_y_400mf": of_torchvision("regnet_y_400mf", name="regnet_y_400mf"),
    "regnet_x_400mf": of_torchvision("regnet_x_400mf", name="regnet_x_400mf", width_rounding="torchvision"),
    "regnet_y_800mf": of_torchvision("regnet_y_800mf", name="regnet_y_800mf", width_rounding="torchvision"),
    "regnet_y_8gf": of_torchvision("regnet_y_8gf", name="regnet_y_8gf", width_rounding="torchvision"),
    "timm regnetx_008": of_timm("regnetx_008", name="regnet_x_800mf"),
    "timm regnetz_005": of_timm("regnetz_005", name="regnet_z_500mf", heads=[CONV_HEAD]),
    "timm regnetz_040": of_timm("regnetz_040", name="regnet_z_4gf", final_activation=True),
    "hf regnet-y-400mf": of_transformers(
        "RegNet",
        {"name": "regnet_y_400mf"},
        hidden_sizes=[48, 104, 208, 440],
        depths=[1, 3, 6, 6],
        groups_width=8,
    ),
    "hf regnet-x-400mf": of_transformers(
        "RegNet",
        {"name": "regnet_x_400mf"},
        hidden_sizes=[32, 64, 160, 384],
        depths=[1, 2, 7, 12],
        groups_width=16,
        layer_type="x",
    ),
    "vit_b_32": of_torchvision("vit_b_32", (1, 3, 224, 224), name="vit_b_32"),
    "vit with a convolutional stem": of_vision_transformer(),
    "r3d_18": of_torchvision("r3d_18", CLIP, name="r3d_18", heads=[LOGITS]),
    "mc3_18": of_torchvision("mc3_18", CLIP, name="mc3_18", heads=[LOGITS]),
    "r2plus1d_18": of_torchvision("r2plus1d_18", CLIP, name="r2plus1d_18", heads=[LOGITS]),
    **{f"ptv {name}": of_pytorchvideo(name) for name in ("slow_r50", "c2d_r50", "i3d_r50", "csn_r101")},
}


def with_weights(model: nn.Module) -> nn.Module:
    """Random weights and statistics that let the input through and show every mistake."""
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dim() > 1:
            value.normal_(0, (1.4 / value[0].numel()) ** 0.5, generator=generator)
        elif key.endswith("weight"):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0, 0.1, generator=generator)
    return model.double().eval()


def answer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(x)
    return output if isinstance(output, Tensor) else output.logits
