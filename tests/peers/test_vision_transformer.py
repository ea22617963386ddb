"""Our vision transformers are timm's, architecture by architecture and number by number."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from classy_vision.models import ClassyModel, build_model, load_weights, save_weights
from classy_vision.weights.files import read_tensors
from classy_vision.weights.layout import CLASSIFIER, HEAD

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
GELUS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "swiglu"}


def beyond_us(theirs: Any) -> str | None:
    """What of timm's model ours does not have."""
    block = theirs.blocks[0]
    if type(block).__name__ not in ("Block", "EvaBlock", "EvaBlockPostNorm"):
        return f"block {type(block).__name__}"
    if type(block.attn).__name__ not in ("Attention", "DiffAttention", "EvaAttention", "AttentionRope"):
        return f"attention {type(block.attn).__name__}"
    if getattr(block.attn, "gate", None) is not None or getattr(block.attn, "num_kv_heads", None) not in (
        None,
        block.attn.num_heads,
    ):
        return "attention with gates or fewer keys"
    names = {type(module).__name__ for module in theirs.modules()}
    norms = {name for name in names if name.endswith("Norm") and "Block" not in name} - {"RMSNorm"}
    if norms not in ({"RmsNorm"}, {"LayerNorm"}):
        return f"norms {sorted(norms)}"
    return None


def config_of(theirs: Any) -> dict[str, Any]:
    """Our config for timm's model."""
    block, patch = theirs.blocks[0], theirs.patch_embed.patch_size[0]
    if isinstance(theirs.norm, nn.Identity):
        final_norm = "none" if isinstance(theirs.fc_norm, nn.Identity) else "after_pool"
    else:
        final_norm = "before_pool"
    parts = _config_of_parts(theirs)
    return {
        "image_size": [side * patch for side in theirs.patch_embed.grid_size],
        "patch_size": patch,
        "num_layers": len(theirs.blocks),
        "num_heads": block.attn.num_heads,
        "hidden_dim": theirs.embed_dim,
        "mlp_dim": block.mlp.fc2.in_features,
        "classifier": {"token": "token", "avg": "gap", "map": "attention"}[theirs.global_pool],
        "layer_norm_eps": block.norm1.eps,
        "class_token": theirs.cls_token is not None,
        "distillation_token": hasattr(theirs, "dist_token"),
        "num_register_tokens": 0 if theirs.reg_token is None else theirs.reg_token.shape[1],
        "pos_embed_prefix": not theirs.no_embed_class,
        "pos_embed_resize": "bicubic_antialias",
        "patch_bias": theirs.patch_embed.proj.bias is not None,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "attention": "differential" if type(block.attn).__name__ == "DiffAttention" else "softmax",
        "pre_norm": not isinstance(theirs.norm_pre, nn.Identity),
        "final_norm": final_norm,
        **parts,
    }


def _config_of_parts(theirs: Any) -> dict[str, Any]:
    """What differs from ours by default, where timm's classes tell it in different ways."""
    block = theirs.blocks[0]
    attn, mlp = block.attn, block.mlp
    found: dict[str, Any] = {"activation": "swiglu" if hasattr(mlp, "fc1_g") else GELUS[type(mlp.act).__name__]}
    scale = getattr(block, "gamma_1", None) if hasattr(block, "gamma_1") else None
    found["layer_scale"] = (
        block.init_values if scale is not None else getattr(getattr(block, "ls1", None), "init_values", None)
    )
    qkv = getattr(attn, "qkv", None)
    if getattr(attn, "q_bias", None) is not None or (qkv is None and attn.q_proj.bias is not None):
        found["qkv_bias"] = "qv"
    else:
        found["qkv_bias"] = qkv is not None and qkv.bias is not None
    switches = {
        "norm_after": type(block).__name__ == "EvaBlockPostNorm",
        "attention_norm": not isinstance(getattr(attn, "norm", nn.Identity()), nn.Identity),
        "mlp_norm": not isinstance(mlp.norm, nn.Identity),
        "patch_norm": not isinstance(getattr(theirs.patch_embed, "norm", nn.Identity()), nn.Identity),
    }
    found |= {name: True for name, is_on in switches.items() if is_on}
    if attn.proj.bias is None:
        found["linear_bias"] = False
    if type(block.norm1).__name__ == "RmsNorm":
        found["norm_type"] = "rms"
    if theirs.pos_embed is None:
        found["pos_embed"] = False
    if theirs.attn_pool is not None:
        inner = theirs.attn_pool.mlp.fc1.out_features
        found |= (
            {"pool_num_heads": theirs.attn_pool.num_heads}
            if theirs.attn_pool.num_heads != attn.num_heads
            else {}
        )
        found |= {"pool_mlp_dim": inner} if inner != mlp.fc2.in_features else {}
    if (rope := getattr(theirs, "rope", None)) is not None:
        found["rotary"] = _config_of_rotary(theirs, rope)
    return found


def _config_of_rotary(theirs: Any, rope: Any) -> dict[str, Any]:
    kinds = {
        "RotaryEmbeddingCat": "axial",
        "RotaryEmbeddingDinoV3": "centered",
        "RotaryEmbeddingMixed": "mixed",
    }
    grid = getattr(rope, "ref_feat_shape", None)
    found = {
        "kind": kinds[type(rope).__name__],
        "temperature": float(rope.temperature),
        "reference_grid": list(grid) if grid else None,
        "offset": getattr(rope, "grid_offset", 0.0),
        "columns_first": rope.grid_indexing == "xy",
        "halves": bool(getattr(theirs.blocks[0].attn, "rotate_half", False)),
    }
    usual = {"reference_grid": None, "offset": 0.0, "columns_first": False, "halves": False}
    return {key: value for key, value in found.items() if usual.get(key, "") != value}


def ours_for(theirs: Any, **more: Any) -> ClassyModel:
    classes = theirs.num_classes or None
    return build_model({"name": "vision_transformer", **config_of(theirs), **more, "num_classes": classes})


def renamed(theirs: Any, ours: ClassyModel) -> dict[str, Tensor]:
    state = ours.foreign_key_maps()["timm"].load(theirs.state_dict())
    place = next((f"heads.{block}.default_head." for block in ours.get_heads()), "")
    state = {key.replace(CLASSIFIER, f"{HEAD}layers.head"): value for key, value in state.items()}
    return {key.replace(HEAD, place, 1) if key.startswith(HEAD) else key: v for key, v in state.items()}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def architectures() -> list[str]:
    """Timm's plain vision transformers with published weights."""
    places = ("timm.models.vision_transformer", "timm.models.deit", "timm.models.eva")
    names = dict.fromkeys(tag.partition(".")[0] for tag in timm.list_models(pretrained=True))
    return [name for name in names if timm.model_entrypoint(name).__module__ in places]


# Attention and MLP side by side, norms after both with others before, gated attention with fewer keys.
BEYOND_US = re.compile(r"^vit_d?pwee_|_rpn_224$|_sapiens2$")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_architectures_with_published_weights() -> None:
    """Keys, shapes and numbers of parameters, of all but those that ours has no switch for."""
    names = architectures()
    beyond: dict[str, str] = {}
    with torch.device("meta"):
        for name in names:
            theirs = timm.create_model(name, depth=2)
            if reason := beyond_us(theirs):
                beyond[name] = reason
                continue
            ours = ours_for(theirs)
            assert shapes(renamed(theirs, ours)) == shapes(ours.state_dict()), name
            assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    assert set(beyond) == set(filter(BEYOND_US.search, names)), beyond
    assert len(names) - len(beyond) > 180


# One for each mechanism that KNOBS do not have.
NAMES = [
    *("vit_base_patch16_siglip_224", "vit_base_patch32_siglip_256", "eva02_tiny_patch14_224"),
    *("eva02_base_patch14_224", "eva02_base_patch16_clip_224", "vit_small_patch16_dinov3"),
    *("vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3", "vit_small_patch16_rope_224"),
    *("vit_small_patch16_rope_ape_224", "vit_small_patch16_rope_mixed_ape_224", "vit_pe_core_tiny_patch16_384"),
    *("vit_medium_patch16_rope_reg1_gap_256", "vit_pe_spatial_tiny_patch16_512", "test_vit3"),
    *("beit3_base_patch16_224", "aimv2_large_patch14_224", "eva_giant_patch14_clip_224"),
    "eva02_enormous_patch14_clip_224",
]


@pytest.mark.parametrize("size", [(1, 1), (2, 1)], ids=["square", "tall"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_todays_trunks(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Outputs and the features of every layer, and the file of ours at timm."""
    side = 56 if "patch14" in name else 64
    torch.manual_seed(0)
    theirs = timm.create_model(name, depth=2, img_size=(side * size[0], side * size[1]), num_classes=7)
    for key, parameter in theirs.named_parameters():
        if "freqs" not in key:
            nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 0.3)
    theirs = theirs.double().eval()
    ours = ours_for(theirs).double().eval()
    load_weights(ours, theirs.state_dict(), layout="timm")
    x = images(*theirs.patch_embed.img_size)[:1]
    wanted: dict[str, Tensor] = {}
    for i, block in enumerate(theirs.blocks):
        block.register_forward_hook(lambda *args, i=i: wanted.update({f"layer_{i}": args[2]}))
    logits = theirs(x)
    torch.testing.assert_close(ours(x), logits, rtol=0, atol=1e-9 * float(logits.abs().max()))
    for block, feature in ours.features(x, list(wanted)).items():
        scale = float(wanted[block].abs().max())
        torch.testing.assert_close(feature, wanted[block], rtol=0, atol=1e-9 * scale)
    save_weights(ours, tmp_path / "theirs.safetensors", layout="timm")
    theirs.load_state_dict(read_tensors(tmp_path / "theirs.safetensors"))


# -- numbers

KNOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "base model": {"num_classes": 0},
    "gap": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "gap, class token, norm behind it": {"global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "registers without positions": {"reg_tokens": 3, "no_embed_class": True},
    "registers and gap": {"class_token": False, "reg_tokens": 2, "global_pool": "avg", "init_values": 0.3},
    "layer scale": {"init_values": 0.3, "no_embed_class": True},
    "pre-norm, quick GELU": {"pre_norm": True, "act_layer": "quick_gelu"},
    "another epsilon": {"norm_layer": partial(nn.LayerNorm, eps=0.1), "qk_norm": True, "pre_norm": True},
    "GELU by tanh": {"act_layer": "gelu_tanh"},
    "no biases": {"qkv_bias": False},
    "qk norm": {"qk_norm": True},
    "SwiGLU": {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "init_values": 0.3},
    "no final norm": {"final_norm": False, "init_values": 0.3},
    "differential attention": {"attn_layer": "diff"},
    "differential attention, qk norm": {"attn_layer": "diff", "qk_norm": True, "qkv_bias": False},
    "not square": {"img_size": (48, 16)},
}


def scramble(model: nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)


def agree(theirs: Any, ours: ClassyModel, x: Tensor, tolerance: float = 1e-9) -> None:
    ours.load_state_dict(renamed(theirs, ours))
    theirs.double().eval(), ours.double().eval()
    with torch.no_grad():
        wanted = theirs(x)
        assert wanted.std() > 1e-2
        torch.testing.assert_close(ours(x), wanted, rtol=0, atol=tolerance)


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", KNOBS)
def test_numbers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", lambda x: x)  # timm's lambdas are in single precision otherwise
    options = {**SMALL, **KNOBS[case]}
    if "mlp_layer" in options:
        options["mlp_layer"] = getattr(timm.layers, options["mlp_layer"])
    theirs = timm.models.VisionTransformer(**options)
    scramble(theirs)
    agree(theirs, ours_for(theirs), images(*theirs.patch_embed.img_size))


@pytest.mark.parametrize("positions", [18, 16])
def test_two_tokens_with_classifiers(positions: int) -> None:
    theirs = timm.models.deit.VisionTransformerDistilled(**SMALL, no_embed_class=positions == 16)
    theirs.pos_embed = nn.Parameter(torch.empty(1, positions, 32))  # timm makes 18 in any case
    scramble(theirs)
    agree(theirs, ours_for(theirs), images(32, 32))


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2, "no_embed_class": True}, {"reg_tokens": 2}])
@pytest.mark.parametrize("size", [(32, 64), (16, 24)])
def test_other_sizes(options: dict[str, Any], size: tuple[int, int]) -> None:
    theirs = timm.models.VisionTransformer(**SMALL, **options, dynamic_img_size=True)
    scramble(theirs)
    agree(theirs, ours_for(theirs), images(*size), tolerance=1e-4)  # timm resizes in single precision


@pytest.mark.parametrize("how", ["bicubic", "bicubic_antialias", "bilinear", "bilinear_align_corners"])
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2, "no_embed_class": True}])
def test_positions_of_other_grids_are_resized_on_load(how: str, options: dict[str, Any]) -> None:
    mode, _, option = how.partition("_")
    small, large = (timm.models.VisionTransformer(**{**SMALL, **options, "img_size": n}) for n in (32, 56))
    scramble(small)
    fitted = timm.models.vision_transformer.checkpoint_filter_fn(
        small.state_dict(),
        large,
        interpolation=mode,
        antialias=option == "antialias",
        align_corners=True if option == "align_corners" else None,
    )
    ours = ours_for(large, pos_embed_resize=how)
    ours.load_state_dict(renamed(small, ours))
    torch.testing.assert_close(ours.state_dict()["stem.positions"], fitted["pos_embed"], rtol=0, atol=1e-5)
