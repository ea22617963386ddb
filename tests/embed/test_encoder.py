"""Features and outputs in one pass are those that the model gives by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.embed import Settings
from classy_vision.embed.encoder import READINGS, choose_batch, load_encoder
from classy_vision.export import Head, export
from classy_vision.heads import ConcatHead
from classy_vision.heads.pooling import Pool
from classy_vision.models import build_model
from tests.predict.test_predictor import PREPROCESSING, TASKS, small_model

VIT = {
    "name": "vision_transformer",
    "image_size": 16,
    "patch_size": 8,
    "hidden_dim": 12,
    "mlp_dim": 24,
    "num_heads": 3,
    "num_layers": 2,
    "feature_format": "tokens",
}


def images(count: int = 3, side: int = 8) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def settings(*arguments: Any, **options: Any) -> Settings:
    return Settings.parse({"device": "cpu", **dict(zip(("blocks", "heads", "pooling"), arguments)), **options})


def encode(model: Any, x: Tensor, *arguments: Any, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    encoder = load_encoder(model, settings(*arguments, **options))
    found = encoder(x[:, None].numpy())
    assert encoder.measure() == {name: value.shape[1:] for name, value in found.items()}
    return found


def test_blocks_and_heads_in_one_pass() -> None:
    x, model = images(), small_model()
    features, outputs = model.features(x, ["stem", "block1", "trunk_output"]), model(x)
    found = encode(
        small_model(), x, ["stem", "block1"], ["species", "weight"], ["mean", "max", "map", "tokens"]
    )
    assert [*found] == [
        *("head/species", "head/weight"),
        *(f"{block}/{reading}" for block in ("stem", "block1") for reading in ("mean", "max", "map", "tokens")),
    ]
    for block in ("stem", "block1"):
        feature = features[block].detach()
        np.testing.assert_array_equal(found[f"{block}/map"], feature)
        np.testing.assert_allclose(found[f"{block}/mean"], feature.mean((2, 3)), atol=1e-6)
        np.testing.assert_array_equal(found[f"{block}/max"], feature.amax((2, 3)))
        np.testing.assert_array_equal(found[f"{block}/tokens"], feature.flatten(2).mT)
    for head in ("species", "weight"):
        np.testing.assert_allclose(found[f"head/{head}"], outputs[head].detach(), atol=1e-6)


def test_nothing_after_the_deepest_block_runs() -> None:
    model = small_model()
    last = next(module for name, module in model.named_modules() if name.startswith("blocks.block2"))
    last.register_forward_hook(lambda *_: pytest.fail("block2 ran"))
    assert [*encode(model, images(), ["block1"])] == ["block1/mean"]


@pytest.mark.parametrize("reading", READINGS)
def test_tokens_of_a_vision_transformer(reading: str) -> None:
    torch.manual_seed(0)
    model = build_model(VIT).eval()
    x = images(side=16)
    tokens = model.features(x, ["ln"])["ln"].detach()
    (found,) = encode(model, x, ["ln"], (), [reading]).values()
    if reading == "tokens":
        wanted = tokens
    elif reading == "map":
        wanted = tokens[:, 1:].mT.unflatten(2, (2, 2))
    else:
        wanted = Pool(reading, 12, 1)(tokens).detach()  # type: ignore[arg-type]  # one of them
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_inner_layers_are_read_through_the_norm_or_as_they_are() -> None:
    torch.manual_seed(0)
    model, x = build_model(VIT).eval(), images(side=16)
    block = next(name for name in model.block_names if name not in ("stem", "ln", "trunk_output"))
    plain = model.features(x, [block])[block].detach()
    as_it_is = encode(model, x, [block], (), ["tokens"], trunk_norm=False)[f"{block}/tokens"]
    through_the_norm = encode(model, x, [block], (), ["tokens"])[f"{block}/tokens"]
    np.testing.assert_allclose(as_it_is, plain, atol=1e-6)
    normed = torch.nn.functional.layer_norm(
        plain, (12,), eps=1e-6
    )  # the norm's weights are new: ones and zeros
    np.testing.assert_allclose(through_the_norm, normed, atol=1e-5)


def test_heads_of_several_blocks_are_kept() -> None:
    torch.manual_seed(0)
    model = small_model()
    model.set_heads({("block1", "trunk_output"): [ConcatHead("both", 4)]})
    model.eval()
    x = images()
    wanted = model(x).detach()
    found = encode(model, x, ["block1"], ["both"])
    np.testing.assert_allclose(found["head/both"], wanted, atol=1e-6)


def test_views_are_averaged() -> None:
    encoder = load_encoder(small_model(), settings("block1"))
    x = images(6).numpy()
    np.testing.assert_allclose(
        encoder(x.reshape(3, 2, *x.shape[1:]))["block1/mean"],
        encoder(x[:, None])["block1/mean"].reshape(3, 2, -1).mean(1),
        atol=1e-6,
    )


def test_features_of_places_are_not_averaged_over_crops() -> None:
    several = small_model(preprocessing={**PREPROCESSING, "crops": 3})
    with pytest.raises(ConfigError, match=r"pooling = 'map' keeps places, and the model sees 3 crops"):
        load_encoder(several, settings("block1", (), ["mean", "map"]))
    assert load_encoder(several, settings("block1")).data.views == 3


def test_the_digest_is_of_the_weights() -> None:
    first, same = (load_encoder(small_model(), settings("block1")).about for _ in range(2))
    model = small_model()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    changed = load_encoder(model, settings("block1")).about
    assert first == same
    assert {key for key in first if first[key] != changed[key]} == {"digest"}


def test_an_engine_gives_the_same() -> None:
    pytest.importorskip("onnxruntime")
    x = images(4)
    wanted = encode(small_model(), x, ["block1"], ["species"], ["mean", "map"])
    found = encode(
        small_model(), x, ["block1"], ["species"], ["mean", "map"], engine="onnxruntime", batch_size=4
    )
    assert [*found] == [*wanted]
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_an_exported_file_gives_outputs_of_heads(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    heads = {
        name: Head(kind=task["kind"], classes=tuple(task.get("classes", ()))) for name, task in TASKS.items()
    }
    export(
        small_model(),
        tmp_path / "small.onnx",
        format="onnx",
        heads=heads,
        preprocessing=PREPROCESSING,
        example=images(1),
    )
    x = images()
    found = encode(tmp_path / "small.onnx", x)
    np.testing.assert_allclose(found["head/species"], small_model()(x)["species"].detach(), atol=1e-5)
    assert [*encode(tmp_path / "small.onnx", x, (), ["weight"])] == ["head/weight"]
    with pytest.raises(ConfigError, match="does not have block 'block1': it gives outputs of heads alone"):
        load_encoder(tmp_path / "small.onnx", settings("block1"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["blok1"],), "unknown block 'blok1'; did you mean 'block1'"),
        ((["block1"], ["spezies"]), "unknown head 'spezies'; did you mean 'species'"),
        ((["block1"], (), ["men"]), "unknown pooling 'men'; did you mean 'mean'"),
        ((["block1"], (), ["attention"]), "unknown pooling 'attention'"),
        ((["block1"], (), ["token"]), "pooling = 'token' reads the class token, and block 'block1' gives none"),
    ],
)
def test_what_does_not_fit(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_encoder(small_model(), settings(*arguments))


@pytest.mark.parametrize(
    ("wanted", "device", "threads", "batch"),
    [(None, "cpu", 2, 8), (None, "cpu", 64, 32), (None, "cuda", 2, 32), (5, "cpu", 2, 5), (5, "cuda", 2, 5)],
)
def test_batches_fit_the_caches_of_a_cpu(
    wanted: int | None, device: str, threads: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert choose_batch(Settings(batch_size=wanted), torch.device(device)) == batch
