"""What all tests share."""

from __future__ import annotations

import os

# Workers share the processors: with threads of their own they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from classy_vision.heads import HEADS
from classy_vision.models import MODELS


@pytest.fixture(autouse=True)
def _registries_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for registry in (HEADS, MODELS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(autouse=True, scope="session")
def _features_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Features of frozen trunks are kept where no other run reads them."""
    os.environ["CLASSY_FEATURES"] = str(tmp_path_factory.mktemp("features"))
