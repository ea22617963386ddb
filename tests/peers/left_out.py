"""Writes what timm and torchvision have and we do not, and why: python -m tests.peers.left_out

A row per family of theirs, from the catalogue that ``tests.peers.catalogue`` wrote.
"""

from __future__ import annotations

import json
from typing import Any

import timm
import torch
import torchvision.models
from timm.models import model_entrypoint

from classy_vision.weights.catalogue import DATA, names

REASONS = {  # of single architectures in families that are here
    "vit_base_patch16_rpn_224": "a norm after each branch",
    "vit_dpwee_patch16_reg1_gap_256": "differential attention and an MLP side by side",
    "vit_pwee_patch16_reg1_gap_256": "attention and an MLP side by side",
    "densenetblur121d": "a stem of three convolutions, and blurred pooling",
    "ecaresnet50d_pruned": "pruned: every block has widths of its own",
    "ecaresnet101d_pruned": "pruned: every block has widths of its own",
    "senet154": "shortcuts of 3x3 convolutions, and narrower first convolutions",
    "efficientnet_b1_pruned": "pruned: every block has widths of its own",
    "efficientnet_b2_pruned": "pruned: every block has widths of its own",
    "efficientnet_b3_pruned": "pruned: every block has widths of its own",
    "efficientnet_h_b5": "a first block that moves pixels into channels",
    "efficientnet_x_b5": "a first block that moves pixels into channels",
    "gc_efficientnetv2_rw_t": "global-context attention",
    "mobilenet_edgetpu_v2_m": "grouped convolutions in fused blocks",
    "tf_efficientnet_cc_b0_4e": "convolutions conditioned on the image",
    "tf_efficientnet_cc_b0_8e": "convolutions conditioned on the image",
    "tf_efficientnet_cc_b1_8e": "convolutions conditioned on the image",
    "mobilenetv4_conv_blur_medium": "blurred pooling",
    "regnetv_040": "norms before convolutions (pre-activation)",
    "regnetv_064": "norms before convolutions (pre-activation)",
}
BY_PART = {
    "sapiens2": "layer scales in attention alone, and keys that several heads share",
    "test_": "made for tests",
}


def of_timm() -> dict[str, dict[str, Any]]:
    """By family of timm's: architectures with their numbers of parameters, and how many files."""
    here = {name.partition("/")[2] for name in names()}
    found: dict[str, dict[str, Any]] = {}
    for tag in timm.list_models(pretrained=True):
        architecture = tag.partition(".")[0]
        family = model_entrypoint(architecture).__module__.rpartition(".")[2]
        entry = found.setdefault(family, {"files": 0, "here": 0, "left_out": {}})
        entry["files"] += 1
        entry["here"] += tag in here
        if tag not in here and architecture not in entry["left_out"]:
            entry["left_out"][architecture] = _count(timm.create_model, architecture)
    return found


def of_torchvision() -> dict[str, dict[str, Any]]:
    """The same of its classifiers of images and clips."""
    here = {name.partition("/")[2] for name in names()}
    models = torchvision.models
    found: dict[str, dict[str, Any]] = {}
    for architecture in models.list_models(module=models) + models.list_models(module=models.video):
        family = models.get_model_builder(architecture).__module__.rpartition(".")[2]
        entry = found.setdefault(family, {"files": 0, "here": 0, "left_out": {}})
        tags = [f"{architecture}.{weights.name}" for weights in models.get_model_weights(architecture)]
        entry["files"] += len(tags)
        entry["here"] += sum(tag in here for tag in tags)
        if any(tag not in here for tag in tags):
            build = models.get_model_builder(architecture)
            options = {"init_weights": False} if family in ("googlenet", "inception") else {}
            entry["left_out"][architecture] = _count(build, **options)
    return found


def _count(build: Any, *given: Any, **options: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(*given, **options).parameters())


def explain(family: dict[str, Any]) -> dict[str, Any]:
    """Adds the reasons, where others of the family are here."""
    if not family["here"]:
        return family
    parts = {name: next((part for part in BY_PART if part in name), "") for name in family["left_out"]}
    return {**family, "reasons": {name: BY_PART.get(part) or REASONS[name] for name, part in parts.items()}}


def main() -> None:
    libraries = {"timm": of_timm(), "torchvision": of_torchvision()}
    found = {
        library: {name: explain(family) for name, family in sorted(families.items()) if family["left_out"]}
        for library, families in libraries.items()
    }
    lines = [
        f"  {json.dumps(library)}: {{\n"
        + ",\n".join(f"    {json.dumps(name)}: {json.dumps(family)}" for name, family in families.items())
        + "\n  }"
        for library, families in found.items()
    ]
    (DATA / "left_out.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
