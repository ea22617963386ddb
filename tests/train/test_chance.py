"""Dropout and stochastic depth of every family: neither workers, stops nor processes change them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from classy_vision.models import build_model
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train.draws import GlobalDraws, seed_step
from classy_vision.train.run import Trainer
from tests.train.command import SMALL_TRUNK, classy, head, job, write
from tests.train.conftest import make_table
from tests.train.double import in_float64

DEPTH = {"stochastic_depth": 0.5}
MODELS: dict[str, dict[str, Any]] = {
    "anynet": {**SMALL_TRUNK, **DEPTH},
    "recomputed": {**SMALL_TRUNK, **DEPTH, "gradient_checkpointing": True},
    "resnext": {"name": "resnext", "num_blocks": [1, 1], "small_input": True, **DEPTH},
    "densenet": {"name": "densenet", "num_blocks": [2, 2], "growth_rate": 8, "init_planes": 16, **DEPTH},
    "efficientnet": {"name": "efficientnet_b0", **DEPTH},
    "vision_transformer": {
        "name": "vision_transformer",
        "image_size": 16,
        "patch_size": 4,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 32,
        "dropout_rate": 0.2,
        "attention_dropout_rate": 0.2,
        "patch_drop_rate": 0.3,
        **DEPTH,
    },
}
ALL_AT_ONCE = {
    "mixup": 0.4,
    "cutmix": 1.0,
    "ema": 0.9,
    "accumulate": 2,
    "layer_decay": 0.8,
    "head_learning_rate": 0.02,
    "freeze": {"until": "stem"},
    "unfreeze_at": {"epoch": 2},
    "clip_grad_norm": 1.0,
    "batch_size": 8,
}
EXACT = {"optimizer": "sgd", "learning_rate": 0.02, "weight_decay": 1e-4, "batch_size": 6}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(tmp_path_factory.mktemp("images"))


def settings(name: str, table: Path, data: dict[str, Any] | None = None, **schedule: Any) -> TrainConfig:
    source = {"source": "table", "file": str(table), "image_size": 16, "resize": 16, "augment": "crop"}
    config = job({**source, **(data or {})}, head("colour", dropout_rate=0.5), schedule=schedule)
    config["model"] = {**MODELS[name], "heads": config["model"]["heads"]}
    return TrainConfig.parse(config)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "schedule", [{}, {"mixed_precision": "bf16"}, ALL_AT_ONCE], ids=["plain", "bf16", "all at once"]
)
def test_neither_workers_nor_a_stop_change_the_weights(
    name: str, schedule: dict[str, Any], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(name, images, **schedule)
    train(config, tmp_path / "whole")
    calls = []
    losses = Trainer.losses

    def terminate(self: Trainer, *args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 9:  # in the second epoch
            signal.raise_signal(signal.SIGTERM)
        return losses(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "losses", terminate)
        with pytest.raises(SystemExit, match="143"):
            train(settings(name, images, **schedule, workers=2), tmp_path / "stopped")
    resume(tmp_path / "stopped")
    torch.testing.assert_close(weights(tmp_path / "stopped"), weights(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_drop_what_one_drops(name: str, images: Path, tmp_path: Path) -> None:
    if name == "efficientnet":
        # Its many norms over maps of 1x1 make 1e-7 of a difference of 1e-14, in three steps.
        assert_two_are_one(settings(name, images, **EXACT, epochs=1), tmp_path, atol=1e-6)
    else:
        assert_two_are_one(settings(name, images, **EXACT), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anynet", "vision_transformer"])
def test_two_processes_mix_freeze_and_average_as_one_does(name: str, images: Path, tmp_path: Path) -> None:
    parts = {"accumulate": 1} if name == "anynet" else {}  # batch norms see other parts of a batch
    assert_two_are_one(settings(name, images, **{**EXACT, **ALL_AT_ONCE, **parts}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_two_processes_leave_out_the_same_images(batch_size: int, table: Path, tmp_path: Path) -> None:
    for n in range(24):
        if n % 3:
            (table.parent / f"{n}.png").write_text("no image")
    schedule = {**EXACT, "batch_size": batch_size}
    assert_two_are_one(settings("anynet", table, {"on_bad_image": "skip"}, **schedule), tmp_path)


def assert_two_are_one(config: TrainConfig, folder: Path, atol: float = 1e-10) -> None:
    """In float64: the images have one colour, so that in float32 a rounding decides for whole maps at once
    on which side of a ReLU they are, and training makes 1e-3 of that."""
    with in_float64():
        train(config, folder / "one")
    path = write(folder / "job.json", config.model_dump(mode="json"))
    done = classy(path, folder / "two", processes=2, module="tests.train.double")
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(weights(folder / "two"), weights(folder / "one"), rtol=0, atol=atol)
    one, two = (json.loads((folder / name / "metrics.json").read_text())["epochs"] for name in ("one", "two"))
    losses = [
        [epoch[f"{split}/colour/loss"] for epoch in epochs for split in ("train", "val")]
        for epochs in (one, two)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=atol)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_halves_of_a_batch_have_the_gradients_of_the_whole(name: str, recomputed: bool) -> None:
    """Without batch norms' statistics and DDP, of which rounding makes more."""
    torch.manual_seed(0)
    config = {**MODELS[name], "gradient_checkpointing": recomputed}
    model = build_model({**config, "heads": [head("colour", num_classes=3, dropout_rate=0.5)]}).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images, gradients = torch.rand(6, 3, 16, 16), []
    for parts in ([range(6)], [range(0, 6, 2), range(1, 6, 2)]):
        model.zero_grad()
        for rows in (torch.tensor(part) for part in parts):
            seed_step(0, 0, 1)
            with GlobalDraws(rows, 6):
                (model(images[rows]) * torch.arange(3)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
