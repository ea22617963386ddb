"""The learning rate that a sweep suggests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classy_vision.config import ConfigError, OperationError
from classy_vision.train import TrainConfig
from classy_vision.train.rates import LOWEST, find_rate, smooth, suggest
from tests.train.command import digits_job, write
from tests.train.test_checkup import run_command


def test_it_is_where_the_loss_falls_fastest() -> None:
    rates = np.geomspace(1e-6, 10, 100).tolist()
    losses = [2 - math.tanh(2 * (math.log10(rate) + 3)) + max(0, math.log10(rate)) * 5 for rate in rates]
    found = suggest(rates, losses)
    assert found.suggestion == pytest.approx(1e-3, rel=0.2)
    assert 1e-2 < found.lowest < 1.5
    assert "try --set schedule.learning_rate=" in str(found)


def test_losses_that_never_fall() -> None:
    rates = np.geomspace(1e-6, 10, 100).tolist()
    with pytest.raises(OperationError, match="falls at no learning rate"):
        suggest(rates, [1 + rate for rate in rates])
    with pytest.raises(OperationError, match="diverged after 3 steps"):
        suggest(rates[:3], [1.0, 2.0, 3.0])


def test_a_sweep_ends_where_it_diverges() -> None:
    assert smooth([1.0, 2.0, math.nan, 3.0]) == pytest.approx([1.0, (0.09 + 0.2) / 0.19])
    found = smooth([1.0] * 12 + [1000.0] * 50)
    assert len(found) == 12
    assert found == pytest.approx([1.0] * 12)


def digits(**schedule: Any) -> TrainConfig:
    return TrainConfig.parse(digits_job(schedule={"batch_size": 64, **schedule}))


@pytest.mark.slow
def test_a_rate_for_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_rate(digits())
    assert 1e-4 < found.suggestion < 0.5
    assert found.suggestion <= found.lowest
    assert found.rates[0] == pytest.approx(LOWEST)
    assert found.losses[0] > min(found.losses)
    assert [*tmp_path.iterdir()] == []
    assert find_rate(digits(learning_rate=0.5)) == found  # whatever the job says


def test_what_has_no_rates() -> None:
    with pytest.raises(ConfigError, match="a sweep of rates says nothing"):
        find_rate(digits(optimizer="schedule_free_sgd"))


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "job.json", digits_job(schedule={"batch_size": 64}))
    code, out, err = run_command(capsys, monkeypatch, config, "--find-rate", "--plot", "rates.png")
    assert (code, err) == (0, "")
    assert out.startswith("the loss falls fastest at a learning rate of ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "rates.png"]
    with Image.open(tmp_path / "rates.png") as image:
        assert image.size[0] > 500
    for wrong, said in (
        (["--find-rate", "--dry-run"], "--dry-run and --find-rate were given together: choose one"),
        (["--plot", "a.png"], "--plot draws what --find-rate or --analyse-heads finds"),
        (["--find-rate", "--plot", "a.jpg"], "unknown ending '.jpg'"),
        (["--find-rate", "--plot", "job.json"], "unknown ending '.json'"),
    ):
        code, out, err = run_command(capsys, monkeypatch, config, *wrong)
        assert (code, out) == (2, "")
        assert said in err
