"""The original's configs build the original's networks, key by key and weight by weight."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
import torch

from classy_vision.models import build_model
from classy_vision.models.regnet import RegNetParams
from classy_vision.trunk.state import fit_state
from tests.golden.original import entries, initial_weights

SMALL = 12_000_000


def test_there_are_entries() -> None:
    assert len(entries()) > 40
    assert {e["class"] for e in entries().values()} >= {"AnyNet", "RegNet", "ResNet", "ResNeXt"}


@pytest.mark.parametrize("name", entries())
def test_keys_shapes_and_parameters(name: str) -> None:
    entry = entries()[name]
    config = copy.deepcopy(entry["config"])
    with torch.device("meta"):
        model = build_model(config)
    assert config == entry["config"]
    state = model.get_classy_state()
    trunk = [[key, list(value.shape)] for key, value in state["model"]["trunk"].items()]
    assert trunk == entry["keys"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [v.numel() for k, v in state["model"]["trunk"].items() if not k.endswith(statistics)]
    assert sum(parameters) == entry["params_trunk"]
    heads = {
        block: {i: [[k, list(v.shape)] for k, v in head.items()] for i, head in ids.items()}
        for block, ids in state["model"]["heads"].items()
    }
    if "heads" in config:
        assert heads == entry["heads"]
    assert ("version" in state) == (entry["class"].startswith("ResNe") and entry["class"] != "ResNeXt3D")


@pytest.mark.parametrize("name", entries())
def test_the_state_goes_back_and_forth(name: str) -> None:
    entry = entries()[name]
    with torch.device("meta"):
        model = build_model(entry["config"])
    state: dict[str, Any] = model.get_classy_state()
    before = model.state_dict()
    assert fit_state(model, state).keys() == before.keys()
    # Raw, as the original's state_dict() with heads attached.
    raw = dict(state["model"]["trunk"])
    for block, ids in state["model"]["heads"].items():
        raw = {
            ".".join(f"{part}._module" if part == block else part for part in key.split(".")): value
            for key, value in raw.items()
        }
        for head, tensors in ids.items():
            raw.update({f"_heads.{block}.{head}.{key}": value for key, value in tensors.items()})
    assert fit_state(model, raw).keys() == before.keys()


# EfficientNet's classifier was initialised with its trunk; here it is a head, made after it.
SEEDED = [n for n, e in initial_weights().items() if e["params"] < SMALL and "efficientnet" not in n]
SEEDED += ["resnext3d:r2plus1d"]  # which has convolutions that no smaller one has


@pytest.mark.parametrize("name", SEEDED)
def test_seed_0_gives_the_original_weights(name: str) -> None:
    entry = initial_weights()[name]
    torch.manual_seed(0)
    model = build_model(entry["config"])
    digest = hashlib.sha256()
    for key, value in model.get_classy_state()["model"]["trunk"].items():
        digest.update(key.encode() + value.detach().numpy().tobytes())
    assert digest.hexdigest() == entry["seed0_trunk_sha256"]
    with torch.no_grad():
        torch.manual_seed(1)
        output = model.eval().extract_features(torch.randn(*entry["fwd_input"]))
    assert output.flatten()[:8].tolist() == pytest.approx(entry["fwd"]["first8"], rel=1e-3, abs=1e-5)


def test_widths_of_a_fractional_multiplier_are_the_original_ones() -> None:
    # int(24 * 0.4375) = 10 inner channels, of which 10 / 4 = 2.5 rounds to 2 groups of 4; 8 / 0.4375 = 18.3.
    params = RegNetParams(depth=1, w_0=24, w_a=0.0, w_m=2.0, group_width=4, bottleneck_multiplier=0.4375)
    assert params.get_expanded_params() == [(18, 2, 1, 4, 0.4375)]
