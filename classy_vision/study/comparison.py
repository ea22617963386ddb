"""A comparison of models: what they cost, how fast they run, how well they learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, first_line
from classy_vision.cost import Costs, OnMeta, count, measure
from classy_vision.cost.free_memory import check_fits
from classy_vision.cost.inputs import with_classes
from classy_vision.cost.measure import check_device
from classy_vision.models import ClassyModel, build_model
from classy_vision.study.candidates import Candidate
from classy_vision.study.recipe import Recipe
from classy_vision.study.row import Row

CLASSES = 1000
"""Classes of heads that do not give their number, and of the default head if there are no heads."""

Report = Callable[[str], None]


class Comparison:
    """Rows of models, filled in step by step; what fails has the reason in its row.

    If a step ends early, ``rows`` keep what was found so far.

    Args:
        candidates: see ``find_candidates``.
        input_size: height and width of all inputs, whatever the models' own.
        recipe: how models are trained; heads and inputs are then the recipe's.
        batch: inputs that memory and latency are of.
        dtype: of weights and inputs, for memory and latency.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        input_size: tuple[int, int] | None = None,
        recipe: Recipe | None = None,
        batch: int = 1,
        dtype: str = "float32",
    ) -> None:
        self.candidates = candidates
        self.rows = [Row(c.name, c.group, failure=c.failure) for c in candidates]
        self._input_size, self._recipe, self._batch, self._dtype = input_size, recipe, batch, dtype
        self._costs: dict[int, Costs] = {}

    def count(self, report: Report = print) -> None:
        """Finds what every model costs, without running it."""

        def step(index: int, candidate: Candidate) -> None:
            config, shape = self._model(candidate)
            with OnMeta():
                model = build_model(config).eval()
            costs = count(model, shape or _resize(model, self._input_size or candidate.input_size))
            self._set(index, input_shape=costs.input_shape, params=costs.params)
            self._set(index, macs=costs.running.macs, activations=costs.running.activations)
            self._set(index, memory=costs.memory(self._batch, self._dtype).peak)
            self._set(index, accuracies={} if self._recipe else candidate.accuracies)
            self._costs[index] = costs

        self._run(step, "counting", report)

    def measure(self, report: Report = print, device: str = "cpu", **options: Any) -> None:
        """Runs every model that was counted, with random weights.

        Args:
            report: is called with what runs.
            device: to run on.
            options: of ``classy_vision.cost.measure``.

        Raises:
            ConfigError: this machine has no such device.
        """
        options = {"batch": self._batch, "dtype": self._dtype, "device": device, **options}
        where = check_device(device)

        def step(index: int, candidate: Candidate) -> None:
            costs = self._costs[index]
            check_fits(costs, self._batch, self._dtype, where)  # before there are weights
            found = measure(build_model(self._model(candidate)[0]).eval(), costs.input_shape, **options)
            self._set(index, latency=found.latency, throughput=found.throughput, memory=found.memory)

        self._run(step, "measuring", report)

    def train(self, runs: str | Path, report: Report = print) -> None:
        """Trains every model that was counted by the recipe, each into a run folder of its own.

        Finished runs are read, and others are resumed.

        Args:
            runs: where the run folders are, by group and name.
            report: is called with what runs.
        """
        recipe = self._recipe
        if recipe is None:
            raise ConfigError("a comparison without a recipe trains nothing")

        def step(index: int, candidate: Candidate) -> None:
            folder = Path(runs, candidate.group, candidate.name.rpartition("/")[2])
            self._set(index, accuracies=recipe.run(candidate.config, folder, self._costs[index]))

        self._run(step, "training", report)

    def _model(self, candidate: Candidate) -> tuple[Mapping[str, Any], tuple[int, ...] | None]:
        """The config of a candidate, and the shape of its input where the recipe says it."""
        if self._recipe is None:
            return with_classes(candidate.config, CLASSES), None
        return self._recipe.model(candidate.config)

    def _set(self, index: int, **values: Any) -> None:
        self.rows[index] = replace(self.rows[index], **values)

    def _run(self, step: Callable[[int, Candidate], None], doing: str, report: Report) -> None:
        """Takes a step with all candidates that have not failed."""
        for index, candidate in enumerate(self.candidates):
            if self.rows[index].failure is None:
                report(f"{doing} {index + 1} of {len(self.candidates)}: {candidate.name}")
                try:
                    step(index, candidate)
                except Exception as error:  # a model may fail in any way, and the others continue
                    self._set(index, failure=_describe_failure(error))


def _resize(model: ClassyModel, size: tuple[int, int] | None) -> tuple[int, ...]:
    shape = model.input_shape
    if size is None or len(shape) < 3:
        return shape
    return (*shape[:-2], *size)


def _describe_failure(error: Exception) -> str:
    """Describes an error in one line, where torch may write pages."""
    if isinstance(error, ConfigError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {first_line(error)}"
