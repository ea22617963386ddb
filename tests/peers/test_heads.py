"""Our heads are those of segmentation_models_pytorch, timm and transformers, number by number."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    DPTConfig,
    DPTForDepthEstimation,
    DPTForSemanticSegmentation,
    SiglipVisionConfig,
    SiglipVisionModel,
    VJEPA2Config,
)
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

from classy_vision.heads import AttentionPoolHead, ClassyHead, DPTHead, PyramidHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.trunk.loading import load_weights
from classy_vision.trunk.saving import to_layout
from tests.peers.models import with_weights

BOUND = 1e-9


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def filled(module: nn.Module) -> Any:
    """``module`` in float64 with random weights, in evaluation."""
    torch.manual_seed(0)
    return with_weights(module)


def same(given: Tensor, wanted: Tensor) -> None:
    assert given.shape == wanted.shape
    assert (given - wanted).abs().max() <= BOUND * wanted.abs().max()


# -- pyramid: segmentation_models_pytorch's FPN, where the sizes of maps halve exactly

SIZES = {4: 24, 8: 12, 16: 6, 32: 3}


def fpn_names(level: int, doublings: int) -> dict[str, str]:
    """{theirs: ours} of a level of theirs, whose number falls with the stride, p5 to p2."""
    number = level + 2
    lateral = "p5" if number == 5 else f"p{number}.skip_conv"
    names = {f"decoder.{lateral}": f"laterals.{level}"}
    for layer in range(max(1, doublings)):
        block = f"decoder.seg_blocks.{3 - level}.block.{layer}.block"
        names |= {f"{block}.0": f"branches.{level}.layers.{layer}.conv"}
        names |= {f"{block}.1": f"branches.{level}.layers.{layer}.norm"}
    return names


@pytest.mark.parametrize("merge", ["add", "cat"])
def test_pyramid_is_the_fpn_of_segmentation_models(merge: str) -> None:
    channels = (8, 12, 16, 20)
    decoder = FPNDecoder((3, 4, *channels), 5, 32, 64, 0.2, merge)
    head = smp.base.SegmentationHead(decoder.out_channels, 5, 1, upsampling=4)
    theirs = filled(nn.ModuleDict({"decoder": decoder, "head": head}))
    ours: Any = PyramidHead(
        "a", 5, channels, width=32, branch_width=64, merge=merge, upsample=4, align_corners=True
    )
    ours.double().eval()
    names = {a: b for level in range(4) for a, b in fpn_names(level, level).items()} | {"head.0": "project"}
    state = theirs.state_dict()
    renamed = {
        f"{b}.{part}": state[f"{a}.{part}"]
        for a, b in names.items()
        for part in ("weight", "bias")
        if f"{a}.{part}" in state
    }
    assert len(renamed) == len(state)
    if merge == "cat":  # theirs has the coarsest level first
        renamed["project.weight"] = torch.cat(renamed["project.weight"].chunk(4, 1)[::-1], 1)
    ours.load_state_dict(renamed)
    maps = [random(2, c, size, size, seed=size) for c, size in zip(channels, SIZES.values())]
    wanted = theirs["head"](theirs["decoder"](maps))
    assert wanted.shape == (2, 5, 96, 96)
    same(ours(*maps), wanted)


# -- attention_pool


def loaded(theirs: nn.Module, layout: str, prefix: str = "", **options: Any) -> ClassyHead:
    ours = AttentionPoolHead("a", in_plane=32, num_heads=4, **options).double().eval()
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    ours.load_published(state)
    twin = AttentionPoolHead("a", in_plane=32, num_heads=4, **options).double().eval()
    twin.load_published({"other.weight": torch.zeros(1), **state}, layout)
    same(twin(random(2, 9, 32)), ours(random(2, 9, 32)))
    return ours


def test_attention_pool_is_that_of_timm() -> None:
    norm = partial(nn.LayerNorm, eps=1e-6)
    theirs = filled(AttentionPoolLatent(32, num_heads=4, mlp_ratio=2, norm_layer=norm))
    x = random(3, 9, 32)
    same(loaded(theirs, "timm", "attn_pool.", mlp_ratio=2.0)(x), theirs(x))


def test_attention_pool_is_that_of_siglip() -> None:
    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    theirs = filled(SiglipVisionModel(config))
    head = next(m for m in theirs.modules() if type(m).__name__ == "SiglipMultiheadAttentionPoolingHead")
    x = random(3, 9, 32)
    for prefix in ("vision_model.head.", "head."):
        ours = loaded(head, "transformers_siglip", prefix, mlp_ratio=1.5, activation="gelu_tanh")
        same(ours(x), head(x))


@pytest.mark.parametrize("depth", [1, 4])
def test_attention_pool_is_that_of_v_jepa_2(depth: int) -> None:
    config = VJEPA2Config(
        hidden_size=32, num_attention_heads=4, num_pooler_layers=depth - 1, attn_implementation="sdpa"
    )
    parts = {"pooler": VJEPA2AttentivePooler(config), "classifier": nn.Linear(32, 7)}
    theirs = filled(nn.ModuleDict(parts))
    options = {"style": "vjepa2", "depth": depth, "num_classes": 7}
    x = random(3, 9, 32)
    ours = loaded(theirs, "transformers_vjepa2", **options)
    same(ours(x), theirs["classifier"](theirs["pooler"](x)))


# -- models: trunk and head from one file

TRUNK = {
    "name": "vision_transformer",
    "image_size": 42,
    "patch_size": 14,
    "num_layers": 5,
    "num_heads": 4,
    "hidden_dim": 32,
    "mlp_dim": 64,
    "layer_norm_eps": 1e-6,
    "layer_scale": 1e-5,
    "pos_embed_resize": "bicubic",
}
LAYERS = [1, 2, 3, 4]
DINOV2 = {
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": 42,
    "patch_size": 14,
}


def ours_for(trunk: dict[str, Any], **head: Any) -> ClassyModel:
    torch.manual_seed(1)
    return build_model({**trunk, "heads": [{"unique_id": "head", **head}]}).double().eval()


def published_file(theirs: nn.Module, path: Path) -> Path:
    """A file as it is published: by the names of before transformers 5, which are still on the hub."""
    old = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    state = {}
    for key, value in theirs.state_dict().items():
        for new, name in {**old, "o_proj": "output.dense"}.items():
            key = key.replace(f"attention.{new}.", f"attention.{name}.")
        state[key] = value.contiguous()
    save_file(state, path)
    return path


def depth_model(readout: str, more: dict[str, Any]) -> Any:
    more = dict(more)
    reads = {"out_indices": [2, 3, 4, 5], "reshape_hidden_states": False}
    backbone = Dinov2Config(**DINOV2, **reads, **more.pop("backbone", {}))
    sizes = [8, 12, 16, 20]
    config = DPTConfig(
        backbone_config=backbone, readout_type=readout, neck_hidden_sizes=sizes, fusion_hidden_size=256, **more
    )
    return filled(DPTForDepthEstimation(config))


@pytest.mark.parametrize(
    ("readout", "more", "options"),
    [
        ("project", {"add_projection": True, "use_bias_in_fusion_residual": False,
                     "backbone": {"apply_layernorm": False}},
         {"projection": True, "residual_bias": False, "trunk_norm": False}),
        ("project", {}, {}),
        ("add", {"use_batch_norm_in_fusion_residual": True}, {"norm": "batch"}),
        ("ignore", {}, {}),
    ],
    ids=["dinov2", "project", "add", "ignore"],
)  # fmt: skip
def test_dpt_on_dinov2(readout: str, more: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    theirs = depth_model(readout, more)
    head = {"name": "dpt", "num_classes": 1, "output": "depth", "channels": [8, 12, 16, 20], "readout": readout}
    ours = ours_for(TRUNK, fork_block=[f"layer_{k}" for k in LAYERS], **head, **options)
    report = load_weights(ours, published_file(theirs, tmp_path / "model.safetensors"))
    assert report.layout == "transformers_dinov2"
    x = random(2, 3, 42, 42)
    with torch.no_grad():
        same(ours(x)[:, 0], theirs(x).predicted_depth)
        wide = random(2, 3, 28, 70)  # positions are resized in float32 there
        torch.testing.assert_close(ours(wide)[:, 0], theirs(wide).predicted_depth, rtol=1e-4, atol=1e-5)
    back = {key: value.clone() for key, value in to_layout(ours, "transformers_dinov2").items()}
    for parameter in ours.parameters():
        parameter.data.zero_()
    load_weights(ours, back)
    with torch.no_grad():
        same(ours(x)[:, 0], theirs(x).predicted_depth)


def test_dpt_for_segmentation() -> None:
    config = DPTConfig(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=64, image_size=42,
        patch_size=14, backbone_out_indices=LAYERS, neck_hidden_sizes=[8, 12, 16, 20], fusion_hidden_size=24,
        num_labels=6, is_hybrid=False,
    )  # fmt: skip
    theirs = filled(DPTForSemanticSegmentation(config))
    trunk = {**TRUNK, "layer_scale": None, "layer_norm_eps": config.layer_norm_eps}
    head = {"name": "dpt", "num_classes": 6, "channels": [8, 12, 16, 20], "width": 24, "readout": "project"}
    ours = ours_for(trunk, fork_block=[f"layer_{k}" for k in LAYERS], trunk_norm=False, **head)
    report = load_weights(ours, theirs.state_dict())
    assert report.layout == "transformers"
    x = random(2, 3, 42, 42)
    with torch.no_grad():
        same(ours(x), theirs(x).logits)
    twin = DPTHead("b", 6, (32,) * 4, (14,) * 4, (8, 12, 16, 20), 24, readout="project").double().eval()
    twin.load_published(theirs.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(twin.parameters(), ours.get_heads().popitem()[1][0].parameters())
    )


@pytest.mark.parametrize("name", ["fully_connected", "concat"])
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2_s_linear_classifier(name: str, swiglu: bool, tmp_path: Path) -> None:
    config = Dinov2Config(**DINOV2, use_swiglu_ffn=swiglu, num_labels=5)
    theirs = filled(Dinov2ForImageClassification(config))
    gated = {"activation": "swiglu", "mlp_dim": 48} if swiglu else {}
    ours = ours_for({**TRUNK, **gated}, name=name, num_classes=5, fork_block="ln", pooling="token_and_mean")
    load_weights(ours, published_file(theirs, tmp_path / "model.safetensors"))
    x = random(2, 3, 42, 42)
    with torch.no_grad():
        same(ours(x), theirs(x).logits)
