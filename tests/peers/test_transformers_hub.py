"""Repositories that transformers wrote, by ``hf-hub:``: its ``config.json`` says what tensors do not show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

from classy_vision.identify.networks import load_model
from tests.peers.test_transformers_trunks import images, scramble
from tests.weights.hub import serve

COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
SIZES = {**COMMON, "intermediate_size": 48}
TOWERS = {"text_config": {**SIZES, "vocab_size": 16, "projection_size": 32}, "vision_config": SIZES}
REGISTERS = {"num_register_tokens": 2}
MODELS: dict[str, Any] = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SIZES, num_labels=5)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**COMMON, mlp_ratio=2)),
    "dinov2, gated": lambda: Dinov2Model(Dinov2Config(**COMMON, use_swiglu_ffn=True)),
    "registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**COMMON, **REGISTERS)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**SIZES, **REGISTERS)),
    "dinov3, gated": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(**SIZES, **REGISTERS, use_gated_mlp=True, hidden_act="silu")
    ),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SIZES)),
    "siglip with texts": lambda: SiglipModel(SiglipConfig(**TOWERS)),
    "aimv2": lambda: Aimv2VisionModel(Aimv2VisionConfig(**SIZES, use_head=False)),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    repository = tmp_path / "hub" / "someone" / "theirs"
    repository.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path / "hub") as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield repository


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_repository(name: str, hub: Path) -> None:
    theirs = scramble(MODELS[name]())
    theirs.save_pretrained(hub)
    ours = load_model("hf-hub:someone/theirs").double().eval()
    x = images(32, 32)
    if name == "vit":
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=0, atol=1e-9)
        return
    tower = theirs.vision_model if name == "siglip with texts" else theirs
    wanted = tower(x).last_hidden_state
    # Their angles, and their norms by root mean square, are computed in single precision, as is here the sum of
    # a class token and its position.
    bound = 2e-6 if name.startswith(("dinov3", "aimv2", "registers")) else 1e-9
    torch.testing.assert_close(ours.features(x, ["ln"])["ln"], wanted, rtol=0, atol=bound)
    if name.startswith("siglip"):
        torch.testing.assert_close(ours(x), tower(x).pooler_output, rtol=0, atol=bound)


@pytest.mark.parametrize("name", ["siglip_vision_model", "aimv2_vision_model", "dinov2", "dinov3_vit", "vit"])
def test_defaults_are_theirs(name: str) -> None:
    from transformers import AutoConfig

    from classy_vision.models.vision_transformer.transformers_config import read_transformers_config

    more = {"use_head": False} if name.startswith("aimv2") else {}
    whole = json.loads(AutoConfig.for_model(name, **more).to_json_string(use_diff=False))
    assert read_transformers_config({"model_type": name, **more}) == read_transformers_config(whole)
