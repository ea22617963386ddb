"""Heads in files of other libraries: trunk and head from one file, or the head alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from classy_vision.config import ConfigError
from classy_vision.heads import AttentionPoolHead, DPTHead, IdentityHead
from classy_vision.models import ClassyModel, build_model, load_weights, save_weights
from tests.models.small import FAMILIES, batch

VIT = {**FAMILIES["vision_transformer"][0], "layer_scale": 1.0}
DPT = {"name": "dpt", "num_classes": 2, "width": 8, "channels": 4, "readout": "project"}
LAYERS = ["layer_0", "layer_1", "layer_2", "ln"]
# layout, head, some of their names
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "dpt": (
        "transformers_dinov2",
        {**DPT, "fork_block": LAYERS},
        [
            "dinov2.encoder.layer.2.attention.attention.query.weight",
            "neck.reassemble_stage.readout_projects.3.0.weight",
            "neck.fusion_stage.layers.1.residual_layer1.convolution2.bias",
            "head.head.4.weight",
        ],
    ),
    "concat": (
        "transformers_dinov2",
        {"name": "concat", "num_classes": 2, "fork_block": "ln", "pooling": "token_and_mean"},
        ["classifier.weight", "dinov2.layernorm.weight"],
    ),
    "attention_pool": (
        "timm",
        {"name": "attention_pool", "fork_block": "ln"},
        ["attn_pool.latent", "attn_pool.q.bias", "attn_pool.kv.weight", "attn_pool.mlp.fc1.weight"],
    ),
}


def model_of(head: dict[str, Any], seed: int) -> ClassyModel:
    torch.manual_seed(seed)
    return build_model({**VIT, "heads": [{"unique_id": "a", **head}]}).eval()


@pytest.mark.parametrize("name", CASES)
def test_trunk_and_head_in_one_file(name: str, tmp_path: Path) -> None:
    layout, head, names = CASES[name]
    model, twin, file = model_of(head, 0), model_of(head, 1), tmp_path / "model.safetensors"
    save_weights(model, file, layout=layout)
    assert set(names) <= load_file(file).keys()
    assert load_weights(twin, file).layout == layout
    torch.testing.assert_close(twin(batch()), model(batch()), rtol=0, atol=0)


def test_a_file_for_two_heads_is_for_none(tmp_path: Path) -> None:
    layout, head, _ = CASES["dpt"]
    model = model_of(head, 0)
    save_weights(model, tmp_path / "model.safetensors", layout=layout)
    both = build_model({**VIT, "heads": [{**head, "unique_id": name} for name in "ab"]})
    with pytest.raises(ConfigError, match="no place in this VisionTransformer"):
        load_weights(both, tmp_path / "model.safetensors")


def test_a_head_alone_takes_its_part() -> None:
    layout, *_ = CASES["attention_pool"]
    theirs = AttentionPoolHead("a", None, 16)
    state = {f"attn_pool.{name}": value for name, value in {
        "latent": theirs.pool.query, "q.weight": theirs.pool.in_proj_weight[:16],
        "kv.weight": theirs.pool.in_proj_weight[16:], "q.bias": theirs.pool.in_proj_bias[:16],
        "kv.bias": theirs.pool.in_proj_bias[16:],
        **{k.removeprefix("pool."): v for k, v in theirs.state_dict().items() if "in_proj" not in k},
    }.items() if name != "query"}  # fmt: skip
    ours = AttentionPoolHead("a", 3, 16)
    before = ours.fc.weight.clone()
    ours.load_published({"blocks.0.norm1.weight": torch.zeros(4), **state}, layout)
    assert all(torch.equal(a, b) for a, b in zip(ours.pool.parameters(), theirs.pool.parameters(), strict=True))
    assert torch.equal(ours.fc.weight, before)
    kept = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ConfigError, match="head 'a': 1 key .pool.query. of 11 are not in the state"):
        ours.load_published({k: torch.ones_like(v) for k, v in state.items() if "latent" not in k})
    with pytest.raises(ConfigError, match=r"'pool.query' is \(1, 1, 16\), and in the state \(1, 1, 8\)"):
        ours.load_published({**state, "attn_pool.latent": torch.zeros(1, 1, 8)})
    with pytest.raises(ConfigError, match="unknown layout 'tim'; did you mean 'timm'"):
        ours.load_published(state, "tim")
    assert all(torch.equal(value, kept[key]) for key, value in ours.state_dict().items())


def test_heads_without_layers_or_layouts() -> None:
    with pytest.raises(ConfigError, match="head 'a' has no weights: attach it first, or say its in_plane"):
        DPTHead("a", 2).load_published({})
    with pytest.raises(ConfigError, match="has no weights"):
        IdentityHead("a").load_published({})
