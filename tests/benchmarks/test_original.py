"""The original answers from a process of its own, with our weights."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from benchmarks import original
from benchmarks.models import training_step
from classy_vision.models import build_model


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "FOLDER", original.ROOT / "build" / "nothing")
    assert not original.there()
    assert original.note() == ["the original is left out: build/nothing does not have it"]


def test_a_process_that_sees_us_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(original, "environment", lambda: None)
    with pytest.raises(SystemExit, match="has ended with status 1"), original.Original() as process:
        process.ask("time", 0)
    assert "the original should be in" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not original.there() or not find_spec("fvcore"),
    reason="make bench installs the original and what it imports",
)
def test_it_gives_our_numbers() -> None:
    torch.manual_seed(0)
    ours = build_model("resnet50", num_classes=1000).eval()
    x, target = torch.randn(2, 3, 64, 64), torch.tensor([1, 2])
    with original.Original() as process:
        process.load("resnet50", ours, x, target)
        for mode in ("plain", "channels last"):
            output, run = process.forward(mode)
            torch.testing.assert_close(output, ours(x), rtol=1e-4, atol=1e-4)
            assert run() > 0
        assert process.step("plain")() > 0
        process.load("resnet50", ours, x, tap="block0-2")
        feature, _ = process.forward("plain")
        torch.testing.assert_close(feature, ours.features(x, ["block0"])["block0"], rtol=1e-4, atol=1e-4)
        assert process.build("densenet121")() > 0
    training_step(ours, "plain", x, target)()  # the same here
