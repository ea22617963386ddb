"""Every switch of the vision transformer, against a slow one that is written down step by step."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.cost import count
from classy_vision.heads import IdentityHead, VisionTransformerHead
from classy_vision.models import ClassyModel, build_model, load_weights
from classy_vision.models.vision_transformer import VisionTransformer
from classy_vision.models.vision_transformer.rotary import rotate
from classy_vision.trunk.saving import to_layout
from classy_vision.trunk.trunk import END

SMALL: dict[str, Any] = {
    "name": "vision_transformer",
    "image_size": [16, 24],
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
}
EVERYTHING: dict[str, Any] = {
    "distillation_token": True,
    "num_register_tokens": 3,
    "pos_embed_prefix": False,
    "pos_embed_resize": "bicubic_antialias",
    "patch_bias": False,
    "qkv_bias": False,
    "qk_norm": True,
    "layer_scale": 0.5,
    "pre_norm": True,
    "final_norm": "none",
    "activation": "swiglu",
    "layer_norm_eps": 0.01,
}
STEM = [{"kernel": 3, "stride": 4, "out_channels": 5}, {"kernel": 3, "stride": 2, "out_channels": 7}]
KNOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gap": {"classifier": "gap"},
    "gap beside a class token, normed behind": {
        "classifier": "gap",
        "class_token": True,
        "final_norm": "after_pool",
    },
    "gap beside registers": {"classifier": "gap", "num_register_tokens": 3, "final_norm": "after_pool"},
    "class token normed behind": {"final_norm": "after_pool"},
    "no final norm": {"final_norm": "none"},
    "distilled": {"distillation_token": True},
    "registers": {"num_register_tokens": 3},
    "positions for patches": {"num_register_tokens": 3, "pos_embed_prefix": False},
    "layer scale": {"layer_scale": 0.5},
    "pre-norm": {"pre_norm": True},
    "no biases": {"patch_bias": False, "qkv_bias": False},
    "qk norm": {"qk_norm": True, "layer_norm_eps": 0.1},
    "gelu_tanh": {"activation": "gelu_tanh"},
    "quick_gelu": {"activation": "quick_gelu"},
    "swiglu": {"activation": "swiglu"},
    "a convolutional stem": {"conv_stem_layers": STEM, "patch_bias": False},
    "everything": EVERYTHING,
}
every_knob = pytest.mark.parametrize("case", KNOBS)


def scrambled(**options: Any) -> ClassyModel:
    """A model all of whose weights differ, in double precision."""
    torch.manual_seed(0)
    model = build_model({**SMALL, **options}).double().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.5).abs_() if tensor.dim() == 1 else nn.init.normal_(tensor, std=0.5)
    return model


def images(height: int = 16, width: int = 24, number: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, 3, height, width, dtype=torch.float64, generator=generator)


# -- a slow one


def normed(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return torch.einsum("...i,oi->...o", x, state[f"{name}.weight"]) + state.get(f"{name}.bias", 0)


def activated(x: Tensor, kind: str) -> Tensor:
    if kind == "swiglu":
        gate, value = x.tensor_split(2, -1)
        return gate * torch.sigmoid(gate) * value
    if kind == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if kind == "gelu_tanh":
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def reference(model: ClassyModel, x: Tensor) -> dict[str, Tensor]:
    """The features of every step, from the weights and the config."""
    c: Any = model.config
    state = model.state_dict()
    eps, heads = c.layer_norm_eps, c.num_heads
    if c.conv_stem_layers:
        patches = model.stem.proj(x).permute(0, 2, 3, 1).flatten(1, 2)
    else:
        p = c.patch_size
        cut = x.unfold(2, p, p).unfold(3, p, p)
        patches = torch.einsum("nchwyx,dcyx->nhwd", cut, state["stem.proj.weight"]).flatten(1, 2)
        patches = patches + state.get("stem.proj.bias", 0)
    prefix = [
        state[f"stem.{name}"].expand(len(x), -1, -1)
        for name in ("class_token", "distillation_token", "register_tokens")
        if f"stem.{name}" in state
    ]
    before = sum(t.shape[1] for t in prefix)
    x = torch.cat([*prefix, patches], 1)
    positions = state["stem.positions"]
    x[:, -positions.shape[1] :] += positions
    steps = {"stem": normed(state, "stem.norm", x, eps) if c.pre_norm else x}
    x = steps["stem"]
    for i in range(c.num_layers):
        name = f"blocks.layer_{i}"
        y = linear(state, f"{name}.attn.qkv", normed(state, f"{name}.norm1", x, eps))
        q, k, v = y.unflatten(2, (3, heads, -1)).unbind(2)
        if c.qk_norm:
            q, k = normed(state, f"{name}.attn.q_norm", q, eps), normed(state, f"{name}.attn.k_norm", k, eps)
        weights = torch.einsum("nshe,nthe->nhst", q, k) / math.sqrt(q.shape[-1])
        y = torch.einsum("nhst,nthe->nshe", weights.softmax(-1), v).flatten(2)
        x = x + linear(state, f"{name}.attn.proj", y) * state.get(f"{name}.scale1", 1)
        y = linear(state, f"{name}.mlp.fc1", normed(state, f"{name}.norm2", x, eps))
        y = linear(state, f"{name}.mlp.fc2", activated(y, c.activation))
        x = steps[f"layer_{i}"] = x + y * state.get(f"{name}.scale2", 1)
    if c.final_norm == "before_pool":
        x = steps["ln"] = normed(state, "blocks.ln", x, eps)
    x = x[:, 0] if c.classifier == "token" else x[:, before:].sum(1) / (x.shape[1] - before)
    return {**steps, END: normed(state, "tail.norm", x, eps) if c.final_norm == "after_pool" else x}


@every_knob
def test_numbers(case: str) -> None:
    model = scrambled(**KNOBS[case])
    with torch.no_grad():
        found, wanted = dict(model.walk(images())), reference(model, images())
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].std() > 0.1
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-10, msg=f"{case}: {name}")


@every_knob
def test_states_go_around(case: str) -> None:
    model, twin = scrambled(**KNOBS[case]), build_model({**SMALL, **KNOBS[case]}).double().eval()
    for state in (model.state_dict(), model.get_classy_state(), {"state_dict": model.state_dict()}):
        for tensor in twin.state_dict().values():
            tensor.zero_()
        twin.load_state_dict(state)
        assert torch.equal(twin(images()), model(images()))


@every_knob
def test_everything_trains(case: str) -> None:
    model = build_model({**SMALL, **KNOBS[case]}, num_classes=None).train()
    model.features(images().float(), [END])[END].square().sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


# -- blocks


def test_the_name_of_the_final_norm_stays() -> None:
    for final_norm in ("after_pool", "none"):
        model = scrambled(final_norm=final_norm)
        names = ["stem", "layer_0", "layer_1", "layers", "ln", "encoder", END]
        assert model.block_names == names
        features = model.features(images(), ["layer_1", "ln", "encoder"])
        assert torch.equal(features["ln"], features["layer_1"])
        model.set_heads({"ln": [IdentityHead("a")]})
        assert model(images()).shape == (2, 7, 8)
        assert "a" in [step.name for step in count(model).steps]
    assert "ln" in scrambled().blocks


@pytest.mark.parametrize("options", [{}, {"classifier": "gap"}, EVERYTHING], ids=["token", "gap", "everything"])
def test_maps_are_the_patches(options: dict[str, Any]) -> None:
    tokens, maps = scrambled(**options), scrambled(**options, feature_format="map")
    given, wanted = (
        maps.features(images(32, 8), maps.block_names),
        tokens.features(images(32, 8), maps.block_names),
    )
    assert maps.block_names == tokens.block_names
    assert torch.equal(given.pop(END), wanted.pop(END))
    prefix = tokens.stem.prefix
    for name, feature in given.items():
        assert feature.shape == (2, 8, 4, 1)
        for y in range(4):
            assert torch.equal(feature[:, :, y, 0], wanted[name][:, prefix + y])


def test_what_maps_are() -> None:
    model = build_model({**SMALL, **EVERYTHING}, feature_format="map")
    info = model.feature_info()
    for name in ("stem", "layer_0", "layer_1"):
        assert (info[name].shape, info[name].channels, info[name].stride) == ((8, 2, 3), 8, 8)
    assert (info[END].shape, info[END].stride) == ((8,), None)
    assert model.feature_info(["ln"], (3, 32, 8))["ln"].shape == (8, 4, 1)
    costs, plain = count(model), count(build_model({**SMALL, **EVERYTHING}))
    assert [(s.name, s.macs, s.params) for s in costs.steps] == [
        (s.name, s.macs, s.params) for s in plain.steps
    ]


def test_a_convolutional_head_on_a_map() -> None:
    head = {"name": "fully_connected", "unique_id": "a", "num_classes": 3, "conv_planes": 5, "fork_block": "ln"}
    model = build_model({**SMALL, "feature_format": "map", "heads": [head]})
    model(images().float()).sum().backward()
    assert model.heads["ln"]["a"].conv.weight.shape == (5, 8, 1, 1)
    assert model.heads["ln"]["a"].conv.weight.grad is not None


# -- positions


@pytest.mark.parametrize("size", [(16, 24), (16, 16), (40, 8)])
@pytest.mark.parametrize("resize", ["bicubic_align_corners", "bicubic_antialias", "bilinear", "bicubic_offset"])
def test_a_model_for_other_sizes_is_the_model_on_other_sizes(size: tuple[int, int], resize: str) -> None:
    options = {**EVERYTHING, "pos_embed_resize": resize, "image_size": 32}
    model, other = scrambled(**options), build_model({**SMALL, **options, "image_size": size}).double().eval()
    other.load_state_dict(model.state_dict())
    assert other.stem.grid == (size[0] // 8, size[1] // 8)
    torch.testing.assert_close(other(images(*size)), model(images(*size)))


@pytest.mark.parametrize("prefix", [{}, {"num_register_tokens": 3}, {"classifier": "gap"}])
@pytest.mark.parametrize("own", [True, False])
def test_positions_move_between_the_prefix_and_its_tokens(prefix: dict[str, Any], own: bool) -> None:
    model = scrambled(**prefix, pos_embed_prefix=not own)
    other = build_model({**SMALL, **prefix, "pos_embed_prefix": own}).double().eval()
    for state in (model.state_dict(), model.get_classy_state()):
        other.load_state_dict(state)
        torch.testing.assert_close(other(images()), model(images()))


def test_positions_of_some_of_the_prefix() -> None:
    """As DINOv2's files have them: for the class token, not for registers."""
    model = scrambled(num_register_tokens=3, image_size=32)
    positions = model.stem.positions.data
    positions[:, 1:4] = 0
    state = {**model.state_dict(), "stem.positions": torch.cat([positions[:, :1], positions[:, 4:]], 1)}
    for own in (True, False):
        other = build_model({**SMALL, "num_register_tokens": 3, "pos_embed_prefix": own, "image_size": 32})
        other.double().eval().load_state_dict(state)
        torch.testing.assert_close(other(images()), model(images()))


def test_positions_that_fit_no_grid() -> None:
    model = scrambled()
    state = {**model.state_dict(), "stem.positions": torch.zeros(1, 13, 8)}
    with pytest.raises(ConfigError, match="13 position embeddings are not a square grid with up to 1 more"):
        model.load_state_dict(state)
    for wrong in (torch.zeros(1, 7, 9), torch.zeros(7, 8), torch.zeros(2, 7, 8)):
        with pytest.raises(ConfigError, match="differ"):
            model.load_state_dict({**state, "stem.positions": wrong})
    with pytest.raises(ConfigError, match=r"stem.positions\) without a tensor"):
        model.load_state_dict({**state, "stem.positions": None})


# -- two classifiers

DISTILLED = {**EVERYTHING, "final_norm": "before_pool"}


def test_a_classifier_for_each_token() -> None:
    head = VisionTransformerHead("a", 8, 3, num_tokens=2, normalize_inputs="l2", hidden_dim=4).double()
    keys = [f"{layers}.{name}" for layers in ("layers", "layers_1") for name in ("pre_logits", "head")]
    assert list(head.state_dict()) == [f"{key}.{part}" for key in keys for part in ("weight", "bias")]
    for tensor in head.state_dict().values():
        nn.init.normal_(tensor)
    x = images().flatten(1)[:, :80].view(2, 10, 8)
    scaled = x / x.norm(dim=-1, keepdim=True)
    state = head.state_dict()
    outputs = [
        linear(state, f"{layers}.head", linear(state, f"{layers}.pre_logits", scaled[:, k]).tanh())
        for k, layers in enumerate(("layers", "layers_1"))
    ]
    for training in (True, False):
        torch.testing.assert_close(head.train(training)(x), (outputs[0] + outputs[1]) / 2)
    first = VisionTransformerHead("a", 8, num_tokens=1)
    torch.testing.assert_close(first(x), x[:, 0])


@pytest.mark.parametrize("feature", [torch.zeros(2, 8), torch.zeros(2, 8, 4, 4), torch.zeros(2, 1, 8)])
def test_a_classifier_for_each_token_needs_tokens(feature: Tensor) -> None:
    with pytest.raises(ValueError, match=r"num_tokens = 2: the block must give tokens \(n, s, c\), 2 or more"):
        VisionTransformerHead("a", 8, 3, num_tokens=2)(feature)


def test_the_default_head_of_a_distilled_model() -> None:
    config = build_model({**SMALL, **DISTILLED}).config
    given = VisionTransformer.default_head(config)
    assert given == {"name": "vision_transformer_head", "num_tokens": 2, "fork_block": "ln"}
    model = scrambled(**DISTILLED, num_classes=3)
    x = reference(model, images())["ln"]
    state = model.state_dict()
    wanted = [
        linear(state, f"heads.ln.default_head.{part}.head", x[:, k])
        for k, part in enumerate(("layers", "layers_1"))
    ]
    torch.testing.assert_close(model(images()), (wanted[0] + wanted[1]) / 2)
    assert VisionTransformer.default_head(scrambled().config) == {"name": "vision_transformer_head"}
    with pytest.raises(ConfigError, match="feature_format = 'map' leaves out"):
        build_model({**SMALL, **DISTILLED, "feature_format": "map", "num_classes": 3})


# -- training


def test_patches_are_left_out_in_training() -> None:
    options = {**EVERYTHING, "patch_drop_rate": 0.5}
    model = scrambled(**options, num_layers=1).train()
    full, some = 5 + 6, 5 + 3
    assert model.features(images(), ["layer_0"])["layer_0"].shape == (2, some, 8)
    assert model.feature_info(["layer_0"])["layer_0"].shape == (full, 8)
    assert len(torch.stack([model(images()) for _ in range(20)]).unique(dim=0)) > 1
    model.eval()
    assert torch.equal(model(images()), scrambled(**EVERYTHING, num_layers=1)(images()))


CLIPS = {"frames_per_clip": 4, "classifier": "gap", "final_norm": "after_pool"}
VIDEOMAE = {**CLIPS, "pos_embed": "sincos", "qkv_bias": "qv", "pool_norm_eps": 0.1}
MODELS: dict[str, dict[str, Any]] = {
    "tokens": {**EVERYTHING, "gradient_checkpointing": True},
    "fewer tokens": {**EVERYTHING, "patch_drop_rate": 0.5},
    "maps": {**EVERYTHING, "feature_format": "map", "classifier": "gap", "distillation_token": False},
    "as EVA-02": {
        **{"qkv_bias": "qv", "attention_norm": True, "mlp_norm": True, "activation": "swiglu"},
        "rotary": {"reference_grid": [2, 2]},
    },
    "as DINOv3": {
        **{"rotary": {"kind": "centered", "temperature": 100.0, "halves": True}, "layer_scale": 0.5},
        **{"pos_embed": False, "num_register_tokens": 2, "gradient_checkpointing": True},
    },
    "as RoPE-ViT": {"rotary": {"kind": "mixed", "temperature": 10.0, "columns_first": True}},
    "as SigLIP": {"classifier": "attention", "activation": "gelu_tanh"},
    "as AIMv2": {
        **{"norm_type": "rms", "linear_bias": False, "qkv_bias": False, "patch_norm": True},
        **{"classifier": "gap", "activation": "swiglu"},
    },
    "norms after": {"norm_after": True, "classifier": "attention", "pool_num_heads": 1, "pool_mlp_dim": 4},
    "as VideoMAE": VIDEOMAE,
    "as V-JEPA 2": {**CLIPS, "rotary": {"kind": "tiled"}, "pos_embed": False, "num_heads": 1},
    "maps of clips": {**VIDEOMAE, "feature_format": "map", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("case", MODELS)
def test_states_of_other_models_go_around(case: str) -> None:
    model, twin = scrambled(**MODELS[case]), build_model({**SMALL, **MODELS[case]}).double().eval()
    for state in (model.state_dict(), model.get_classy_state()):
        for tensor in twin.state_dict().values():
            tensor.zero_()
        twin.load_state_dict(state)
        assert torch.equal(twin(images()), model(images()))


def with_heads(case: str, training: bool) -> ClassyModel:
    heads = [
        {"name": "fully_connected", "unique_id": name, "num_classes": 3, "fork_block": block}
        for name, block in (("early", "layer_0"), ("late", "ln"), ("end", END))
    ]
    torch.manual_seed(0)
    return build_model({**SMALL, **MODELS[case], "heads": heads}).train(training)


def agree(given: dict[str, Tensor], wanted: dict[str, Tensor], random: bool) -> None:
    assert given.keys() == wanted.keys() == {"early", "late", "end"}
    for name in wanted:
        assert given[name].shape == wanted[name].shape
        if not random:
            torch.testing.assert_close(given[name], wanted[name], rtol=1e-4, atol=1e-5)


QUICK = [
    *(("tokens", False), ("fewer tokens", True), ("maps", True), ("as EVA-02", False), ("as DINOv3", True)),
    *(("as RoPE-ViT", True), ("as SigLIP", False), ("as AIMv2", False), ("norms after", False)),
]


@pytest.mark.parametrize(
    ("case", "training"),
    [
        pytest.param(case, training, marks=[] if (case, training) in QUICK else pytest.mark.slow)
        for case in MODELS
        for training in (False, True)
    ],
)
def test_what_is_done_with_modules(case: str, training: bool) -> None:
    model = with_heads(case, training)
    random = training and case == "fewer tokens"
    x, more = images().float(), images(number=5).float()
    agree(torch.fx.symbolic_trace(model)(more), model(more), random)
    program = torch.export.export(model, (more[:3],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    agree(program.module()(more), model(more), random)
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    agree(compiled(x), model(x), random)
    if training:
        sum(output.sum() for output in compiled(x).values()).backward()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        agree(twin(x), model(x), random)


def test_gradient_checkpointing_changes_no_number() -> None:
    plain, sparing = (scrambled(**EVERYTHING, gradient_checkpointing=on).train() for on in (False, True))
    for model in (plain, sparing):
        model(images()).square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), sparing.parameters()):
        torch.testing.assert_close(q.grad, p.grad, msg=name)


# -- rotary positions


def rotary(**options: Any) -> ClassyModel:
    return scrambled(rotary={"kind": "axial", **options}, pos_embed=False, num_heads=1)


@pytest.mark.parametrize("kind", ["axial", "centered", "mixed"])
def test_rotations_are_told_by_angles(kind: str) -> None:
    """The product of two rotated vectors depends on how far their patches are apart, and on nothing else."""
    model = rotary(kind=kind, temperature=10.0)
    x = images(64, 64)
    (rotation,) = model.block_arguments(x)
    rotation = rotation[0] if kind == "mixed" else rotation
    grid = rotation[..., model.stem.prefix :, :].unflatten(-2, (8, 8)).double()
    vector = torch.randn(1, 1, 1, 8, dtype=torch.float64)
    turned = rotate(vector.expand(1, 1, 64, 8), grid.flatten(-3, -2), halves=False).reshape(8, 8, 8)
    for step in ((0, 1), (1, 0), (2, 3)):
        first = turned[: 8 - step[0], : 8 - step[1]]
        products = (first * turned[step[0] :, step[1] :]).sum(-1)
        assert products.std() < 1e-5 < (turned[0, 0] - turned[step]).abs().max()
    assert (rotation[1][..., : model.stem.prefix, :] == 1).all()


@pytest.mark.parametrize("case", MODELS)
def test_all_operators_are_counted(case: str) -> None:
    for shape in (None, (3, 32, 32)):
        assert count(build_model({**SMALL, **MODELS[case]}), input_shape=shape).uncounted == ()


def test_tables_are_made_once_for_a_size() -> None:
    model = rotary()
    first, again, other = (model.block_arguments(images(16, size))[0] for size in (24, 24, 32))
    assert first is again
    assert other.shape[1] > first.shape[1]
    with torch.inference_mode():
        (made_there,) = model.block_arguments(images(40, 40))
    assert not made_there.is_inference()
    model.train()(images(40, 40)).sum().backward()


def test_what_mixed_learns_is_trained_and_spared_from_decay() -> None:
    model = rotary(kind="mixed", temperature=10.0).train()
    model(images()).sum().backward()
    assert model.stem.directions.freqs.grad.abs().sum() > 0
    assert "stem.directions.freqs" in model.no_weight_decay()


@pytest.mark.parametrize(
    ("layout", "case", "more"),
    [
        ("transformers_dinov3", "as DINOv3", {"qkv_bias": "qv"}),
        ("transformers_dinov3", "as DINOv3", {"qkv_bias": "qv", "activation": "swiglu"}),
        ("transformers_siglip", "as SigLIP", {"class_token": False}),
        ("transformers_aimv2", "as AIMv2", {"class_token": False}),
        (
            "transformers_dinov2",
            "as DINOv2",
            {"num_register_tokens": 2, "num_classes": None, "pos_embed_prefix": False},
        ),
        ("transformers_dinov2", "as DINOv2", {"layer_scale": 0.5, "num_classes": None}),
        *(("timm", case, {}) for case in ("as EVA-02", "as DINOv3", "as RoPE-ViT", "as SigLIP", "as AIMv2")),
    ],
)
def test_layouts_of_others(layout: str, case: str, more: dict[str, Any]) -> None:
    options = {**SMALL, **MODELS.get(case, {}), "num_classes": 3, **more}
    model, other = build_model(options), build_model(options)
    report = load_weights(other, to_layout(model, layout), layout=layout)
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert all(value.equal(model.state_dict()[key]) for key, value in other.state_dict().items())


def test_aimv2_as_it_was_published_first() -> None:
    options = {**SMALL, **MODELS["as AIMv2"], "class_token": False}
    model, other = build_model(options), build_model(options)
    renamed = {
        **{"norm1": "norm_1", "norm2": "norm_2", "fc1_g": "fc1", "fc1_x": "fc3", "patch_embed": "patchifier"},
        **{"blocks.": "trunk.blocks.", "patchifier": "preprocessor.patchifier"},
        "pos_embed": "preprocessor.pos_embed",
    }
    published = {}
    for key, value in to_layout(model, "timm").items():
        key = key.replace("norm.", "trunk.post_trunk_norm.") if key.startswith("norm.") else key
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        published[key] = value
    assert "trunk.blocks.0.mlp.fc3.weight" in published
    assert "preprocessor.patchifier.norm.weight" in published
    assert load_weights(other, published).layout == "timm"
    assert all(value.equal(model.state_dict()[key]) for key, value in other.state_dict().items())


# -- configs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 17}, "image_size = 17 must be a multiple of patch_size, as 16"),
        ({"image_size": [16, 23]}, r"image_size = \(16, 23\) must be a multiple of patch_size, as \(16, 24\)"),
        ({"image_size": [16, 24, 8]}, "image_size"),
        ({"num_heads": 3}, "num_heads = 3 must divide hidden_dim = 8"),
        ({"class_token": False}, "classifier = 'token' needs class_token = True; without one it is 'gap'"),
        (
            {"distillation_token": True, "classifier": "gap"},
            "distillation_token = True needs classifier = 'token'",
        ),
        ({"distillation_token": True, "final_norm": "after_pool"}, "each token has a classifier of its own"),
        ({"patch_drop_rate": 0.5, "feature_format": "map"}, "patch_drop_rate = 0.5 leaves holes in maps"),
        ({"patch_drop_rate": 1.0}, "patch_drop_rate = 1.0: input should be less than 1"),
        ({"layer_scale": 0.0}, "layer_scale = 0.0: input should be greater than 0"),
        ({"num_register_tokens": -1}, "num_register_tokens = -1"),
        ({"activation": "relu"}, "activation = 'relu': input should be 'gelu', 'gelu_tanh', 'quick_gelu' or"),
        ({"pos_embed_resize": "nearest"}, "pos_embed_resize = 'nearest': input should be 'bicubic_align"),
        ({"final_norm": None}, "final_norm"),
        ({"conv_stem_layers": STEM[:1]}, "multiply to 4, not to patch_size = 8"),
        ({"rotary": {}, "num_heads": 4}, "rotary needs heads whose width is a multiple of 4, not 2"),
        ({"rotary": {}, "patch_drop_rate": 0.5}, "patch_drop_rate = 0.5 beside rotary"),
        ({"classifier": "attention", "final_norm": "after_pool"}, "classifier = 'attention' pools what"),
        ({"attention": "differential", "rotary": {}}, "attention = 'differential' goes without"),
        ({"num_registers": 4}, "did you mean 'num_register_tokens'"),
    ],
)
def test_bad_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model({**SMALL, **options})


def test_switches_work_on_presets() -> None:
    with torch.device("meta"):
        model = build_model("vit_b_16", num_register_tokens=4, layer_scale=1e-5, num_classes=10)
    assert model.stem.positions.shape == (1, 5 + 14 * 14, 768)
    assert model.input_shape == (3, 224, 224)
    assert build_model({**SMALL}).input_shape == (3, 16, 24)
