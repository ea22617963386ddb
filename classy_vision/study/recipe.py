"""Training different models by the same recipe. The packages for training are imported when they are used."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classy_vision.config import ConfigError
from classy_vision.run_files import METRICS
from classy_vision.study.candidates import read_accuracies
from classy_vision.trunk.names import END

if TYPE_CHECKING:
    from classy_vision.cost import Costs
    from classy_vision.train import TrainConfig

OF_THE_RECIPE = ("heads", "num_classes", "in_channels", "input_planes")
"""Keys of a model config that the recipe and its data determine."""


@dataclass
class Recipe:
    """A training job for any model: its data, tasks, heads and schedule stay.

    Attributes:
        settings: the settings of the job.
    """

    settings: TrainConfig
    _complete: dict[str, TrainConfig] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Reads a recipe from a training config.

        Args:
            path: as for ``load_settings``.
            overrides: "dotted.key=value", as for ``load_settings``.

        Raises:
            ConfigError: it cannot be read, or its model has no heads.
        """
        from classy_vision.train.config import load_settings

        recipe = cls(load_settings(path, overrides))
        if not recipe.settings.model.get("heads"):
            raise ConfigError(f"{path}: the recipe needs heads under model, which all models get")
        return recipe

    def complete(self, config: Mapping[str, Any]) -> TrainConfig:
        """Returns the job that trains the model of ``config``, completed from the data.

        Heads are the recipe's, and the number of channels is the recipe's or that of its images.

        Raises:
            ConfigError: the model and the recipe do not fit together.
        """
        key = repr(config)
        if key not in self._complete:
            from classy_vision.train.job import prepare

            ours = self.settings.model
            heads = [{k: v for k, v in head.items() if k != "in_plane"} for head in ours["heads"]]
            model = {k: v for k, v in config.items() if k not in OF_THE_RECIPE}
            model |= {k: ours[k] for k in ("in_channels",) if k in ours}
            settings = self.settings.model_copy(update={"model": {**model, "heads": heads}})
            self._complete[key] = prepare(settings).settings
        return self._complete[key]

    def model(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Returns the config that is trained for ``config``, and the shape of its input in evaluation."""
        settings = self.complete(config)
        model = dict(settings.model)
        return model, settings.data.input_shape(model["in_channels"], training=False)

    def run(self, config: Mapping[str, Any], folder: Path, costs: Costs) -> dict[str, float]:
        """Trains a model, resumes the run in ``folder``, or reads it if it is finished.

        Output of the training goes to stderr.

        Args:
            config: of the model.
            folder: of the run.
            costs: of the model with the recipe's heads.

        Returns:
            The accuracy on held-out data after the last epoch, by head.

        Raises:
            ConfigError: the run has another recipe, the model does not fit, or a file cannot be written.
        """
        from classy_vision.train.run import resume, train
        from classy_vision.train.run_folder import RunFolder

        run = RunFolder(folder)
        settings = self.complete(config)
        if run.is_run:
            self._check_same(run.settings(), settings, folder)
        if not (run.is_run and run.finished):
            self._check_memory(costs)
            with redirect_stdout(sys.stderr):
                if run.is_run:
                    resume(folder)
                else:
                    train(settings, folder)
        return read_accuracies(json.loads((folder / METRICS).read_text(encoding="utf-8"))["final"])

    def _check_same(self, there: TrainConfig, wanted: TrainConfig, folder: Path) -> None:
        from classy_vision.train.config import dump_settings

        if dump_settings(there) != dump_settings(wanted):
            old, new = there.model_dump(mode="json"), wanted.model_dump(mode="json")
            parts = ", ".join(key for key in new if old[key] != new[key])
            raise ConfigError(
                f"{str(folder)!r} holds a run of another recipe or model (its {parts}): choose another --runs, "
                f"or remove it"
            )

    def _check_memory(self, costs: Costs) -> None:
        import torch

        from classy_vision.cost.free_memory import check_fits

        device, schedule = torch.device("cuda" if torch.cuda.is_available() else "cpu"), self.settings.schedule
        training = schedule.frozen_until(schedule.epochs - 1) != END
        check_fits(costs, schedule.batch_size, "float32", device, training)
