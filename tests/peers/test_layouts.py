"""Every layout holds: a peer's file gives the peer's numbers here, and goes back to the peer."""

from __future__ import annotations

import json

import pytest
import torch

from classy_vision.models import build_model
from classy_vision.trunk.loading import load_weights
from classy_vision.trunk.saving import to_layout
from tests.golden.layouts import layouts
from tests.peers.models import CLASSES, PEERS, answer, with_weights


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_s_weights(name: str) -> None:
    layout, make, config, shape = PEERS[name]
    torch.manual_seed(0)
    peer = with_weights(make())
    theirs = {key: value.clone() for key, value in peer.state_dict().items()}
    model = build_model({**config, **({} if "heads" in config else CLASSES)}).double().eval()
    report = load_weights(model, theirs, layout=layout)
    assert report.dropped == {}
    assert len(report.loaded) == len(model.state_dict())

    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    expected = answer(peer, x)
    assert (answer(model, x) - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert not torch.allclose(answer(peer, x.flip(-1)), expected, rtol=1e-3)

    back = to_layout(model, layout)
    for parameter in peer.state_dict().values():
        parameter.zero_()
    peer.load_state_dict(back)
    assert all(torch.equal(value, theirs[key]) for key, value in peer.state_dict().items())
    assert torch.equal(answer(peer, x), expected)


@pytest.mark.parametrize("name", PEERS)
def test_the_names_in_the_golden_file_are_the_peer_s(name: str) -> None:
    shapes = {key: list(value.shape) for key, value in PEERS[name].make().state_dict().items()}
    found = {"layout": PEERS[name].layout, "config": PEERS[name].config, "shapes": shapes}
    assert layouts()[name] == json.loads(json.dumps(found)), "run: python -m tests.golden.layouts"
