"""The multi-layer perceptron."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.models import build_model

CONFIG = {"name": "mlp", "input_dim": 12, "output_dim": 5, "hidden_dims": [8, 6]}


def test_any_memory_format_and_shape() -> None:
    model = build_model(CONFIG).eval()
    x = torch.randn(2, 3, 2, 2)
    wanted = model(x.reshape(2, 12))
    for given in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(model(given), wanted)


def test_blocks() -> None:
    model = build_model(CONFIG)
    names = ["stem", "layer0", "1", "0", "layer1", "3", "2", "layer2", "4", "trunk_output", "mlp"]
    assert model.block_names == names
    assert model.feature_info(["layer1"])["layer1"].channels == 6
    assert build_model({**CONFIG, "hidden_dims": []})(torch.zeros(2, 12)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, {"1": "layer0", "3": "layer1", "4": "layer2"}),
        ({"use_batchnorm": True}, {"2": "layer0", "1": "layer0", "5": "layer1", "6": "layer2"}),
        ({"dropout": 0.5, "first_dropout": True}, {"0": "stem", "3": "layer0", "6": "layer1", "7": "layer2"}),
    ],
)
def test_the_originals_numbers(options: dict[str, Any], numbers: dict[str, str]) -> None:
    model = build_model({**CONFIG, **options}).eval()
    key_map = model.key_map()
    x = torch.randn(3, 12)
    for number, block in numbers.items():
        head = {"name": "identity", "unique_id": "a", "fork_block": number}
        wanted = model.features(x, [block])[block]
        torch.testing.assert_close(model.features(x, [number])[number], wanted)
        assert list(build_model({**CONFIG, **options, "heads": [head]}).get_heads()) == [number]
    # The numbers are those of the original's keys.
    last = max(numbers, key=int)
    assert key_map.to_native(f"mlp.{last}.weight") == "blocks.layer2.linear.weight"
    with pytest.raises(ConfigError, match="unknown block '9'"):
        model.features(x, ["9"])


def test_dropout_and_norm_on_the_input() -> None:
    model = build_model(
        {**CONFIG, "dropout": 0.5, "first_dropout": True, "use_batchnorm": True, "first_batchnorm": True}
    )
    assert [name for name, _ in model.stem.named_children()] == ["dropout", "norm"]
    assert [name for name, _ in model.blocks["layer0"].named_children()] == ["linear", "norm", "dropout", "act"]
    outputs = [model(torch.ones(4, 12)) for _ in range(2)]
    assert not torch.equal(*outputs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_dim": 0}, "input_dim = 0"),
        ({"first_batchnorm": True}, "first_batchnorm needs use_batchnorm"),
        ({"stochastic_depth": 0.1}, "stochastic_depth means nothing here"),
        ({"hidden_dims": None}, "hidden_dims = None"),
    ],
)
def test_bad_configs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model({**CONFIG, **given})


def test_bad_inputs() -> None:
    with pytest.raises(ValueError, match=r"input_dim=12 cannot take samples of shape \(3, 5\)"):
        build_model(CONFIG)(torch.zeros(1, 3, 5))
