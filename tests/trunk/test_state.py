"""Weights go in and out, in the original's layouts and ours, whole or not at all."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from classy_vision.config import ConfigError
from classy_vision.heads import IdentityHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.weights.files import read_tensors, write_tensors
from tests.models.small import FAMILIES, batch, build, config


def checkpoint_of(model: ClassyModel, given: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_args": {"config": {"model": given}},
        "classy_state_dict": {"base_model": model.get_classy_state(), "phase_idx": 3},
    }


def raw_of(model: ClassyModel) -> dict[str, Any]:
    """What the original's state_dict() gives with heads attached."""
    state = model.get_classy_state()["model"]
    raw = {}
    for key, value in state["trunk"].items():
        parts = [f"{part}._module" if part in state["heads"] else part for part in key.split(".")]
        raw[".".join(parts)] = value
    for block, heads in state["heads"].items():
        for head, tensors in heads.items():
            raw.update({f"_heads.{block}.{head}.{key}": value for key, value in tensors.items()})
    return raw


def scrambled(family: str = "regnet") -> ClassyModel:
    model = build(family).eval()
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def same(given: ClassyModel, wanted: ClassyModel) -> None:
    for (name, a), b in zip(given.state_dict().items(), wanted.state_dict().values()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("load", ["load_state_dict", "set_classy_state"])
@pytest.mark.parametrize("layout", ["native", "classy state", "checkpoint", "raw"])
def test_every_layout_wherever_it_is_handed_over(family: str, load: str, layout: str) -> None:
    model, given = build(family), scrambled(family)
    state: dict[str, Any] = {
        "native": model.state_dict,
        "classy state": model.get_classy_state,
        "checkpoint": lambda: checkpoint_of(model, {}),
        "raw": lambda: raw_of(model),
    }[layout]()
    kept = pickle.dumps(state)
    getattr(given, load)(state)
    same(given, model)
    assert pickle.dumps(state) == kept  # what was handed over is as it was


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_containers_and_old_files(family: str) -> None:
    model = build(family)
    native, raw = model.state_dict(), raw_of(model)
    for state in (
        {f"module.{key}": value for key, value in native.items()},
        {f"_orig_mod.module.{key}": value for key, value in raw.items()},
        {"state_dict": native, "epoch": 3},
        {"model": {f"module.{key}": value for key, value in native.items()}},
        {key: value for key, value in native.items() if "num_batches_tracked" not in key},
    ):
        given = scrambled(family)
        given.load_state_dict(state)
        same(given, model)


def test_a_raw_state_with_a_head_without_weights() -> None:
    model, given = build("regnet", "identity"), scrambled("regnet")
    given.set_heads({block: [IdentityHead(block)] for block in model.get_heads()})
    given.load_state_dict(raw_of(model))
    same(given, model)


def test_the_trunk_alone() -> None:
    model, given = build("regnet"), build("regnet")
    head = given.state_dict()["heads.block1.early.fc.weight"].clone()
    for tensor in model.state_dict().values():
        tensor.fill_(1)
    for state in (model.state_dict(), model.get_classy_state()):
        given.load_trunk_state(state)
        assert torch.equal(given.state_dict()["heads.block1.early.fc.weight"], head)
        assert given.state_dict()["stem.conv.weight"].unique().tolist() == [1]
    with pytest.raises(ConfigError, match="missing"):
        given.load_trunk_state({})


def test_as_a_part_of_another_module() -> None:
    model, inner = build("resnext"), scrambled("resnext")
    whole = nn.ModuleDict({"net": inner, "other": nn.Linear(2, 2)})
    state = {f"net.{key}": value for key, value in raw_of(model).items()}
    state.update({f"other.{key}": value for key, value in whole["other"].state_dict().items()})
    whole.load_state_dict(state)
    same(inner, model)
    whole.load_state_dict(whole.state_dict())
    same(inner, model)


def test_a_state_without_heads_leaves_the_heads() -> None:
    model, given = build("regnet"), build("regnet")
    head = given.state_dict()["heads.block1.early.fc.weight"].clone()
    for tensor in model.state_dict().values():
        tensor.fill_(1)
    model.clear_heads()
    given.set_classy_state(model.get_classy_state())
    assert torch.equal(given.state_dict()["heads.block1.early.fc.weight"], head)
    assert given.state_dict()["stem.conv.weight"].unique().tolist() == [1]


def test_head_states_alone() -> None:
    model, given = build("regnet"), build("regnet")
    for tensor in model.state_dict().values():
        tensor.fill_(1)
    trunk = given.state_dict()["stem.conv.weight"].clone()
    with pytest.raises(ConfigError, match="holds no heads"):
        given.load_head_states({"stem.conv.weight": trunk})
    given.load_head_states(model.get_classy_state())
    assert given.state_dict()["heads.block1.early.fc.weight"].unique().tolist() == [1]
    assert torch.equal(given.state_dict()["stem.conv.weight"], trunk)


def test_deep_copy() -> None:
    model = build("regnet")
    alias, copied = model.get_classy_state(), model.get_classy_state(deep_copy=True)
    model.state_dict()["stem.conv.weight"].fill_(7)
    assert alias["model"]["trunk"]["stem.stem.0.weight"].unique().tolist() == [7]
    assert 7 not in copied["model"]["trunk"]["stem.stem.0.weight"]


def _without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != key}


def _cycle() -> dict[str, Any]:
    heads: dict[str, Any] = {}
    heads["block1"] = heads
    return heads


def _deep() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for _ in range(100_000):
        tree = {"block1": tree}
    return tree


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: _without(s, "stem.conv.weight"), r"1 key \(stem.conv.weight\) missing"),
        (lambda s: {**s, "stem.conv.wait": torch.ones(1)}, r"1 key \(stem.conv.wait\) unexpected"),
        (lambda s: {**s, "stem.conv.weight": torch.ones(1)}, r"1 shape \(stem.conv.weight: \(1,\) for"),
        (lambda s: {**s, "stem.conv.weight": "text"}, r"1 key \(stem.conv.weight\) without a tensor"),
        (
            lambda s: {**s, "stem.conv.weight": s["stem.conv.weight"].numpy()},
            r"1 key \(stem.conv.weight\) without a tensor",
        ),
        (lambda s: {f"net.{k}": v for k, v in s.items()}, "keys .*not known in the ClassyVision layout"),
        (lambda s: build("resnext").state_dict(), "do not fit this RegNet"),
        (lambda s: build("resnext").get_classy_state(), "not known in the ClassyVision layout"),
        (lambda s: {}, "missing"),
        (
            lambda s: {"trunk": s, "heads": _cycle()},
            "'heads.block1' is nested .*twice",
        ),
        (lambda s: {"trunk": s, "heads": _deep()}, "nested too deeply"),
        (lambda s: {"trunk": s, "heads": [1]}, "a mapping by block, not a list"),
    ],
    ids=[
        *(
            "missing",
            "left over",
            "shape",
            "no tensor",
            "array",
            "prefix",
            "other",
            "other's original",
            "empty",
        ),
        *("cycle", "deep", "list"),
    ],
)
def test_loads_all_or_nothing(spoil: Any, message: str) -> None:
    source = build("regnet")
    for tensor in source.state_dict().values():
        tensor.fill_(3)
    for load in ("load_state_dict", "set_classy_state"):
        model, untouched = build("regnet"), build("regnet")
        with pytest.raises(ConfigError, match=message) as error:
            getattr(model, load)(spoil(dict(source.state_dict())))
        assert len(str(error.value)) < 500
        same(model, untouched)
        assert isinstance(error.value, RuntimeError) or re.search("layout|nested|mapping", message)


def test_heads_of_other_blocks_and_ids() -> None:
    state = build("regnet").get_classy_state()
    state["model"]["heads"] = {"block1": {"earli": state["model"]["heads"]["block1"]["early"]}}
    with pytest.raises(ConfigError, match=r"heads.block1.earli.fc.weight.*unexpected"):
        build("regnet").set_classy_state(state)


def test_strict_false_lets_keys_be_missing_or_left_over() -> None:
    model = build("regnet")
    state = _without(model.state_dict(), "stem.conv.weight")
    result = scrambled().load_state_dict({**state, "more": torch.ones(1)}, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["stem.conv.weight"], ["more"])
    assert scrambled().load_state_dict({"foreign.weight": torch.ones(1)}, strict=False).unexpected_keys
    with pytest.raises(ConfigError, match="differ"):
        scrambled().load_state_dict({"stem.conv.weight": torch.ones(1)}, strict=False)


# -- files


def test_from_checkpoint(tmp_path: Path) -> None:
    model = build("regnet").eval()
    checkpoint = checkpoint_of(model, config("regnet"))
    torch.save(checkpoint, tmp_path / "checkpoint.torch")
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), {})
    (tmp_path / "config.yaml").write_text(f"model: {config('regnet')}")
    (tmp_path / "original").mkdir()
    torch.save(checkpoint, tmp_path / "original" / "checkpoint.torch")
    for source in (checkpoint, tmp_path / "checkpoint.torch", tmp_path, tmp_path / "original"):
        same(ClassyModel.from_checkpoint(source), model)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with pytest.raises(ConfigError, match="does not say which model"):
        ClassyModel.from_checkpoint(tmp_path / "state.pt")


def test_writing_fails_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_tensors(path, {"a": torch.zeros(2)}, {})
    assert read_tensors(path)["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_meta_model_takes_weights_by_assignment() -> None:
    model = build("regnet").eval()
    with torch.device("meta"):
        given = build_model(config("regnet")).eval()
    with pytest.raises(ConfigError, match="pass assign=True"):
        given.load_state_dict(model.state_dict())
    given.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(given(batch())["late"], model(batch())["late"])
