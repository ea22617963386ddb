"""The folder of a run: what is in it, and how it survives a crash or a full disk."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from classy_vision.config import ConfigError, OperationError, first_line, system_error
from classy_vision.train.config import TrainConfig, dump_settings, load_settings
from classy_vision.weights.files import WEIGHTS, read_tensors, replacing, write_tensors

CONFIG = "config.yaml"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.json"
TABLE = "metrics.csv"
CURVES = "curves.png"
PREDICTIONS = "predictions.png"
TENSORBOARD = "tensorboard"

Row = dict[str, float]
"""What was measured in an epoch, e.g. "val/species/accuracy"."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of what goes wrong inside what it was for, and how to resume."""
    what = f"cannot write {str(path)!r}"
    try:
        yield
    except (OSError, OperationError, SafetensorError, RuntimeError) as error:
        told: ConfigError = OperationError(f"{what}: {first_line(error)}")
        if isinstance(error, OSError):
            told = system_error(error, what)
        elif isinstance(error, OperationError):
            told = error
        more = ""
        if (path.parent / CHECKPOINT).is_file():
            more = (
                f". What was written before is whole; with that mended, go on with: "
                f"classy train --resume {path.parent}"
            )
        raise type(told)(f"{told}{more}") from None


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. Every file is written beside its place and renamed."""

    path: Path

    def create(self, settings: TrainConfig, force: bool) -> None:
        """Makes the folder, with the settings in it.

        Args:
            settings: complete.
            force: start anew where another run is; its files go.

        Raises:
            ConfigError: there is something already, or the folder cannot be written.
        """
        taken = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if taken and not self.is_run:
            raise ConfigError(f"{str(self.path)!r} exists and is no run folder: choose another --output")
        if taken and not force:
            raise ConfigError(
                f"{str(self.path)!r} exists: choose another --output, go on with it by --resume "
                f"{self.path}, or replace it by --force"
            )
        try:
            with writing(self.path / CONFIG):
                self.path.mkdir(parents=True, exist_ok=True)
                for name in (CHECKPOINT, WEIGHTS, METRICS, TABLE, CURVES, PREDICTIONS):
                    (self.path / name).unlink(missing_ok=True)
                shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
                self.sweep()
            self.write(CONFIG, dump_settings(settings).encode())
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Removes a run that has no whole epoch to go on from, and nothing of anyone else's."""
        if (self.path / CHECKPOINT).is_file() or (self.path / WEIGHTS).is_file():
            return
        for name in (CONFIG, METRICS, TABLE, CURVES, PREDICTIONS):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
        self.sweep()
        with suppress(OSError):  # other files are there
            self.path.rmdir()

    def settings(self) -> TrainConfig:
        """The settings of the run.

        Raises:
            ConfigError: this is no run folder.
        """
        if not (self.path / CONFIG).is_file():
            raise ConfigError(f"{str(self.path)!r} is no run folder: it has no {CONFIG}")
        return load_settings(self.path / CONFIG)

    @property
    def is_run(self) -> bool:
        """Whether a run was begun here."""
        return any((self.path / name).is_file() for name in (CONFIG, CHECKPOINT))

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.path / WEIGHTS).is_file() and not (self.path / CHECKPOINT).is_file()

    def sweep(self) -> None:
        """Removes files that a killed process had not finished."""
        for part in self.path.glob(".*.part"):
            part.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, all of it or nothing."""
        with writing(self.path / name), replacing(self.path / name) as beside:
            beside.write_bytes(data)

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes what is needed to go on after an epoch."""
        path = self.path / CHECKPOINT
        with writing(path), replacing(path) as beside, beside.open("wb") as file:
            torch.save(
                dict(state), file
            )  # to an open file: Python says why it cannot be written, torch does not

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint; None where no epoch was finished."""
        path = self.path / CHECKPOINT
        if not path.is_file():
            return None
        state = read_tensors(path)
        if not {"model", "optimizer", "history", "data"} <= state.keys():
            raise ConfigError(f"{str(path)!r} is no checkpoint of a run; delete it to start the run over")
        return state

    def write_history(self, history: Sequence[Row]) -> None:
        """Writes the metrics of all epochs as JSON and CSV."""
        text = json.dumps({"final": history[-1], "epochs": list(history)}, indent=2)
        self.write(METRICS, text.encode())
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(history[-1]))
        writer.writeheader()
        writer.writerows(history)
        self.write(TABLE, table.getvalue().encode())

    def finish(self, model: nn.Module) -> None:
        """Writes the weights, and removes the checkpoint that they replace."""
        with writing(self.path / WEIGHTS):
            write_tensors(self.path / WEIGHTS, model.state_dict(), {"format": "pt"})
            (self.path / CHECKPOINT).unlink(missing_ok=True)
