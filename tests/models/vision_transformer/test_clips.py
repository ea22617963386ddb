"""Vision transformers over clips: VideoMAE's and V-JEPA 2's, from tensors by their names, step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.config import ConfigError
from classy_vision.identify.identify import identify
from classy_vision.models import ClassyModel, build_model, load_weights
from classy_vision.trunk.saving import to_layout
from classy_vision.trunk.trunk import END

LAYERS, HEADS, WIDTH, INNER, PATCH = 2, 2, 16, 24, 8
SIZES = {"patch_size": PATCH, "num_layers": LAYERS, "num_heads": HEADS, "hidden_dim": WIDTH, "mlp_dim": INNER}
SMALL: dict[str, dict[str, Any]] = {
    "videomae": {"name": "videomae_base", **SIZES, "image_size": 32, "frames_per_clip": 4},
    "vjepa2": {"name": "vjepa2_large", **SIZES, "image_size": 32, "frames_per_clip": 4},
}
POOL = {
    "name": "attention_pool",
    "unique_id": "default_head",
    "depth": 2,
    "style": "vjepa2",
    "num_heads": HEADS,
}
CLASSES: dict[str, dict[str, Any]] = {
    "videomae": {"num_classes": 5},
    "vjepa2": {"heads": [{**POOL, "num_classes": 5, "fork_block": "ln"}]},
}
every_kind = pytest.mark.parametrize("kind", SMALL)
CLIPS = [(4, 32, 32), (6, 16, 40), (2, 8, 8)]
"""Frames, height and width."""


def clips(frames: int = 4, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, frames, height, width, dtype=torch.float64, generator=generator)


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def name_videomae() -> dict[str, tuple[int, ...]]:
    """Keys and shapes as files of the hub have them."""
    embed = "videomae.embeddings.patch_embeddings.projection"
    found: dict[str, tuple[int, ...]] = {
        f"{embed}.weight": (WIDTH, 3, 2, PATCH, PATCH),
        f"{embed}.bias": (WIDTH,),
    }
    for i in range(LAYERS):
        layer = f"videomae.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            found |= linear(f"{layer}.attention.attention.{part}", WIDTH, WIDTH, bias=False)
        found |= {f"{layer}.attention.attention.{part}_bias": (WIDTH,) for part in "qv"}
        found |= linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        found |= norm(f"{layer}.layernorm_before") | norm(f"{layer}.layernorm_after")
        found |= linear(f"{layer}.intermediate.dense", INNER, WIDTH) | linear(
            f"{layer}.output.dense", WIDTH, INNER
        )
    return found | norm("fc_norm") | linear("classifier", 5, WIDTH)


def name_vjepa2() -> dict[str, tuple[int, ...]]:
    embed = "vjepa2.encoder.embeddings.patch_embeddings.proj"
    found: dict[str, tuple[int, ...]] = {
        f"{embed}.weight": (WIDTH, 3, 2, PATCH, PATCH),
        f"{embed}.bias": (WIDTH,),
    }
    for i in range(LAYERS):
        layer = f"vjepa2.encoder.layer.{i}"
        found |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
        for part in ("query", "key", "value", "proj"):
            found |= linear(f"{layer}.attention.{part}", WIDTH, WIDTH)
        found |= linear(f"{layer}.mlp.fc1", INNER, WIDTH) | linear(f"{layer}.mlp.fc2", WIDTH, INNER)
    found |= norm("vjepa2.encoder.layernorm") | {"pooler.query_tokens": (1, 1, WIDTH)}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= linear(f"pooler.self_attention_layers.0.self_attn.{part}", WIDTH, WIDTH)
    for part in ("q_proj", "k_proj", "v_proj"):
        found |= linear(f"pooler.cross_attention_layer.cross_attn.{part}", WIDTH, WIDTH)
    for layer in ("pooler.self_attention_layers.0", "pooler.cross_attention_layer"):
        found |= norm(f"{layer}.layer_norm1") | norm(f"{layer}.layer_norm2")
        found |= linear(f"{layer}.mlp.fc1", 4 * WIDTH, WIDTH) | linear(f"{layer}.mlp.fc2", WIDTH, 4 * WIDTH)
    return found | linear("classifier", 5, WIDTH)


NAMES = {"videomae": name_videomae, "vjepa2": name_vjepa2}


def state_of(kind: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        key: 0.4 * torch.randn(shape, dtype=torch.float64, generator=generator)
        for key, shape in NAMES[kind]().items()
    }


def loaded(kind: str, **options: Any) -> ClassyModel:
    model = build_model({**SMALL[kind], **CLASSES[kind], **options}).double().eval()
    report = load_weights(model, state_of(kind))
    assert (report.layout, report.dropped) == (f"transformers_{kind}", {})
    return model


# -- step by step


def apply(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return torch.einsum("...i,oi->...o", x, state[f"{name}.weight"]) + state.get(f"{name}.bias", 0)


def normed(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def embed(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    cut = x.unfold(2, 2, 2).unfold(3, PATCH, PATCH).unfold(4, PATCH, PATCH)
    tokens = torch.einsum("ncthwzyx,dczyx->nthwd", cut, state[f"{name}.weight"])
    return tokens.flatten(1, 3) + state[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Shape: (n, s, heads, e) each, to (n, s, d)."""
    weights = torch.einsum("nshe,nthe->nhst", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("nhst,nthe->nshe", weights.softmax(-1), v).flatten(2)


def split(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1))


def mlp(state: dict[str, Tensor], first: str, second: str, x: Tensor) -> Tensor:
    x = apply(state, first, x)
    return apply(state, second, x / 2 * (1 + torch.erf(x / math.sqrt(2))))


def run_videomae(x: Tensor) -> dict[str, Tensor]:
    state = state_of("videomae")
    x = embed(state, "videomae.embeddings.patch_embeddings.projection", x)
    for token in range(x.shape[1]):
        for channel in range(WIDTH):
            angle = token / 10000 ** (2 * (channel // 2) / WIDTH)
            value = math.cos(angle) if channel % 2 else math.sin(angle)
            x[:, token, channel] += float(torch.tensor(value, dtype=torch.float32))
    steps = {"stem": x}
    for i in range(LAYERS):
        layer = f"videomae.encoder.layer.{i}"
        attention = f"{layer}.attention.attention"
        y = normed(state, f"{layer}.layernorm_before", x, 1e-12)
        q = apply(state, f"{attention}.query", y) + state[f"{attention}.q_bias"]
        v = apply(state, f"{attention}.value", y) + state[f"{attention}.v_bias"]
        y = attend(*map(split, (q, apply(state, f"{attention}.key", y), v)))
        x = x + apply(state, f"{layer}.attention.output.dense", y)
        y = normed(state, f"{layer}.layernorm_after", x, 1e-12)
        x = steps[f"layer_{i}"] = x + mlp(state, f"{layer}.intermediate.dense", f"{layer}.output.dense", y)
    steps[END] = normed(state, "fc_norm", x.mean(1), 1e-5)
    return {**steps, "classes": apply(state, "classifier", steps[END])}


def turn(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Rotates (n, s, heads, e) pair by pair; both halves of an axis' channels have the same angles."""
    width = x.shape[3] // 3 // 2 * 2
    turned = x.clone()
    places = [(t, y, z) for t in range(grid[0]) for y in range(grid[1]) for z in range(grid[2])]
    for token, place in enumerate(places):
        for axis in range(3):
            for pair in range(width // 2):
                a, b = axis * width + 2 * pair, axis * width + 2 * pair + 1
                first, second = x[:, token, :, a], x[:, token, :, b]
                low, high = (
                    place[axis] / 10000 ** ((c % (width // 2)) / (width / 2)) for c in (2 * pair, 2 * pair + 1)
                )
                turned[:, token, :, a] = first * math.cos(low) - second * math.sin(low)
                turned[:, token, :, b] = second * math.cos(high) + first * math.sin(high)
    return turned


def run_vjepa2(x: Tensor) -> dict[str, Tensor]:
    state = state_of("vjepa2")
    grid = (x.shape[2] // 2, x.shape[3] // PATCH, x.shape[4] // PATCH)
    x = embed(state, "vjepa2.encoder.embeddings.patch_embeddings.proj", x)
    steps = {"stem": x}
    for i in range(LAYERS):
        layer = f"vjepa2.encoder.layer.{i}"
        y = normed(state, f"{layer}.norm1", x, 1e-6)
        q, k, v = (split(apply(state, f"{layer}.attention.{p}", y)) for p in ("query", "key", "value"))
        y = attend(turn(q, grid), turn(k, grid), v)
        x = x + apply(state, f"{layer}.attention.proj", y)
        y = normed(state, f"{layer}.norm2", x, 1e-6)
        x = steps[f"layer_{i}"] = x + mlp(state, f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", y)
    x = steps["ln"] = normed(state, "vjepa2.encoder.layernorm", x, 1e-6)
    steps[END] = x.mean(1)
    layer = "pooler.self_attention_layers.0"
    y = normed(state, f"{layer}.layer_norm1", x, 1e-6)
    parts = (split(apply(state, f"{layer}.self_attn.{p}_proj", y)) for p in "qkv")
    x = x + apply(state, f"{layer}.self_attn.out_proj", attend(*parts))
    x = x + mlp(state, f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", normed(state, f"{layer}.layer_norm2", x, 1e-6))
    layer = "pooler.cross_attention_layer"
    query = state["pooler.query_tokens"].expand(len(x), -1, -1)
    x = normed(state, f"{layer}.layer_norm1", x, 1e-6)
    read = zip("qkv", (query, x, x))
    found = query + attend(*(split(apply(state, f"{layer}.cross_attn.{p}_proj", y)) for p, y in read))
    y = normed(state, f"{layer}.layer_norm2", found, 1e-6)
    found = found + mlp(state, f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", y)
    return {**steps, "classes": apply(state, "classifier", found[:, 0])}


RUN = {"videomae": run_videomae, "vjepa2": run_vjepa2}


@every_kind
@pytest.mark.parametrize("size", CLIPS)
@torch.no_grad()
def test_numbers_for_clips_of_any_size(kind: str, size: tuple[int, int, int]) -> None:
    model, x = loaded(kind), clips(*size)
    wanted = RUN[kind](x)
    found = {**dict(model.walk(x)), "classes": model(x)}
    assert list(found) == list(wanted)
    for name in wanted:
        assert wanted[name].std() > 0.01
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-10, msg=name)


@every_kind
@torch.no_grad()
def test_maps_of_clips(kind: str) -> None:
    x = clips(6, 16, 24)
    tokens, maps = loaded(kind).features(x, ["layer_0"]), loaded(kind, feature_format="map")
    found = maps.features(x, ["layer_0"])["layer_0"]
    assert found.shape == (2, WIDTH, 3, 2, 3)
    assert torch.equal(found.flatten(2).mT, tokens["layer_0"])
    info = maps.feature_info(["layer_0"])["layer_0"]
    assert (info.shape, info.channels, info.stride) == ((WIDTH, 2, 4, 4), WIDTH, PATCH)


@every_kind
@torch.no_grad()
def test_an_image_is_a_clip_in_which_nothing_moves(kind: str) -> None:
    model, image = loaded(kind), clips()[:, :, 0]
    wanted = model(image[:, :, None].repeat(1, 1, 2, 1, 1))
    for still in (image, image[:, :, None]):
        torch.testing.assert_close(model(still), wanted, rtol=0, atol=1e-12)


@every_kind
@torch.no_grad()
def test_time_matters(kind: str) -> None:
    model = loaded(kind)
    assert (model(clips()) - model(clips().flip(2))).abs().max() > 1e-4


@every_kind
def test_files_come_back_as_they_were(kind: str) -> None:
    back, state = to_layout(loaded(kind), f"transformers_{kind}"), state_of(kind)
    assert back.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in back.items())


@every_kind
def test_files_say_what_they_are_of(kind: str) -> None:
    found = identify(state_of(kind))
    with torch.device("meta"):
        model = build_model({**found, "num_heads": HEADS})
    wanted = loaded(kind)
    assert model.config.rotary == wanted.config.rotary
    assert model.config.pos_embed == wanted.config.pos_embed
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in wanted.state_dict().items()
    }


def test_what_predicts_in_pre_training_is_left_out() -> None:
    more = {"vjepa2": "vjepa2.predictor.proj.weight", "videomae": "decoder.norm.weight"}
    for kind, key in more.items():
        model = build_model({**SMALL[kind], **CLASSES[kind]}).double()
        report = load_weights(model, {**state_of(kind), key: torch.zeros(1)})
        assert dict(report.dropped) == {key: "VisionTransformer has no use for it"}


def test_the_probe_of_a_file_for_another_head() -> None:
    model = build_model(SMALL["vjepa2"], num_classes=7).double()
    report = load_weights(model, state_of("vjepa2"), skip_heads="unfit")
    assert report.kept == ("default_head",)
    assert any(".pooler." in key for key in report.dropped)


@every_kind
def test_it_trains_with_everything_on(kind: str) -> None:
    options = {"stochastic_depth": 0.3, "gradient_checkpointing": True, "dropout_rate": 0.1, "in_channels": 5}
    model = build_model({**SMALL[kind], **CLASSES[kind], **options}).train()
    model(torch.randn(2, 5, 4, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.no_weight_decay() == set()


def test_other_channels() -> None:
    model = build_model({**SMALL["videomae"], **CLASSES["videomae"], "in_channels": 6}).double()
    report = load_weights(model, state_of("videomae"), channels="repeat")
    assert "stem.proj.weight" in report.changed
    x = clips()
    torch.testing.assert_close(model.eval()(torch.cat([x, x], 1)), loaded("videomae")(x))


def test_positions_are_made_once_for_a_number_of_tokens() -> None:
    model, tokens = loaded("videomae"), []
    place = nn.Module.register_forward_hook(model.stem.dropout, lambda _, __, y: tokens.append(y))
    with torch.inference_mode():
        model(clips(6))
    model.train()(clips(6)).sum().backward()  # what inference made serves here too
    place.remove()
    assert len(tokens) == 2


@pytest.mark.parametrize("dynamic", ["frames", "size"])
@every_kind
def test_export_with_any_number_of_frames(kind: str, dynamic: str) -> None:
    model = loaded(kind).float()
    axis = {2: 2 * torch.export.Dim("t", min=2, max=64)}
    if dynamic == "size":
        axis = {
            3: PATCH * torch.export.Dim("h", min=2, max=64),
            4: PATCH * torch.export.Dim("w", min=2, max=64),
        }
    x = clips(4, 32, 40).float()
    program = torch.export.export(model, (x,), dynamic_shapes=(axis,)).module()
    other = clips(8, 32, 40) if dynamic == "frames" else clips(4, 16, 48)
    torch.testing.assert_close(program(other.float()), model(other.float()), rtol=1e-4, atol=1e-5)


# -- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames_per_clip": 5}, "frames_per_clip = 5 must be a multiple of tubelet_size, as 4"),
        (
            {"pos_embed": True},
            "positions are learned for images; of clips they are 'sincos', or false with rotary",
        ),
        ({"rotary": {"kind": "mixed"}}, "rotary.kind = 'mixed', which is learned for images"),
        ({"rotary": {"halves": True}}, "rotary needs heads of clips whose width is a multiple of 6 .*, not 8"),
        ({"rotary": {}, "num_heads": 4}, "rotary needs heads of clips whose width is 6 or more, not 4"),
        ({"rotary": {"kind": "tiled", "halves": True}}, "kind = 'tiled' pairs neighbours"),
        (
            {"conv_stem_layers": [{"kernel": 3, "stride": 8, "out_channels": 4}]},
            "frames_per_clip beside conv_stem_layers: that stem is for images",
        ),
        ({"hidden_dim": 15, "num_heads": 3}, "pos_embed = 'sincos' needs an even hidden_dim, not 15"),
        ({"tubelets": 2}, "did you mean 'tubelet_size'"),
    ],
)
def test_bad_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model({**SMALL["videomae"], **options})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 5, 32, 32), "the number of frames must be 1 or a multiple of 2, not 5"),
        (
            torch.zeros(2, 4, 4, 32, 32),
            r"takes clips \(n, 3, t, h, w\) or images \(n, 3, h, w\), not \(2, 4, 4",
        ),
        (torch.zeros(2, 3, 4, 32, 30), r"must be multiples of the patch size 8, not \(32, 30\)"),
        (torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8), "clips are floating point, not torch.uint8"),
    ],
)
def test_bad_clips(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(SMALL["videomae"])(x)
    with pytest.raises(TypeError, match="the input is a tensor"):
        build_model(SMALL["videomae"])(None)


def test_images_refuse_clips() -> None:
    model = build_model({**SMALL["videomae"], "frames_per_clip": None})
    with pytest.raises(ValueError, match=r"takes images \(n, 3, h, w\), not \(2, 3, 4, 32, 32\)"):
        model(clips().float())
    assert model(F.pad(clips()[:, :, 0].float(), (0, 8))).shape == (2, WIDTH)
