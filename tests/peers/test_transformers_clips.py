"""Vision transformers over clips beside those of transformers: VideoMAE and V-JEPA 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
)

from classy_vision.identify.identify import identify
from classy_vision.models import ClassyModel, build_model, load_weights, save_weights
from classy_vision.weights.catalogue import names, published

VIDEOMAE: dict[str, Any] = {
    **{"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40},
    **{"decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1},
    **{"decoder_intermediate_size": 8, "patch_size": 8, "num_labels": 5, "attn_implementation": "sdpa"},
}
VJEPA2: dict[str, Any] = {
    **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2.5},
    **{"pred_hidden_size": 8, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
    **{"patch_size": 8, "num_labels": 5, "attn_implementation": "sdpa"},
}
SIZES = [(4, 32, 32), (8, 32, 32), (4, 48, 48)]
"""Frames, height and width."""


def scramble(model: nn.Module) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def clips(frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, frames, height, width, dtype=torch.float64, generator=generator)


def same(given: Tensor, wanted: Tensor) -> None:
    assert wanted.std() > 0.01
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-9)


def written_back(ours: ClassyModel, theirs: Any, folder: Path) -> Any:
    """Theirs, read from a file of ours, with nothing missing and nothing left over."""
    theirs.config.save_pretrained(folder)
    layout = f"transformers_{theirs.config.model_type}"
    save_weights(ours, folder / "model.safetensors", layout=layout)
    back, info = type(theirs).from_pretrained(folder, output_loading_info=True, attn_implementation="sdpa")
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    # What ours leaves out: what predicts masked tokens in pre-training.
    assert all("predictor." in key for key in info["missing_keys"])
    return back.double().eval()


# -- VideoMAE


def videomae(mean_pooling: bool, **options: Any) -> ClassyModel:
    config = {
        **{"patch_size": 8, "num_layers": 3, "hidden_dim": 24, "mlp_dim": 40, "num_heads": 2},
        **{"final_norm": "after_pool" if mean_pooling else "before_pool", "image_size": 32},
    }
    return build_model("videomae_base", **{**config, **options}).double().eval()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_videomae(size: tuple[int, int, int], tmp_path: Path) -> None:
    """One model of ours for all sizes, beside one of theirs for each: theirs takes its own alone."""
    frames, height, _ = size
    config = VideoMAEConfig(**VIDEOMAE, image_size=height, num_frames=frames)
    theirs = scramble(VideoMAEForVideoClassification(config))
    ours = videomae(True, num_classes=5)
    report = load_weights(ours, theirs.state_dict())
    assert (report.layout, report.dropped) == ("transformers_videomae", {})
    x = clips(*size)
    wanted = theirs(x.transpose(1, 2), output_hidden_states=True)
    same(ours(x), wanted.logits)
    blocks = ["stem", *(f"layer_{i}" for i in range(3))]
    for given, hidden in zip(ours.features(x, blocks).values(), wanted.hidden_states, strict=True):
        same(given, hidden)
    back = written_back(ours, theirs, tmp_path)
    assert torch.equal(back(x.transpose(1, 2)).logits, theirs(x.transpose(1, 2)).logits)


@torch.no_grad()
def test_videomae_before_fine_tuning(tmp_path: Path) -> None:
    """The decoder is left out, and the report says so."""
    config = VideoMAEConfig(**VIDEOMAE, image_size=32, num_frames=4, use_mean_pooling=False)
    theirs = scramble(VideoMAEForPreTraining(config))
    ours, x = videomae(False), clips(4, 32, 32)
    report = load_weights(ours, theirs.state_dict())
    assert {key.split(".")[0] for key in report.dropped} == {"decoder", "encoder_to_decoder", "mask_token"}
    same(ours.features(x, ["ln"])["ln"], theirs.videomae(x.transpose(1, 2)).last_hidden_state)
    alone = VideoMAEModel(config).double().eval()
    alone.load_state_dict(theirs.videomae.state_dict())
    load_weights(ours, alone.state_dict())
    back = written_back(ours, alone, tmp_path)
    assert torch.equal(back(x.transpose(1, 2)).last_hidden_state, alone(x.transpose(1, 2)).last_hidden_state)


def test_older_blocksof_biases() -> None:
    """Files on the hub call them q_bias and v_bias, the library does not any more."""
    theirs = scramble(VideoMAEModel(VideoMAEConfig(**VIDEOMAE, image_size=32, num_frames=4)))
    state = {
        f"videomae.{key}".replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for key, value in theirs.state_dict().items()
    }
    ours, other = (videomae(True, final_norm="none") for _ in range(2))
    load_weights(ours, theirs.state_dict())
    load_weights(other, state)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in ours.state_dict().items())


# -- V-JEPA 2


def vjepa2(**options: Any) -> ClassyModel:
    sizes = {"patch_size": 8, "num_layers": 3, "hidden_dim": 32, "mlp_dim": 80, "num_heads": 2}
    config = {**sizes, "image_size": 32, "frames_per_clip": 4}
    return build_model("vjepa2_large", **{**config, **options}).double().eval()


@pytest.mark.parametrize("size", [*SIZES, (1, 32, 32)])
@torch.no_grad()
def test_vjepa2(size: tuple[int, int, int], tmp_path: Path) -> None:
    """Theirs counts positions by the size of image in its config, so that there is one for each."""
    theirs = scramble(VJEPA2Model(VJEPA2Config(**VJEPA2, crop_size=size[1], frames_per_clip=4)))
    ours, x = vjepa2(), clips(*size)
    report = load_weights(ours, theirs.state_dict())
    assert report.layout == "transformers_vjepa2"
    assert {key.split(".")[0] for key in report.dropped} == {"predictor"}
    wanted = theirs(x.transpose(1, 2), skip_predictor=True, output_hidden_states=True)
    blocks = ["stem", *(f"layer_{i}" for i in range(3)), "ln"]
    found = ours.features(x, blocks)
    same(found["ln"], wanted.last_hidden_state)
    for given, hidden in zip(found.values(), wanted.hidden_states):
        same(given, hidden)
    back = written_back(ours, theirs, tmp_path)
    again = back(x.transpose(1, 2), skip_predictor=True).last_hidden_state
    assert torch.equal(again, wanted.last_hidden_state)


@pytest.mark.parametrize("layers", [0, 3])
@torch.no_grad()
def test_classifiers_of_vjepa2(layers: int, tmp_path: Path) -> None:
    config = VJEPA2Config(**VJEPA2, crop_size=32, frames_per_clip=4, num_pooler_layers=layers)
    theirs = scramble(VJEPA2ForVideoClassification(config))
    pool = {"name": "attention_pool", "unique_id": "default_head", "style": "vjepa2", "num_heads": 2}
    ours = vjepa2(heads=[{**pool, "depth": layers + 1, "num_classes": 5, "fork_block": "ln"}])
    report = load_weights(ours, theirs.state_dict())
    assert {key.split(".")[1] for key in report.dropped} == {"predictor"}
    for size in SIZES[:2]:
        same(ours(clips(*size)), theirs(clips(*size).transpose(1, 2)).logits)
    back, x = written_back(ours, theirs, tmp_path), clips(4, 32, 32).transpose(1, 2)
    assert torch.equal(back(x).logits, theirs(x).logits)
    other = vjepa2(num_classes=7)
    report = load_weights(other, theirs.state_dict(), skip_heads="unfit")
    assert report.kept == ("default_head",)


# -- full sizes

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16}
GIANT = {"hidden_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 22, "mlp_ratio": 48 / 11}
FULL: dict[str, tuple[Any, dict[str, Any]]] = {
    "videomae_small": (
        VideoMAEForVideoClassification,
        {"hidden_size": 384, "num_attention_heads": 16, "intermediate_size": 1536},
    ),
    "videomae_base": (VideoMAEForVideoClassification, {}),
    "videomae_large": (VideoMAEForVideoClassification, {**LARGE, "intermediate_size": 4096}),
    "videomae_huge": (VideoMAEForVideoClassification, {**HUGE, "intermediate_size": 5120}),
    "vjepa2_large": (VJEPA2ForVideoClassification, LARGE),
    "vjepa2_huge": (VJEPA2ForVideoClassification, HUGE),
    "vjepa2_giant": (VJEPA2ForVideoClassification, GIANT),
}


def make_full(name: str, **options: Any) -> Any:
    """Theirs at full size, without memory."""
    kind, sizes = FULL[name]
    with torch.device("meta"):
        return kind(kind.config_class(**sizes, **options))


def count_parameters(theirs: nn.Module) -> int:
    """Those of what ours has a place for."""
    return sum(p.numel() for key, p in theirs.named_parameters() if "predictor." not in key)


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("hf-hub:")])
def test_published_sizes(name: str) -> None:
    entry = published(name)
    config = dict(entry.config)
    with torch.device("meta"):
        model = build_model(name)
    heads = [head for heads in model.get_heads().values() for head in heads]
    classes = heads[0].num_classes if heads else None
    options = {"num_labels": classes} if classes else {"use_mean_pooling": False}
    if config["name"].startswith("vjepa2"):
        options = {"num_labels": classes or 2, "crop_size": model.config.image_size}
    theirs: Any = make_full(config["name"], **options)
    base = theirs if classes else theirs.base_model
    load_weights(model, base.state_dict())
    assert entry.params == sum(p.numel() for p in model.parameters()) == count_parameters(base)


@pytest.mark.parametrize("name", FULL)
def test_full_sizes(name: str) -> None:
    theirs = make_full(name, num_labels=174)
    found = identify(theirs.state_dict())
    assert found["name"] == name
    with torch.device("meta"):
        ours = build_model(found)
    load_weights(ours, theirs.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == count_parameters(theirs)


def test_the_published_number_of_parameters() -> None:
    """Of a file on the hub with its predictor, as it is said there."""
    theirs = make_full("vjepa2_giant", num_labels=48, crop_size=384)
    assert sum(p.numel() for p in theirs.parameters()) == 1_127_871_920
