"""Trunks of today in the layouts of transformers: DINOv3 and SigLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel, SiglipVisionConfig, SiglipVisionModel

from classy_vision.models import ClassyModel, build_model, load_weights, save_weights
from classy_vision.weights.files import read_tensors

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
OURS = {"name": "vision_transformer", "num_layers": 2, "hidden_dim": 32, "num_heads": 2, "mlp_dim": 48}


def scramble(model: nn.Module) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def ours_with(theirs: nn.Module, layout: str, folder: Path, **options: Any) -> ClassyModel:
    """Ours with the weights of theirs, which theirs takes back strictly."""
    ours = build_model({**OURS, **options}).double().eval()
    load_weights(ours, theirs.state_dict(), layout=layout)
    save_weights(ours, folder / "theirs.safetensors", layout=layout)
    # Files of SigLIP have the tower in a larger model.
    read = read_tensors(folder / "theirs.safetensors")
    back = {key.removeprefix("vision_model."): value for key, value in read.items()}
    result = theirs.load_state_dict(back, strict=False)
    assert {key.rpartition(".")[2] for key in result.missing_keys} <= {"mask_token"}
    assert not result.unexpected_keys
    return ours


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_dinov3(gated: bool, tmp_path: Path) -> None:
    options = {"use_gated_mlp": gated, "hidden_act": "silu" if gated else "gelu"}
    config = DINOv3ViTConfig(**SIZES, patch_size=8, image_size=32, num_register_tokens=3, **options)
    theirs = scramble(DINOv3ViTModel(config))
    ours = ours_with(
        theirs,
        "transformers_dinov3",
        tmp_path,
        image_size=32,
        patch_size=8,
        num_register_tokens=3,
        pos_embed=False,
        layer_scale=1.0,
        layer_norm_eps=config.layer_norm_eps,
        qkv_bias="qv",
        activation="swiglu" if gated else "gelu",
        rotary={"kind": "centered", "temperature": config.rope_theta, "halves": True},
    )
    for x in (images(32, 32), images(48, 24)):
        # transformers computes angles in single precision.
        wanted = theirs(x).last_hidden_state
        torch.testing.assert_close(ours.features(x, ["ln"])["ln"], wanted, rtol=0, atol=2e-6)


@torch.no_grad()
def test_siglip(tmp_path: Path) -> None:
    theirs = scramble(SiglipVisionModel(SiglipVisionConfig(**SIZES, patch_size=8, image_size=32)))
    ours = ours_with(
        theirs,
        "transformers_siglip",
        tmp_path,
        image_size=32,
        patch_size=8,
        class_token=False,
        classifier="attention",
        activation="gelu_tanh",
    )
    x = images(32, 32)
    wanted = theirs(x)
    torch.testing.assert_close(ours.features(x, ["ln"])["ln"], wanted.last_hidden_state, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours(x), wanted.pooler_output, rtol=0, atol=1e-9)
