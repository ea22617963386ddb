"""Losses of several heads: how much each counts, and gradients that do not fight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train import job as jobs
from classy_vision.train import run as loop
from classy_vision.train.config import ScheduleConfig, TaskConfig
from classy_vision.train.optimizer import make_optimizer
from classy_vision.train.tasks import KINDS, Task
from classy_vision.train.weighting import backward_upgrad, make_log_variances, penalise, weigh
from classy_vision.weights.state import head_of
from tests.train.command import classy, head, job, write

HEADS = head("colour"), head("tags", "block1"), head("light", "block1")
TASKS = {"colour": {"weight": 3.0}, "tags": {"kind": "multilabel"}, "light": {"kind": "regression"}}
UNCERTAIN = {"loss_weighting": "uncertainty", "epochs": 2}


def settings(table: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.parse(job({"source": "table", "file": str(table)}, *HEADS, tasks=TASKS, **sections))


def tasks_of(**kinds: Any) -> dict[str, Task]:
    return {name: KINDS[kind](name, TaskConfig(kind=kind)) for name, kind in kinds.items()}


def test_the_weighted_loss_is_that_of_the_paper() -> None:
    tasks = tasks_of(a="multilabel", b="regression", c="multilabel")
    log_variances = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    losses, labelled = torch.tensor([1.5, 0.25, 0.0]), torch.tensor([True, True, False])
    total = (losses * weigh(log_variances, tasks)).sum() + penalise(log_variances, labelled)
    sigma = log_variances.detach().exp().sqrt()
    by_hand = 1.5 / sigma[0] ** 2 + sigma[0].log() + 0.25 / (2 * sigma[1] ** 2) + sigma[1].log()
    torch.testing.assert_close(total.detach(), by_hand)
    total.backward()  # type: ignore[no-untyped-call]  # of torch
    assert log_variances.grad is not None
    wanted = [0.5 - 1.5 / sigma[0] ** 2, 0.5 - 0.125 / sigma[1] ** 2, 0.0]  # none of a head without labels
    torch.testing.assert_close(log_variances.grad, torch.tensor([float(value) for value in wanted]))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_variances_learn_without_decay(optimizer: Any) -> None:
    schedule = ScheduleConfig(optimizer=optimizer, loss_weighting="uncertainty", layer_decay=0.5)
    learned = make_log_variances(schedule, tasks_of(a="multilabel"), torch.device("cpu"))
    assert learned is not None
    model = make_pair()
    found = [g for g in make_optimizer(model, schedule, learned).param_groups if g["params"][0] is learned]
    assert [(group["weight_decay"], group["scale"]) for group in found] == [(0.0, 1.0)]
    assert make_log_variances(ScheduleConfig(), {}, torch.device("cpu")) is None


def history(run: Path) -> list[dict[str, float]]:
    rows = json.loads((run / "metrics.json").read_text())["epochs"]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def test_a_run_learns_its_weights_and_resumes_to_the_bit(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = {**UNCERTAIN, "accumulate": 2, "optimizer": "sgd", "learning_rate": 0.05}
    whole, stopped = table.parent / "whole", table.parent / "stopped"
    row = train(settings(table, schedule=schedule), whole)
    weights = {name: row[f"train/{name}/loss_weight"] for name in TASKS}
    starts = {"colour": 3.0, "tags": 1.0, "light": 0.5}
    assert all(weights[name] != start for name, start in starts.items())
    assert all(weight > 0 for weight in weights.values())
    original = loop.Trainer.run_epoch

    def fail(self: loop.Trainer, epoch: int, progress: Any = None) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    monkeypatch.setattr(loop.Trainer, "run_epoch", fail)
    with pytest.raises(KeyboardInterrupt):
        train(settings(table, schedule=schedule), stopped)
    monkeypatch.undo()
    resume(stopped)
    assert history(whole) == history(stopped)
    ours, theirs = (load_file(run / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_two_processes_learn_the_same_weights(table: Path) -> None:
    schedule = {**UNCERTAIN, "optimizer": "sgd", "learning_rate": 0.05, "channels_last": False}
    wanted = settings(table, schedule=schedule)
    config = write(table.parent / "job.json", wanted.model_dump(mode="json"))
    done = classy("train", config, "--output", table.parent / "two", processes=2)
    assert done.returncode == 0, done.stderr
    train(wanted, table.parent / "one")
    for one, two in zip(history(table.parent / "one"), history(table.parent / "two")):
        assert two == pytest.approx(one, rel=1e-3)


def test_what_cannot_be_weighed(table: Path) -> None:
    config = job({"source": "table", "file": str(table)}, HEADS[0], schedule=UNCERTAIN)
    with pytest.raises(ConfigError, match="is for several heads, and there is one: colour"):
        jobs.prepare(TrainConfig.parse(config))
    for more in ({"accumulate": 2}, {"compile": True}, {"mixed_precision": "fp16"}):
        with pytest.raises(ConfigError, match="takes the gradients of each loss apart"):
            ScheduleConfig.parse({"loss_weighting": "upgrad", **more})


def test_upgrad_says_what_to_install(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"upgrad needs: pip install .*\[multitask\]"):
        jobs.prepare(settings(table, schedule={"loss_weighting": "upgrad"}))


# -- gradients that do not fight


def make_pair() -> ClassyModel:
    """A trunk of two layers with a head on each."""
    torch.manual_seed(0)
    model = ClassyModel.from_model(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), ["0", "1"], (3,))
    heads = {name: [FullyConnectedHead(f"h{name}", num_classes=2, in_plane=4)] for name in ("0", "1")}
    model.set_heads(heads)
    return model


def losses_of(model: ClassyModel, sign: float) -> Tensor:
    outputs = model(torch.eye(3))
    return torch.stack([outputs["h0"].sum(), sign * outputs["h1"].sum() - 3 * outputs["h0"].sum()])


def gradients(model: ClassyModel, shared: bool) -> Tensor:
    named = model.named_parameters()
    return torch.cat(
        [p.grad.flatten() for name, p in named if p.grad is not None and bool(head_of(name)) != shared]
    )


def test_a_step_makes_no_loss_larger() -> None:
    pytest.importorskip("torchjd")
    apart = []
    for which in range(2):
        model = make_pair()
        losses_of(model, 1.0)[which].backward()  # type: ignore[no-untyped-call]  # of torch
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        apart.append(gradients(model, shared=True))
    assert apart[0] @ (apart[0] + apart[1]) < 0  # of the sum, one loss would grow
    model = make_pair()
    backward_upgrad(losses_of(model, 1.0), model)
    found = gradients(model, shared=True)
    assert all(gradient @ found > -1e-4 for gradient in apart)
    assert found.norm() > 0
    plain = make_pair()
    losses_of(plain, 1.0).sum().backward()  # type: ignore[no-untyped-call]  # of torch
    torch.testing.assert_close(gradients(model, shared=False), gradients(plain, shared=False))


def test_without_conflicts_it_is_the_sum(table: Path) -> None:
    pytest.importorskip("torchjd")
    ours, plain = make_pair(), make_pair()
    outputs = ours(torch.eye(3))
    backward_upgrad(torch.stack([outputs["h0"].sum(), 2 * outputs["h0"].sum()]), ours)
    (3 * plain(torch.eye(3))["h0"].sum()).backward()
    for p in (*ours.parameters(), *plain.parameters()):
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    for shared in (True, False):
        torch.testing.assert_close(gradients(ours, shared), gradients(plain, shared), atol=1e-4, rtol=1e-3)
    row = train(settings(table, schedule={"loss_weighting": "upgrad", "epochs": 1}), table.parent / "run")
    assert row["train/colour/loss"] > 0
