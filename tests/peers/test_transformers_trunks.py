"""Trunks of today in the layouts of transformers: DINOv2 with registers, DINOv3, SigLIP and AIMv2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.aimv2.modeling_aimv2 import Aimv2RMSNorm

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


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("place", ["dinov2_with_registers.", ""])
@torch.no_grad()
def test_dinov2_with_registers(gated: bool, place: str, tmp_path: Path) -> None:
    more = {"mlp_ratio": 2, "use_swiglu_ffn": gated, "num_register_tokens": 3}
    sizes = {**SIZES, "intermediate_size": None, "image_size": 32, "patch_size": 8, "num_labels": 4}
    config = Dinov2WithRegistersConfig(**sizes, **more)
    whole = scramble(Dinov2WithRegistersForImageClassification(config))
    theirs = whole.dinov2_with_registers
    inner = theirs.state_dict()["encoder.layer.0.mlp.down_proj.weight"].shape[1] if gated else 64
    options: dict[str, Any] = {
        **{"mlp_dim": inner, "image_size": 32, "patch_size": 8, "num_register_tokens": 3},
        **{"pos_embed_prefix": False, "layer_scale": 1.0, "layer_norm_eps": config.layer_norm_eps},
        **{"activation": "swiglu" if gated else "gelu", "pos_embed_resize": "bicubic_antialias"},
    }
    ours = build_model({**OURS, **options}).double().eval()
    state = {f"{place}{key}": value for key, value in theirs.state_dict().items()}
    report = load_weights(ours, state)
    assert report.layout == "transformers_dinov2"
    for x, bound in ((images(32, 32), 1e-9), (images(48, 24), 1e-5)):  # positions are resized in float32 there
        wanted = theirs(x).last_hidden_state
        torch.testing.assert_close(ours.features(x, ["ln"])["ln"], wanted, rtol=0, atol=bound)
    config.save_pretrained(tmp_path)
    save_weights(ours, tmp_path / "model.safetensors", layout="transformers_dinov2")
    kind = Dinov2WithRegistersModel if place else Dinov2WithRegistersForImageClassification
    again, info = kind.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    missing = {key.removeprefix("dinov2_with_registers.") for key in info["missing_keys"]}
    assert missing <= {"embeddings.mask_token", "classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]
    x = images(32, 32)
    again = (again if place else again.dinov2_with_registers).eval()
    wanted = theirs(x).last_hidden_state
    torch.testing.assert_close(again(x).last_hidden_state, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("place", ["vision_model.", ""])
@torch.no_grad()
def test_aimv2(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_own_precision(self: Any, x: Tensor) -> Tensor:  # theirs computes it in single precision
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    monkeypatch.setattr(Aimv2RMSNorm, "forward", in_own_precision)
    config = Aimv2VisionConfig(**SIZES, patch_size=8, image_size=32, use_head=False)
    theirs = scramble(Aimv2VisionModel(config))
    options = {
        **{"image_size": 32, "patch_size": 8, "classifier": "gap", "class_token": False, "patch_norm": True},
        **{"norm_type": "rms", "linear_bias": False, "qkv_bias": False, "activation": "swiglu"},
        "layer_norm_eps": config.rms_norm_eps,
    }
    ours = build_model({**OURS, **options}).double().eval()
    report = load_weights(ours, {f"{place}{key}": value for key, value in theirs.state_dict().items()})
    assert report.layout == "transformers_aimv2"
    x = images(32, 32)
    wanted = theirs(x, output_hidden_states=True)
    torch.testing.assert_close(ours.features(x, ["ln"])["ln"], wanted.last_hidden_state, rtol=0, atol=1e-9)
    first = ours.features(x, ["layer_0"])["layer_0"]
    torch.testing.assert_close(first, wanted.hidden_states[1], rtol=0, atol=1e-9)
    save_weights(ours, tmp_path / "theirs.safetensors", layout="transformers_aimv2")
    theirs.load_state_dict(read_tensors(tmp_path / "theirs.safetensors"))


@torch.no_grad()
def test_siglip2_beside_its_text_tower() -> None:
    """Files of a fixed size have the layout of SigLIP; the text tower is left out."""
    config = SiglipConfig(
        text_config={**SIZES, "vocab_size": 16, "projection_size": 32},
        vision_config={**SIZES, "patch_size": 8, "image_size": 32},
    )
    theirs = scramble(SiglipModel(config))
    options = {"image_size": 32, "patch_size": 8, "class_token": False, "classifier": "attention"}
    ours = build_model({**OURS, **options, "activation": "gelu_tanh"}).double().eval()
    report = load_weights(ours, theirs.state_dict())
    assert report.layout == "transformers_siglip"
    assert all(key.startswith(("text_model.", "logit_")) for key in report.dropped)
    x = images(32, 32)
    wanted = theirs.vision_model(x).pooler_output
    torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-9)
