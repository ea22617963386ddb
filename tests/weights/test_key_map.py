"""The engine that renames keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classy_vision.config import ConfigError
from classy_vision.weights.key_map import KeyMap, list_names

MAP = KeyMap(
    "theirs",
    [
        ("conv1", "stem.conv"),
        ("layer{s+1}.{i}.bn", "blocks.block{s}-{i}.norm"),
        ("layer{s+1}.{i}.conv", "blocks.block{s}-{i}.conv"),
    ],
    legacy=[("stage{s}.{i}", "layer{s}.{i}")],
)


def test_both_directions_and_their_order() -> None:
    ours = {"stem.conv.weight": 1, "blocks.block0-2.conv.weight": 2, "blocks.block0-2.norm.bias": 3}
    theirs = {"conv1.weight": 1, "layer1.2.bn.bias": 3, "layer1.2.conv.weight": 2}
    assert MAP.load(theirs) == ours
    assert list(MAP.save(ours).items()) == list(theirs.items())


@given(st.integers(0, 50), st.integers(0, 50))
def test_numbers(stage: int, index: int) -> None:
    key = f"blocks.block{stage}-{index}.conv.weight"
    (theirs,) = MAP.save({key: 0})
    assert theirs == f"layer{stage + 1}.{index}.conv.weight"
    assert MAP.to_native(theirs) == key


def test_legacy_names() -> None:
    assert MAP.to_native("stage3.1.conv.weight") == "blocks.block2-1.conv.weight"


@pytest.mark.parametrize("key", ["conv10.weight", "layer.0.conv.weight", "layer1.0.convs.weight", ""])
def test_prefixes_are_whole_segments(key: str) -> None:
    assert MAP.to_native(key) is None
    with pytest.raises(ConfigError, match="1 key .* not known in the theirs layout"):
        MAP.load({key: 0, "conv1.weight": 1})


def test_a_key_of_ours_without_a_place() -> None:
    with pytest.raises(ConfigError, match="no place for it: unknown key 'tail.weight'"):
        MAP.save({"tail.weight": 0})


def test_listed() -> None:
    assert list_names("key", ["a"]) == "1 key (a)"
    assert list_names("key", "abcd") == "4 keys (a, b, c, …)"
