"""The averages of weights: a moving one, and that of the ends of epochs with the norms that belong to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.data.batches import EpochBatches
from classy_vision.models import ClassyModel
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train.averaging import collecting, find_norms, make_average
from classy_vision.train.config import ScheduleConfig, SwaConfig
from classy_vision.train.job import prepare
from classy_vision.train.optimizer import learning_rate
from classy_vision.train.run import Trainer
from tests.train.command import head, job
from tests.train.stops import assert_same_runs, read_history, train_and_stop
from tests.train.test_chance import assert_two_are_one


def test_no_average_is_kept_unless_it_is_asked_for() -> None:
    assert make_average(nn.Linear(1, 1), ScheduleConfig()) is None


def test_the_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = make_average(model, ScheduleConfig(ema=0.5))
    assert average is not None
    wanted = None
    for steps, value in enumerate([1.0, 2.0, 4.0]):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(value)
            model[1].num_batches_tracked.fill_(steps)
        average.update_parameters(model)
        weight = max(0.5, 9 / (10 + steps))
        wanted = value if wanted is None else wanted + weight * (value - wanted)
    torch.testing.assert_close(average.module[0].weight.item(), wanted)
    torch.testing.assert_close(average.module[1].running_mean.item(), wanted)
    assert average.module[1].num_batches_tracked == 2
    assert not any(p.requires_grad for p in average.parameters())
    assert not average.module.training


# -- the ends of epochs


def test_the_rate_is_constant_from_where_averaging_begins() -> None:
    plain = ScheduleConfig(epochs=10)
    for given, wanted in ((0.5, 0.5), (None, learning_rate(plain, 60, 10))):
        schedule = ScheduleConfig(epochs=10, swa=SwaConfig(epoch=7, learning_rate=given))
        rates = [learning_rate(schedule, step, 10) for step in range(100)]
        assert rates[:60] == [learning_rate(plain, step, 10) for step in range(60)]
        assert set(rates[60:]) == {wanted}


def test_norms_collect_plain_means_unless_they_are_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    model[2].eval()
    model[0].running_mean.fill_(9.0)
    batches = torch.randn(3, 8, 2)
    norms = find_norms(model)
    assert norms == [model[0]]
    with collecting(norms):
        for batch in batches:
            model[0](batch)
    torch.testing.assert_close(model[0].running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(model[0].running_var, batches.var(1).mean(0))
    assert model[0].momentum == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 0.9}, "swa and ema are two averages"),
        ({"optimizer": "schedule_free_sgd"}, "averages the weights itself"),
        ({"epochs": 1}, "swa.epoch = 2 is after the last of 1 epochs"),
        ({"warmup_epochs": 1.5}, "begins before warmup_epochs = 1.5 are over"),
        ({"swa": {"epoch": 0}}, "epoch = 0"),
        ({"swa": {}}, "epoch"),
    ],
)
def test_an_average_that_cannot_be_is_explained(options: dict[str, Any], message: str, table: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(table, **options)


def settings(table: Path, **schedule: Any) -> TrainConfig:
    schedule = {"epochs": 3, "swa": {"epoch": 2}, **schedule}
    config = job({"source": "table", "file": str(table)}, head("colour", dropout_rate=0.5), schedule=schedule)
    config["model"]["stochastic_depth"] = 0.5
    return TrainConfig.parse(config)


def test_a_run_gives_the_mean_of_its_last_epochs(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[dict[str, Tensor]] = []
    run_epoch = Trainer.run_epoch

    def record(self: Trainer, *args: Any) -> Any:
        row = run_epoch(self, *args)
        ends.append({key: value.clone() for key, value in self.network.state_dict().items()})
        assert (self.result is self.network) == (len(ends) < 2)
        return row

    monkeypatch.setattr(Trainer, "run_epoch", record)
    freeze = {"freeze": {"until": "block1"}, "unfreeze_at": {"epoch": 3, "until": "stem"}}
    train(settings(table, **freeze), table.parent / "run")
    given = load_file(table.parent / "run" / "model.safetensors")
    rates = [row["learning_rate"] for row in read_history(table.parent / "run")]
    assert rates[1] == rates[2] == learning_rate(ScheduleConfig(epochs=3, learning_rate=1e-2), 4, 4)
    for key, value in given.items():
        wanted = torch.stack([end[key].double() for end in ends[1:]]).mean(0)
        if key.endswith(("running_mean", "running_var")) and not key.startswith("stem."):
            assert (value - wanted).abs().max() > 1e-4  # they are of the averaged weights
            assert (value - ends[-1][key]).abs().max() > 1e-4
        elif not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)


# Of 4 batches to train on and 2 held out: in the steps, norms and evaluation of the second epoch, and after it.
@pytest.mark.parametrize(
    "batches", [pytest.param(9, marks=pytest.mark.slow), 12, 16, pytest.param(18, marks=pytest.mark.slow)]
)
def test_a_stopped_run_is_resumed_to_the_bit(batches: int, table: Path) -> None:
    whole, stopped = table.parent / "whole", table.parent / "stopped"
    train(settings(table), whole)
    train_and_stop(settings(table), stopped, batches)
    resume(stopped)
    assert_same_runs(stopped, whole)


@pytest.mark.slow
def test_two_processes_average_as_one(table: Path) -> None:
    assert_two_are_one(settings(table, optimizer="sgd"), table.parent)


def test_norms_of_a_schedule_free_run_are_those_of_its_average(table: Path, tmp_path: Path) -> None:
    data = {"source": "table", "file": str(table)}
    schedule = {"optimizer": "schedule_free_sgd", "learning_rate": 0.1}
    settings = TrainConfig.parse(job(data, head("colour"), schedule=schedule))
    train(settings, tmp_path / "run")
    model, ready = ClassyModel.from_checkpoint(tmp_path / "run"), prepare(settings)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    norms = find_norms(model.train())
    samples, order = ready.samples(seed=0), EpochBatches(ready.records.rows(held_out=False), 4, seed=0)
    order.epoch = 1
    with collecting(norms), torch.no_grad():
        for keys in order:
            model(torch.stack([samples[key].views[0] for key in keys]))
    torch.testing.assert_close({name: model.state_dict()[name] for name in before}, before)
