"""The folder of a run: what is in it, and how it survives a crash or a full disk."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor, nn

from classy_vision.atomic import replacing
from classy_vision.config import ConfigError, OperationError, first_line, system_error
from classy_vision.data.config import FolderConfig
from classy_vision.data.files import hash_file
from classy_vision.data.sources import Records, read_listing, write_listing
from classy_vision.run_files import (
    ADAPTER,
    BEST,
    CHECKPOINT,
    CURVES,
    LISTING,
    LOCK,
    METRICS,
    PREDICTIONS,
    PREVIOUS,
    RUN_CONFIG,
    SHARDS,
    TABLE,
    TENSORBOARD,
    WEIGHTS,
)
from classy_vision.train.best import have_all_stopped, is_over
from classy_vision.train.config import TrainConfig, dump_settings, load_run_settings
from classy_vision.train.shards import Shards, join_state
from classy_vision.weights.files import read_tensors, write_tensors

OWN = (CHECKPOINT, PREVIOUS, WEIGHTS, BEST, METRICS, TABLE, CURVES, PREDICTIONS, LISTING)
"""Files of a run beside its config."""
PARTS = frozenset(("model", "optimizer", "scaler", "history", "data"))
"""Of a checkpoint. Newer ones have "progress" and "digest" as well, and some of ``SOMETIMES``."""
SOMETIMES = frozenset(("average", "log_variances", "shards"))
"""Those of ``schedule.ema``, of ``schedule.loss_weighting``, and of processes that share parameters."""
CHANGEABLE = ("schedule.epochs", "schedule.patience", "schedule.cache_features", "schedule.workers")
"""What may be changed when a run is resumed, beside ``tasks.<head>.patience``."""

Row = dict[str, float]
"""What was measured in an epoch, e.g. "val/species/accuracy"."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Adds to an error inside what was being written, and how to resume."""
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
        if RunFolder(path.parent).has_checkpoint:
            more = (
                f". What was written before is complete; once that is solved, resume with: "
                f"classy train --resume {path.parent}"
            )
        raise type(told)(f"{told}{more}") from None


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. Every file is written beside its place and renamed."""

    path: Path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other commands out of the folder, which is made; the lock ends with its process.

        A folder in which nothing was written is removed again.

        Raises:
            ConfigError: another command is using the folder, or the folder cannot be written.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        lock = FileLock(self.path / LOCK, timeout=0)
        with writing(self.path / LOCK):
            if self.path.exists() and not self.path.is_dir():
                raise self._foreign()
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                raise ConfigError(
                    f"another command is using {str(self.path)!r}: wait for it, or choose another --output"
                ) from None
        try:
            yield
        finally:
            (self.path / LOCK).unlink(missing_ok=True)  # while it is held: who waits for it looks again
            lock.release()
            with suppress(OSError):  # something is there
                for path in made:
                    path.rmdir()

    def create(self, settings: TrainConfig, force: bool) -> None:
        """Makes the folder, with the settings in it.

        Args:
            settings: complete.
            force: replace another run; its files are removed.

        Raises:
            ConfigError: there is something already, or the folder cannot be written.
        """
        self.check_free(force)
        try:
            with writing(self.path / RUN_CONFIG):
                self.path.mkdir(parents=True, exist_ok=True)
                self._remove(OWN)
            self.write(RUN_CONFIG, dump_settings(settings).encode())
        except BaseException:
            self.discard()
            raise

    def check_free(self, force: bool) -> None:
        """Raises where a run cannot be made.

        Raises:
            ConfigError: there is something already.
        """
        taken = self.path.exists() and (
            not self.path.is_dir() or any(path.name != LOCK for path in self.path.iterdir())
        )
        if taken and not self.is_run:
            raise self._foreign()
        if taken and not force:
            raise ConfigError(
                f"{str(self.path)!r} exists: choose another --output, continue it by --resume "
                f"{self.path}, or replace it by --force"
            )

    def discard(self) -> None:
        """Removes a run that has no complete epoch to continue from, and nothing else."""
        if not any((self.path / name).is_file() for name in (CHECKPOINT, PREVIOUS, WEIGHTS)):
            self._remove((RUN_CONFIG, *OWN))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.path / ADAPTER, self.path / TENSORBOARD, *self._shards().values()):
            shutil.rmtree(folder, ignore_errors=True)
        self.sweep()

    def _foreign(self) -> ConfigError:
        return ConfigError(f"{str(self.path)!r} exists and is not a run folder: choose another --output")

    def settings(self, overrides: Iterable[str] = ()) -> TrainConfig:
        """The settings of the run.

        Args:
            overrides: as for ``load_settings``.

        Raises:
            ConfigError: this is not a run folder, or an override is impossible.
        """
        if not (self.path / RUN_CONFIG).is_file():
            raise ConfigError(f"{str(self.path)!r} is not a run folder: it has no {RUN_CONFIG}")
        return load_run_settings(self.path / RUN_CONFIG, overrides)

    def settings_to_resume(self, overrides: Iterable[str]) -> TrainConfig:
        """The settings with which the run is resumed.

        Raises:
            ConfigError: as for ``settings``, or an override changes what a resumed run cannot change.
        """
        overrides = tuple(overrides)
        for override in overrides:
            key = override.partition("=")[0]
            if key not in CHANGEABLE and not (key.startswith("tasks.") and key.endswith(".patience")):
                few = f"{', '.join(CHANGEABLE)} and the patience of tasks"
                raise ConfigError(f"--set {override}: a run that is resumed can change only {few}")
        return self.settings(overrides)

    def write_listing(self, settings: TrainConfig, records: Records) -> None:
        """Keeps the rows of a folder where unreadable files are skipped, because such files may vanish."""
        data = settings.data
        if isinstance(data, FolderConfig) and data.on_bad_image == "skip":
            self.write(LISTING, write_listing(records, data))

    def read_listing(self, settings: TrainConfig) -> Records | None:
        """The rows that ``write_listing`` kept; None where it kept none."""
        path = self.path / LISTING
        if not isinstance(settings.data, FolderConfig) or not path.is_file():
            return None
        return read_listing(path, settings.data)

    @property
    def is_run(self) -> bool:
        """Whether a run was begun here."""
        return any((self.path / name).is_file() for name in (RUN_CONFIG, CHECKPOINT))

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end; ``resume`` can train it for longer."""
        return (self.path / WEIGHTS).is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to continue from."""
        return any((self.path / name).is_file() for name in (CHECKPOINT, PREVIOUS))

    def epochs_done(self) -> int:
        """The epochs of which there are metrics."""
        try:
            return len(json.loads((self.path / METRICS).read_text(encoding="utf-8"))["epochs"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def reopen(self, settings: TrainConfig) -> None:
        """Makes a finished run one that is to be trained further, as ``settings`` say.

        The weights are removed; they are in the checkpoint.
        """
        self.write(RUN_CONFIG, dump_settings(settings).encode())
        with writing(self.path / WEIGHTS):
            (self.path / WEIGHTS).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes files that a killed process had not finished."""
        for part in (*self.path.glob(".*.part"), *self.path.glob(f"{ADAPTER}/.*.part")):
            part.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, all of it or nothing."""
        with writing(self.path / name), replacing(self.path / name) as beside:
            beside.write_bytes(data)

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes what is needed to continue; the checkpoint before stays beside it."""
        path = self.path / CHECKPOINT
        with writing(path), replacing(path) as beside:
            with beside.open(
                "wb"
            ) as file:  # an open file: Python says why it cannot be written, torch does not
                torch.save({**state, "digest": hash_state(state)}, file)
            if path.is_file():
                os.replace(path, self.path / PREVIOUS)
        self._sweep_shards()

    def write_shard(self, number: int, process: int, rows: Mapping[str, Tensor]) -> str:
        """Writes what a process has of the checkpoint that ``write_checkpoint`` makes valid afterwards.

        Args:
            number: of the checkpoint, which is above that of all others.
            process: the place of its rows.
            rows: of the tensors that processes share.

        Returns:
            The digest of the file.
        """
        path = self._shard(number, process)
        with writing(path.parent):
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, rows, {"format": "pt"})
            return hash_file(path)

    def last_shards(self) -> int:
        """The largest number of a checkpoint that has shards; 0 if there is none."""
        return max(self._shards(), default=0)

    def _shard(self, number: int, process: int) -> Path:
        return self.path / f"{SHARDS}-{number}" / f"{process}.safetensors"

    def _shards(self) -> dict[int, Path]:
        """The folders of shards by number."""
        found = {path.name.removeprefix(f"{SHARDS}-"): path for path in self.path.glob(f"{SHARDS}-*")}
        return {int(number): path for number, path in found.items() if number.isdecimal()}

    def _sweep_shards(self) -> None:
        """Removes shards that belong to none of the checkpoints."""
        shards = self._shards()
        for name in (CHECKPOINT, PREVIOUS) if shards else ():
            with suppress(ConfigError):  # it is missing or damaged
                said = read_tensors(self.path / name).get("shards")
                shards.pop(said["number"] if said else 0, None)
        for folder in shards.values():
            shutil.rmtree(folder, ignore_errors=True)

    def open_shards(self, said: Mapping[str, Any]) -> Shards:
        """Maps the shards of a checkpoint.

        Raises:
            ConfigError: one is missing or damaged, or the checkpoint does not say which they are.
        """
        try:
            number, digests = int(said["number"]), [*said["digests"]]
        except (KeyError, TypeError, ValueError):
            number, digests = 0, []
        if not digests:
            raise ConfigError(f"the checkpoint in {str(self.path)!r} does not say which shards belong to it")
        files = [self._shard(number, process) for process in range(len(digests))]
        for file, digest in zip(files, digests):
            if not file.is_file() or hash_file(file) != digest:
                raise ConfigError(f"{str(file)!r} is damaged: it does not hold what was written")
        return Shards(files)

    def read_checkpoint(self) -> tuple[dict[str, Any] | None, str]:
        """The last checkpoint that is whole, and what is wrong with the last one otherwise.

        There is none if no epoch was finished.

        Raises:
            ConfigError: no checkpoint is whole.
        """
        wrong = ""
        for name in (CHECKPOINT, PREVIOUS):
            if (self.path / name).is_file():
                try:
                    return read_state(self.path / name), wrong
                except ConfigError:
                    wrong = wrong or f"{str(self.path / name)!r} is damaged"
        if wrong:
            raise ConfigError(f"{wrong}, and no other is whole: delete the run folder to start the run over")
        return None, ""

    def read_fingerprint(self) -> str | None:
        """The fingerprint of the data that the run was trained on; None where there is no checkpoint."""
        with suppress(ConfigError):
            found = read_tensors(self.path / CHECKPOINT).get("data")
            return found if isinstance(found, str) else None
        return None

    def go_back(self) -> None:
        """Replaces the last checkpoint, which is damaged, by the one before."""
        with writing(self.path / CHECKPOINT):
            os.replace(self.path / PREVIOUS, self.path / CHECKPOINT)

    def write_best(self, weights: Mapping[str, Tensor]) -> None:
        """Keeps the weights of the best epoch until there is a better one."""
        with writing(self.path / BEST):
            write_tensors(self.path / BEST, weights, {"format": "pt"})

    def read_best(self) -> dict[str, Any]:
        """The weights that ``write_best`` wrote.

        Raises:
            ConfigError: they are missing or damaged.
        """
        return read_tensors(self.path / BEST)

    def write_history(self, history: Sequence[Row], best: int = -1) -> None:
        """Writes the metrics of all epochs as JSON and CSV.

        Args:
            history: of all epochs.
            best: the index of the epoch that is the run's result so far.
        """
        # JSON has no NaN, which stands for what is not defined, as the IoU of a class that is never there.
        rows = [{key: None if math.isnan(value) else value for key, value in row.items()} for row in history]
        text = json.dumps({"final": rows[best], "epochs": rows}, indent=2)
        self.write(METRICS, text.encode())
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(history[-1]))
        writer.writeheader()
        writer.writerows(history)
        self.write(TABLE, table.getvalue().encode())

    def finish(self, model: nn.Module) -> None:
        """Writes the weights. The last checkpoint stays, so that training can continue."""
        with writing(self.path / WEIGHTS):
            write_tensors(self.path / WEIGHTS, model.state_dict(), {"format": "pt"})
            (self.path / PREVIOUS).unlink(missing_ok=True)
        self._sweep_shards()


NOWHERE = RunFolder(Path(os.devnull))
"""Stands for the folder of a run that is not written."""


def check_resumable(folder: RunFolder, settings: TrainConfig) -> tuple[dict[str, Any] | None, str]:
    """Reads the checkpoint to continue from, and what is wrong with the last one: see ``read_checkpoint``.

    Raises:
        ConfigError: the run is finished, or has more epochs than the settings.
    """
    epochs, where = settings.schedule.epochs, str(folder.path)
    if folder.finished and folder.epochs_done() == epochs:
        raise ConfigError(
            f"{where!r} is finished: all {epochs} epochs are done; to train it for longer: "
            f"classy train --resume {where} --set schedule.epochs={2 * epochs}"
        )
    if folder.finished and not folder.has_checkpoint:
        raise ConfigError(
            f"{where!r} is finished after {folder.epochs_done()} epochs and has no checkpoint to continue "
            f"from, as runs of earlier versions; another run can begin with its weights: --set weights={where}"
        )
    state, damage = folder.read_checkpoint()
    done = len(state["history"]) if state else 0
    if state and folder.finished and is_over(settings.schedule, state["history"]):
        raise ConfigError(
            f"{where!r} is finished: no epoch was better for {settings.schedule.patience}; to go on: "
            f"classy train --resume {where} --set schedule.patience={2 * (settings.schedule.patience or 1)}"
        )
    if state and folder.finished and have_all_stopped(settings, state["history"]):
        head, config = next((name, task) for name, task in settings.tasks.items() if task.patience)
        raise ConfigError(
            f"{where!r} is finished: every head has stopped; to go on: classy train --resume {where} "
            f"--set tasks.{head}.patience={2 * (config.patience or 1)}"
        )
    begun = done + bool(state and state["progress"])
    if epochs < begun:
        raise ConfigError(
            f"schedule.epochs = {epochs}, but epoch {begun} of {where!r} is "
            f"{'done' if begun == done else 'begun'}: give at least {begun}"
        )
    return state, damage


def read_state(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, and compares it with its digest; those that were written without one are trusted.

    Raises:
        ConfigError: it is damaged, or not a checkpoint.
    """
    state = read_tensors(path)
    said = state.pop("digest", None)
    if said is None and state.keys() == PARTS:
        return {**state, "progress": None}
    if state.keys() - SOMETIMES != PARTS | {"progress"}:
        raise ConfigError(f"{str(path)!r} is not a checkpoint of a run")
    if said != hash_state(state):
        raise ConfigError(f"{str(path)!r} is damaged: it does not hold what was written")
    if "shards" in state:
        return join_state(state, RunFolder(path.parent).open_shards(state["shards"]))
    return state


def hash_state(state: Mapping[str, Any]) -> str:
    """Hashes all that is in a checkpoint: names, numbers, types and shapes."""
    sha = sha256()
    _feed(sha.update, state)
    return sha.hexdigest()


def _feed(update: Callable[[Any], None], value: Any) -> None:
    if isinstance(value, Tensor):
        update(f"{value.dtype} {tuple(value.shape)}".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)}".encode())
        for key, part in value.items():
            update(repr(key).encode())
            _feed(update, part)
    elif isinstance(value, (list, tuple)):
        update(f"sequence {len(value)}".encode())
        for part in value:
            _feed(update, part)
    else:
        update(repr(value).encode())
