"""Attentive probes find what pooled features do not show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from classy_vision.embed import attentive
from classy_vision.embed.attentive import fit_attentive, measure_attentive

TRAIN, TEST = torch.arange(300), torch.arange(300, 400)


@pytest.fixture
def tokens() -> Tensor:
    """Tokens (400, 5, 8) far from zero, of very different scales; the first of them has the class."""
    x = torch.randn(400, 5, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, 0] = -1
    x[torch.arange(400), torch.arange(400) % 5, 0] = 3  # this is the token that counts
    return x


def label(x: Tensor) -> Tensor:
    """The class is the sign of a channel of the token that counts."""
    marked = x[:, :, 0].argmax(1)
    return (x[torch.arange(len(x)), marked, 1] > 0).long()


def test_a_token_is_found(tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attentive, "STEPS", 300)
    labels, scales = label(tokens), 10.0 ** torch.arange(-3, 5)
    seen = tokens * scales + 50 * scales

    def read(rows: Tensor) -> Tensor:
        return seen[rows]

    heads = fit_attentive(read, TRAIN, labels[TRAIN], 2, (1e-9, 3e-3, 1e-2))
    slow, *fast = measure_attentive(heads, read, TEST, labels[TEST])
    assert max(fast) > 0.93
    assert slow < 0.8
    right = (heads[1](seen[TEST]).argmax(1) == labels[TEST]).double().mean()
    assert float(right) == pytest.approx(fast[0])  # heads take tokens as they are


def test_the_same_again(tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attentive, "EPOCHS", 1)
    monkeypatch.setattr(attentive, "STEPS", 5)
    labels = label(tokens)
    found = [fit_attentive(tokens.__getitem__, TRAIN, labels[TRAIN], 2, (1e-2,))[0] for _ in range(2)]
    assert all(map(torch.equal, found[0].state_dict().values(), found[1].state_dict().values()))
