"""Numbers of any size are learned, and said in the units of the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.predict import Predictor
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train.config import TaskConfig
from classy_vision.train.job import prepare
from classy_vision.train.model import build_initial
from classy_vision.train.run import Trainer
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.tasks import Regression, run_views, standardize, to_units
from tests.models.small import FAMILIES
from tests.train.command import head, job

PRICE, SPREAD = 3e5, 4e4


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images that cost more the lighter they are, in units far from 1."""
    root = tmp_path_factory.mktemp("prices")
    rows = ["path,split,price"]
    for number in range(48):
        light = number / 47
        Image.new("L", (8, 8), round(255 * light)).save(root / f"{number}.png")
        split = "val" if number % 4 == 0 else "train"
        rows.append(f"{number}.png,{split},{PRICE + SPREAD * (2 * light - 1):.0f}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    return root / "table.csv"


def settings(table: Path, **sections: Any) -> TrainConfig:
    data = {"source": "table", "file": str(table)}
    schedule = {"epochs": 8, "batch_size": 6, **sections.pop("schedule", {})}
    tasks = {"price": {"kind": "regression", **sections.pop("task", {})}}
    return TrainConfig.parse(job(data, head("price"), tasks=tasks, schedule=schedule, **sections))


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    train(settings(table), table.parent / "run")
    return table.parent / "run"


def test_large_numbers_are_learned(run: Path) -> None:
    final = json.loads((run / "metrics.json").read_text())["final"]
    assert final["val/price/r2"] > 0.9
    assert 100 < final["val/price/mae"] < SPREAD / 4  # in the units of the table


def test_every_reader_gets_the_units_of_the_table(run: Path) -> None:
    ready = prepare(RunFolder(run).settings())
    rows = ready.records.rows(held_out=True)
    predictor = Predictor.load(run)
    files = [str(ready.records.images[row]) for row in rows]
    said = torch.tensor([found["price"].value for found in predictor.predict(files)])
    away = (said - ready.targets["price"][rows]).abs().mean().item()
    final = json.loads((run / "metrics.json").read_text())["final"]
    assert away == pytest.approx(final["val/price/mae"], rel=1e-2)
    model = ClassyModel.from_checkpoint(run).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 8, 8)).item() == pytest.approx(PRICE, abs=2 * SPREAD)


def test_a_run_goes_on_to_the_same_numbers(
    run: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Trainer, epoch: int, progress: Any = None) -> Any:
        return run_epoch(self, epoch, progress) if epoch < 7 else pytest.fail("stopped")

    run_epoch = Trainer.run_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", stop)
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            train(settings(table), tmp_path / "again")
    resume(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_run_that_starts_from_another_says_the_same_numbers(run: Path, table: Path) -> None:
    """Although it standardises otherwise."""
    ready = prepare(settings(table, weights=str(run), task={"mean": 1e5, "std": 7.0}))
    task = ready.tasks["price"]
    x = torch.rand(3, 1, 3, 8, 8)
    with torch.no_grad():
        now = run_views(build_initial(ready.settings, ready.tasks).eval(), x, ready.tasks)["price"]
        before = run_views(ClassyModel.from_checkpoint(run).eval(), x, ready.tasks)["price"]
    torch.testing.assert_close(task.convert(now), before, rtol=1e-4, atol=1.0)


def test_a_run_that_learned_numbers_as_they_are_goes_on_so(table: Path, tmp_path: Path) -> None:
    written = prepare(settings(table)).settings.model_dump(mode="json")
    assert written["tasks"]["price"]["mean"] == pytest.approx(PRICE, abs=SPREAD / 10)
    del written["tasks"]["price"]["mean"], written["tasks"]["price"]["std"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    task = prepare(RunFolder(tmp_path).settings()).tasks["price"]
    assert isinstance(task, Regression)
    assert (task.mean, task.std) == (0, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "fully_connected"},
        {"name": "fully_convolutional_linear", "activation_func": "identity"},
        {"name": "vision_transformer_head", "num_tokens": 2, "fork_block": "ln"},
    ],
    ids=lambda options: options["name"],
)
def test_every_head_takes_the_units(options: dict[str, Any]) -> None:
    head = {"unique_id": "x", "num_classes": 1, "fork_block": "trunk_output", **options}
    model = build_model({**FAMILIES["vision_transformer"][0], "heads": [head]}).eval()
    tasks = {"x": Regression("x", TaskConfig(kind="regression", mean=1000.0, std=20.0))}
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        to_units(model, tasks)
        torch.testing.assert_close(model(x), 1000 + 20 * before)
        standardize(model, tasks)
        torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-4)


def test_numbers_that_are_all_the_same() -> None:
    task = Regression("x", TaskConfig(kind="regression")).with_statistics(
        lambda: torch.tensor([5.0, 5.0, float("nan")]), True
    )
    assert (task.config.mean, task.config.std) == (5, 1)


def test_statistics_are_for_numbers() -> None:
    with pytest.raises(ConfigError, match="std is for regression and dense_regression, not for multilabel"):
        TaskConfig.parse({"kind": "multilabel", "std": 2.0})


def test_the_best_epoch_of_a_run_has_standardised_heads(table: Path, tmp_path: Path) -> None:
    train(settings(table, schedule={"best": "val/price/loss"}), tmp_path / "run")
    ready = prepare(settings(table, weights=str(tmp_path / "run" / "best.safetensors")))
    model, x = build_initial(ready.settings, ready.tasks).eval(), torch.rand(3, 1, 3, 8, 8)
    with torch.no_grad():
        now = ready.tasks["price"].convert(run_views(model, x, ready.tasks)["price"])
        before = run_views(ClassyModel.from_checkpoint(tmp_path / "run").eval(), x, ready.tasks)["price"]
    torch.testing.assert_close(now, before, rtol=1e-4, atol=1.0)
    stopped = prepare(settings(table, weights=str(tmp_path / "run" / "checkpoint.pt")))
    with pytest.raises(ConfigError, match=r"is what a run is resumed from: take its folder"):
        build_initial(stopped.settings, stopped.tasks)


def test_a_head_that_cannot_take_the_units_learns_numbers_as_they_are(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = FullyConnectedHead.build

    def without_bias(head: FullyConnectedHead, *args: Any) -> None:
        build(head, *args)
        head.output_layers()[0].bias = None

    monkeypatch.setattr(FullyConnectedHead, "build", without_bias)
    config = settings(table, schedule={"epochs": 1, "learning_rate": 1e-9})
    train(config, tmp_path / "run")
    assert RunFolder(tmp_path / "run").settings().tasks["price"].mean is None
    with pytest.raises(ConfigError, match=r"tasks\.price: mean = 5 and std = 1, but the last layers"):
        prepare(settings(table, task={"mean": 5.0}))
