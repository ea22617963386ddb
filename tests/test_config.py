"""Configurations and the messages about them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from classy_vision.config import (
    MAX_CONFIG,
    Config,
    ConfigError,
    PositiveInt,
    UnknownNameError,
    read_config,
    unknown,
)
from classy_vision.models import build_model


class Inner(Config):
    depth: PositiveInt = 1


class Outer(Config):
    widths: tuple[PositiveInt, ...]
    inner: Inner = Inner()
    rate: float = 0.0


def test_lists_tuples_and_numpy_numbers() -> None:
    given = {"widths": [np.int64(3), 4], "rate": np.float32(0.5)}
    parsed = Outer.parse(given)
    assert parsed.widths == (3, 4)
    assert type(parsed.widths[0]) is int
    assert parsed.rate == 0.5
    assert type(given["widths"]) is list
    with pytest.raises(ValueError, match="frozen"):
        parsed.rate = 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "job: key 'widths' is required"),
        ({"widths": [1], "rat": 1.0},
         "job: unknown key 'rat'; did you mean 'rate'? (allowed: widths, inner, rate)"),
        ({"widths": [1], "inner": {"dept": 1}}, "unknown key 'dept'; did you mean 'depth'"),
        ({"widths": [True]}, "widths.0 = True: input should be a valid integer"),
        ({"widths": [1.5]}, "widths.0 = 1.5"),
        ({"widths": ["1"]}, "widths.0 = '1'"),
        ({"widths": [0]}, "widths.0 = 0: input should be greater than 0"),
        ({"widths": [1], "rate": float("nan")}, "rate = nan"),
    ],
)  # fmt: skip
def test_messages(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Outer.parse(given, "job")
    assert message in str(error.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Outer.parse({"widths": [0], "rate": "fast", "speed": 1})
    assert len(str(error.value).splitlines()) == 3


def test_unknown_names() -> None:
    error = unknown("model", "resnet5O", ["resnet50", "regnet"])
    assert isinstance(error, UnknownNameError)
    assert isinstance(error, (KeyError, ValueError))
    assert str(error) == "unknown model 'resnet5O'; did you mean 'resnet50'? (allowed: resnet50, regnet)"
    assert "allowed: none" in str(unknown("model", "a", []))
    assert str(unknown("model", "zzz", [f"net{i}" for i in range(99)])).endswith("net39, …)")


def test_read_config(tmp_path: Path) -> None:
    for name, text in {"a.yaml": "depth: 3\n", "a.json": '{"depth": 3}'}.items():
        (tmp_path / name).write_text(text)
        assert read_config(tmp_path / name) == {"depth": 3}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.yaml", None, "No such file"),
        ("bad.yaml", "a: [", "cannot read the config"),
        ("bad.json", "{", "cannot read the config"),
        ("twice.yaml", "a: 1\nb: 2\na: 3\n", "the key 'a' is there twice"),
        ("list.yaml", "- 1", "a config is a mapping of keys to values, not list"),
        ("code.yaml", "!!python/object/apply:os.getcwd []", "cannot read the config"),
    ],
)
def test_unreadable_configs(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / name)


def test_configs_that_hold_themselves(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: resnet18\nheads: &heads [*heads]\n")
    with pytest.raises(ConfigError, match=r"config\.yaml': it holds itself"):
        read_config(config)
    config.write_text("name: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_config(config)
    heads: list[object] = []
    heads.append(heads)
    with pytest.raises(ConfigError, match="the model config holds itself"):
        build_model({"name": "resnet18", "heads": heads})


def tenfold(first: str, then: str, last: str) -> str:
    """Eight anchors, each of ten times the one before."""
    rows = [f"a0: &a0 {first}", *(f"a{i}: &a{i} {then % ', '.join([f'*a{i - 1}'] * 10)}" for i in range(1, 9))]
    return "\n".join([*rows, last])


BOMBS = {
    "lists": tenfold("[x]", "[%s]", "heads: *a8"),
    "mappings": "a0: &a0 {x: 1}\n"
    + "\n".join(f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}" for i in range(1, 40)),
    "merge keys": tenfold("{x: 1}", "{<<: [%s]}", "<<: *a8"),
    "keys": "\n".join(f"k{i}: 1" for i in range(200_000)),
    "a scalar": "name: " + "x" * MAX_CONFIG,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_while_they_are_parsed(kind: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(BOMBS[kind])
    began = time.monotonic()
    with pytest.raises(ConfigError, match="too large for a config: more than"):
        read_config(config)
    assert time.monotonic() - began < 5


def test_lists_that_are_shared_count_wherever_they_are() -> None:
    shared: list[object] = ["x"]
    for _ in range(20):
        shared = [shared, shared]
    with pytest.raises(ConfigError, match="the model config is too large"):
        build_model({"name": "resnet18", "heads": shared})


@pytest.mark.parametrize(
    "number",
    ["9" * 5000, str(2**63), str(-(2**63) - 1), "0x" + "f" * 9999, "0b" + "1" * 64, "1" + ":00" * 5000],
)
def test_integers_have_64_bits(number: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"num_classes: {number}\n")
    with pytest.raises(ConfigError, match="an integer has more than 64 bits in line 1, column 14") as error:
        read_config(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)
    if number.lstrip("-").isascii() and ":" not in number and "0x" not in number and "0b" not in number:
        (tmp_path / "a.json").write_text(f'{{"num_classes": {number}}}')
        with pytest.raises(ConfigError, match="an integer has more than 64 bits"):
            read_config(tmp_path / "a.json")


def test_integers_of_python_have_64_bits() -> None:
    with pytest.raises(ConfigError, match="an integer has more than 64 bits"):
        build_model("resnet18", num_classes=10**5000)
    with pytest.raises(ConfigError, match="unknown model"):
        build_model({"name": 10**5000})


@pytest.mark.parametrize(
    "text",
    ["a: 2001-99-99", "a: !!int b", "a: !!float ''", "a: !!bool q", "a: !!timestamp x", "a: 'b", "a: *b",
     "a: \0", "--- a\n--- b", "? [a]\n: b", "[" * 100_000, "\n".join(" " * i + "a:" for i in range(99)),
     "<<: 3"],
)  # fmt: skip
def test_yaml_that_is_not_what_it_says(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match="cannot read the config") as error:
        read_config(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_messages_stay_short() -> None:
    with pytest.raises(ConfigError) as error:
        build_model({"name": "resnet18", **{f"k{i}": "x" * 5000 for i in range(5000)}})
    assert len(str(error.value)) < 10_000
    assert "and 4,980 more" in str(error.value)
    with pytest.raises(ConfigError) as error:
        build_model({"name": "x" * 5_000_000})
    assert len(str(error.value)) < 2000
