"""Weights made to fit another network, as the peers do it."""

from __future__ import annotations

import pytest
import torch
from timm.layers import patch_embed, resample_abs_pos_embed
from timm.models import VisionTransformer, adapt_input_conv

from classy_vision.models import build_model, load_weights
from classy_vision.trunk.saving import to_layout
from tests.peers.models import answer, with_weights
from tests.peers.test_vision_transformer import SMALL, config_of, images


@pytest.mark.parametrize(("channels", "how"), [(1, "mean"), (2, "repeat"), (4, "repeat"), (7, "repeat")])
def test_input_channels(channels: int, how: str) -> None:
    torch.manual_seed(0)
    state = to_layout(build_model("resnet18", num_classes=3), "timm")
    model = build_model("resnet18", num_classes=3, in_channels=channels)
    report = load_weights(model, state, channels=how)
    assert report.changed == {"stem.conv.weight": f"3 input channels to {channels}, {how}"}
    expected = adapt_input_conv(channels, state["conv1.weight"])
    torch.testing.assert_close(model.stem.conv.weight, expected)


@pytest.mark.parametrize("size", [32, 64, [48, 32]])
def test_positions(size: int | list[int]) -> None:
    config = {"name": "vision_transformer", "image_size": 40, "patch_size": 8, "num_layers": 1}
    config |= {"num_heads": 2, "hidden_dim": 16, "mlp_dim": 16, "pos_embed_resize": "bicubic_antialias"}
    torch.manual_seed(0)
    source = build_model(config)
    model = build_model(config, image_size=size)
    load_weights(model, to_layout(source, "timm"))
    height, width = (size, size) if isinstance(size, int) else size
    expected = resample_abs_pos_embed(source.stem.positions, (height // 8, width // 8))
    torch.testing.assert_close(model.stem.positions, expected)


WAYS = {"bicubic_antialias": ("bicubic", True), "bicubic": ("bicubic", False), "bilinear": ("bilinear", False)}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("size", [4, 6, 14, 16])
def test_patch_sizes(how: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that timm makes of the same file, with patches of another size."""
    monkeypatch.setattr(patch_embed, "DTYPE_INTERMEDIATE", torch.float64)
    mode, antialias = WAYS[how]
    theirs = with_weights(VisionTransformer(**SMALL))
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    sizes = {"patch_size": size, "img_size": 4 * size}  # as many patches
    resized = VisionTransformer(**{**SMALL, **sizes}).double().eval()
    kernel = patch_embed.resample_patch_embed(state["patch_embed.proj.weight"], [size, size], mode, antialias)
    resized.load_state_dict({**state, "patch_embed.proj.weight": kernel})

    model = build_model({"name": "vision_transformer", **config_of(resized), "num_classes": 5}).double().eval()
    report = load_weights(model, state, patches=how)
    assert report.changed == {"stem.proj.weight": f"patches of 8x8 pixels to {size}x{size}, {how}"}
    torch.testing.assert_close(model.stem.proj.weight, kernel, rtol=0, atol=1e-10)
    x = images(4 * size, 4 * size)
    expected = answer(resized, x)
    assert (answer(model, x) - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("registers", [0, 2])
def test_class_tokens(placed: bool, registers: int) -> None:
    """A network of timm without a class token, with the weights of one that has it, and back."""
    options = {**SMALL, "fc_norm": False, "reg_tokens": registers, "no_embed_class": not placed}
    state = with_weights(VisionTransformer(**options)).state_dict()
    theirs = VisionTransformer(**options, class_token=False, global_pool="avg").double().eval()
    without = {key: value for key, value in state.items() if key != "cls_token"}
    without["pos_embed"] = state["pos_embed"][:, 1:] if placed else state["pos_embed"]
    theirs.load_state_dict(without)

    config = {"name": "vision_transformer", **config_of(theirs), "num_classes": 5}
    model = build_model(config).double().eval()
    report = load_weights(model, state, class_token="drop")
    assert report.dropped == {"stem.class_token": "the model has no class token"}
    assert set(report.changed) == ({"stem.positions"} if placed else set())
    expected = answer(theirs, images(32, 32))
    assert (answer(model, images(32, 32)) - expected).abs().max() <= 1e-9 * expected.abs().max()

    theirs = VisionTransformer(**options).double().eval()
    state["cls_token"].zero_()
    if placed:
        state["pos_embed"][:, 0].zero_()
    theirs.load_state_dict(state)
    model = build_model(config, classifier="token", class_token=True).double().eval()
    report = load_weights(model, without, class_token="new")
    assert report.changed["stem.class_token"] == "new: the file has none"
    assert "stem.class_token" not in report.loaded
    expected = answer(theirs, images(32, 32))
    assert (answer(model, images(32, 32)) - expected).abs().max() <= 1e-9 * expected.abs().max()
