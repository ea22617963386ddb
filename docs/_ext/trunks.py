"""Which trunk for which need: names that load here, with what is published of them and what they cost.

``trunks.json`` has their multiply-adds at the size of their preprocessing: ``python -m docs._ext.trunks``
counts them anew. ``milliseconds.json`` has what one image or clip takes: ``python -m benchmarks.trunks``
measures it.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

from classy_vision.weights.catalogue import published
from classy_vision.weights.licenses import find_restriction

from .markdown import code, table

FILE = Path(__file__).with_name("trunks.json")
MILLISECONDS = FILE.with_name("milliseconds.json")

NEEDS = {
    "Fine-tuning on images, small": (
        "timm/efficientnet_b0.ra4_e3600_r224_in1k",
        "torchvision/regnet_y_800mf.IMAGENET1K_V2",
        "timm/tf_efficientnet_b2.ns_jft_in1k",
        "torchvision/regnet_y_1_6gf.IMAGENET1K_V2",
        "timm/vit_wee_patch16_reg1_gap_256.sbb_in1k",
    ),
    "Fine-tuning on images, medium": (
        "torchvision/resnet50.IMAGENET1K_V2",
        "timm/regnety_032.ra_in1k",
        "timm/regnetz_040.ra3_in1k",
        "timm/deit3_small_patch16_224.fb_in22k_ft_in1k",
        "timm/vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k",
        "timm/vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k",
    ),
    "Fine-tuning on images, large": (
        "timm/regnety_160.sw_in12k_ft_in1k",
        "timm/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
        "timm/vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k",
        "timm/vit_large_patch14_clip_224.openai_ft_in12k_in1k",
        "timm/eva_large_patch14_196.in22k_ft_in22k_in1k",
        "timm/eva02_large_patch14_448.mim_m38m_ft_in22k_in1k",
    ),
    "Segmentation, depth and other dense tasks": (
        "timm/regnety_032.ra_in1k",
        "timm/vit_small_patch14_reg4_dinov2.lvd142m",
        "timm/vit_base_patch14_reg4_dinov2.lvd142m",
        "timm/vit_base_patch14_reg1_tipsv2.webli",
        "timm/vit_pe_spatial_base_patch16_512.fb",
        "timm/vit_small_patch16_dinov3.lvd1689m",
        "timm/vit_base_patch16_dinov3.lvd1689m",
    ),
    "Features for retrieval and zero-shot use": (
        "timm/vit_base_patch16_siglip_224.v2_webli",
        "timm/vit_so400m_patch14_siglip_378.v2_webli",
        "timm/vit_base_patch16_clip_224.laion2b",
        "timm/vit_pe_core_base_patch16_224.fb",
        "timm/vit_small_patch14_reg4_dinov2.lvd142m",
    ),
    "Phones and CPUs": (
        "timm/lcnet_100.ra2_in1k",
        "timm/mobilenetv4_conv_small.e2400_r224_in1k",
        "timm/mobilenetv3_large_100.miil_in21k_ft_in1k",
        "timm/efficientnet_lite0.ra_in1k",
        "timm/efficientnet_es.ra_in1k",
        "timm/mobilenetv4_conv_medium.e500_r256_in1k",
        "torchvision/regnet_x_400mf.IMAGENET1K_V2",
    ),
    "Clips": (
        "torchvision/mc3_18.KINETICS400_V1",
        "torchvision/r3d_18.KINETICS400_V1",
        "torchvision/r2plus1d_18.KINETICS400_V1",
        "hf-hub:MCG-NJU/videomae-small-finetuned-kinetics",
        "hf-hub:MCG-NJU/videomae-base-finetuned-kinetics",
        "hf-hub:MCG-NJU/videomae-large-finetuned-kinetics",
        "hf-hub:facebook/vjepa2-vitl-fpc64-256",
    ),
}


@cache
def macs() -> dict[str, int]:
    """The multiply-adds of each name, for one image or clip."""
    found: dict[str, int] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


@cache
def milliseconds() -> dict[str, dict[str, float]]:
    """What one image or clip of each name takes, by engine."""
    found: dict[str, dict[str, float]] = json.loads(MILLISECONDS.read_text(encoding="utf-8"))
    return found


def advise(need: str) -> str:
    """A table of the names for a need."""
    headings = ("name", "M params:", "GMACs:", "pixels:", "ms torch:", "ms OpenVINO:", "top-1:", "license")
    return table(headings, map(_describe, NEEDS[need]))


def _describe(name: str) -> tuple[str, ...]:
    entry = published(name)
    clip, side = entry.preprocessing.clip, str(entry.preprocessing.image_size)
    mark, times = "" if find_restriction(entry.license) is None else " ⚠", milliseconds().get(name, {})
    return (
        code(name),
        f"{entry.params / 1e6:.1f}",
        f"{macs()[name] / 1e9:.2f}",
        side if clip is None else f"{clip['frames']} × {side}",
        *(f"{times[engine]:g}" if engine in times else "" for engine in ("plain", "openvino")),
        "" if entry.top1 is None else f"{entry.top1:.1f}",
        f"{entry.license}{mark}",
    )


def count(name: str) -> int:
    """Counts the multiply-adds of a name, at the size of its preprocessing."""
    from classy_vision.cost import OnMeta
    from classy_vision.cost import count as count_model
    from classy_vision.models import build_model
    from classy_vision.weights.licenses import LicenseWarning

    size = published(name).preprocessing.image_size
    with OnMeta(), warnings.catch_warnings():
        warnings.simplefilter("ignore", LicenseWarning)
        model = build_model(name).eval()
    shape = (*model.input_shape[:-2], size, size)
    return int(count_model(model, shape).running.macs)


def draw(file: Path) -> None:
    """Draws published accuracy against milliseconds, of the names for images that have both."""
    from classy_vision.models import MODELS
    from classy_vision.study.figure import save
    from classy_vision.study.pareto import Axes
    from classy_vision.study.row import Row
    from classy_vision.study.scatter import draw_scatter

    entries = {name: published(name) for name in sorted(milliseconds())}
    rows = [
        Row(
            name,
            latency=milliseconds()[name]["openvino"],
            accuracies={"top-1": entry.top1 / 100},
            group=MODELS[str(entry.config["name"])].family,
        )
        for name, entry in entries.items()
        if entry.top1 is not None and name not in NEEDS["Clips"]
    ]
    save(draw_scatter(rows, Axes("latency", "accuracy")), file)


if __name__ == "__main__":
    draw(FILE.parents[1] / "_static" / "which-trunk-milliseconds.svg")
    every = sorted({name for chosen in NEEDS.values() for name in chosen})
    lines = (f"  {json.dumps(name)}: {count(name)}" for name in every)
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
