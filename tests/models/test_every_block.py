"""A config with a head on every block of a model builds, runs and trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from classy_vision.cost import OnMeta
from classy_vision.models import MODELS, build_model
from tests.models.small import FAMILIES, batch, loss

ENTRIES = [entry.name for entry in MODELS if entry.cls.__module__.startswith("classy_vision.")]
PRESETS = [entry.name for entry in MODELS if entry.is_preset and entry.name in ENTRIES]


def with_heads(config: dict[str, Any], names: list[str]) -> dict[str, Any]:
    def heads() -> Iterator[dict[str, Any]]:
        for name in names:
            yield {"name": "fully_connected", "unique_id": name, "num_classes": 3, "fork_block": name}

    return {**config, "heads": list(heads())}


def test_every_family_is_here() -> None:
    assert {entry.cls for entry in MODELS if entry.name in ENTRIES} == {
        MODELS[config["name"]].cls for config, _, _ in FAMILIES.values()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_of_a_family(family: str) -> None:
    config = FAMILIES[family][0]
    torch.manual_seed(0)
    names = build_model({**config, "heads": None}).block_names
    model = build_model(with_heads(config, names)).double()
    images = batch(4).double()
    torch.manual_seed(1)  # of dropout
    outputs = model(images)
    assert sorted(outputs) == sorted(names)
    assert all(output.shape == (4, 3) and output.isfinite().all() for output in outputs.values())

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    first = loss(outputs)
    first.backward()
    optimizer.step()
    heads = {name for name in before if name.startswith("heads.")}
    assert {n for n, p in model.named_parameters() if n in heads and not p.equal(before[n])} == heads
    assert all(p.grad is not None for p in model.parameters())
    torch.manual_seed(1)
    assert loss(model(images)) < first


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_name_of_a_preset(preset: str) -> None:
    """Without memory: attaching is what asks every block for its channels."""
    with OnMeta():
        names = build_model(preset, heads=[]).block_names
        model = build_model(with_heads({"name": preset}, names))
    assert sorted(model.get_heads()) == sorted(names)
    for name, info in model.feature_info(names).items():
        (head,) = model.get_heads()[name]
        assert head.in_plane == info.channels
