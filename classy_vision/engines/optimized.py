"""A model on an engine: called as the model is, with the same outputs."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from classy_vision.config import Config, ConfigError

if TYPE_CHECKING:
    from classy_vision.engines.engine import Compiled
    from classy_vision.engines.report import Report


ABOUT = "classy_vision.json"
"""The part of an archive that says what is in it."""


class Part(Config):
    """What one compiled program gives.

    Attributes:
        blocks: the blocks whose features it gives, sorted; None where it gives the model's outputs.
        input_shape: without the batch.
        names: of what it gives; ("",) is one output without a name.
        places: for each name the output of the program that has it.
    """

    blocks: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    names: tuple[str, ...]
    places: tuple[int, ...]


class About(Config):
    """What a saved model says of itself.

    Attributes:
        engine, dtype: what it runs on, and in.
        model: the name of the class that it was made of.
        parts: what was compiled; the first one gives the outputs for the size of the example.
    """

    engine: str
    dtype: str
    model: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Running:
    """A compiled program and what it gives."""

    part: Part
    compiled: Compiled

    def name(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """Returns the outputs by name."""
        return {name: outputs[place] for name, place in zip(self.part.names, self.part.places)}


Builder = Callable[["tuple[str, ...] | None", tuple[int, ...]], Running]
"""From blocks, or None for the model's outputs, and the shape of an input."""


class Optimized:
    """A model on an engine, for inference.

    ``fast(x)`` gives what the model gives: a tensor, or a dict by head. Arrays of numpy are taken as well, and
    give arrays; a model that ``load_optimized`` gave and that is called with arrays never imports torch.
    Several threads may call it. Outputs are in float32, whatever the arithmetic.

    Attributes:
        report: what was tried and measured; None where the model was read from a file.
    """

    def __init__(
        self,
        about: About,
        running: Iterable[Running],
        report: Report | None = None,
        build: Builder | None = None,
    ) -> None:
        self._about = about
        self._running = {(one.part.blocks, one.part.input_shape): one for one in running}
        self._build = build
        self._lock = threading.Lock()
        self.report = report

    def __repr__(self) -> str:
        about = self._about
        return f"Optimized({about.model}, engine={about.engine!r}, dtype={about.dtype!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an optimized model cannot be pickled or copied: save(path) writes it to a file")

    @property
    def engine(self) -> str:
        """The name of the engine that runs the model."""
        return self._about.engine

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the example without its batch, (c, h, w) or (c, t, h, w)."""
        return self._about.parts[0].input_shape

    def __call__(self, images: Any) -> Any:
        """Returns the model's outputs.

        Args:
            images: a batch (n, c, h, w) or (n, c, t, h, w) of any n, a tensor or an array. A size other than
                the example's is compiled at its first use, which takes seconds.

        Raises:
            ConfigError: the model does not take an input of that shape.
        """
        running = self._find(None, images)
        return _give(running.name(_run(running.compiled, images)))

    def features(self, images: Any, blocks: Sequence[str]) -> dict[str, Any]:
        """Returns the features of ``blocks`` by name; nothing after the deepest of them runs.

        They are compiled at the first use of this set of blocks, which takes seconds.

        Raises:
            UnknownNameError: the model does not have one of the blocks.
            ConfigError: the model was read from a file that does not hold them.
        """
        if isinstance(blocks, str):
            raise ConfigError(f"features takes a list of blocks: [{blocks!r}]")
        running = self._find(tuple(sorted(set(blocks))), images)
        found = running.name(_run(running.compiled, images))
        return {block: found[block] for block in blocks}

    def stream(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields the outputs for each of many batches, in their order.

        Several batches are in work at a time: more samples per second than by one call after the other, and a
        longer wait for each.

        Args:
            batches: tensors or arrays of one size; they are taken as they are needed.
        """
        iterator = iter(batches)
        first = next(iterator, None)
        if first is None:
            return
        running = self._find(None, first)
        convert, back = _converters(running.compiled, first)

        def check() -> Iterator[Any]:
            yield convert(first)
            for images in iterator:
                if tuple(images.shape[1:]) != running.part.input_shape or not len(images):
                    raise ConfigError(
                        f"a batch of shape {tuple(images.shape)} after those of {tuple(first.shape)}: "
                        f"stream takes images of one size"
                    )
                yield convert(images)

        for outputs in running.compiled.stream(check()):
            yield _give(running.name([back(output) for output in outputs]))

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes the model to a file that ``load_optimized`` reads.

        The sizes and features that were used before are in it.

        Args:
            path: of the file; its name may have any ending.
            force: replace a file that is there.

        Raises:
            ConfigError: the file cannot be written.
        """
        from classy_vision.weights.files import check_target, replacing

        with self._lock:
            running = tuple(self._running.values())
        about = self._about.model_copy(update={"parts": tuple(one.part for one in running)})
        path = Path(os.path.expanduser(path))
        check_target(path, force=force)
        with TemporaryDirectory() as folder, replacing(path) as beside:
            for i, one in enumerate(running):
                one.compiled.save(Path(folder), f"program{i}")
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(ABOUT, about.model_dump_json())
                for file in sorted(Path(folder).iterdir()):
                    archive.write(file, file.name)

    def _find(self, blocks: tuple[str, ...] | None, images: Any) -> Running:
        """The program for ``blocks`` and the size of ``images``, compiled now if it is new."""
        whole = tuple(getattr(images, "shape", ()))
        if 0 not in whole and (found := self._running.get((blocks, whole[1:]))):
            return found
        wanted = self.input_shape
        if len(whole) != len(wanted) + 1 or whole[1] != wanted[0] or 0 in whole:
            sizes = ", ".join(map(str, wanted))
            raise ConfigError(f"an input of shape {whole}: this model takes (n, {sizes})")
        with self._lock:
            key = blocks, whole[1:]
            if key not in self._running:
                if self._build is None:
                    raise ConfigError(self._say_what_is_saved(*key))
                self._running[key] = self._build(*key)
            return self._running[key]

    def _say_what_is_saved(self, blocks: tuple[str, ...] | None, shape: tuple[int, ...]) -> str:
        def say(names: tuple[str, ...] | None, size: tuple[int, ...]) -> str:
            what = "the outputs" if names is None else f"features of {', '.join(names)}"
            return f"{what} for inputs {'x'.join(map(str, size))}"

        held = "; ".join(say(*key) for key in self._running)
        return (
            f"the file does not hold {say(blocks, shape)}; it holds {held}. Call the optimized model with them "
            f"before you save it"
        )


def _give(named: Mapping[str, Any]) -> Any:
    return named[""] if tuple(named) == ("",) else named


def _run(compiled: Compiled, images: Any) -> list[Any]:
    if isinstance(images, np.ndarray) and compiled.takes == "numpy":
        return compiled(images)
    convert, back = _converters(compiled, images)
    return [back(output) for output in compiled(convert(images))]


def _converters(compiled: Compiled, images: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Functions to what the engine takes, and back to what the caller gave."""
    is_array = isinstance(images, np.ndarray)
    if is_array and compiled.takes == "numpy":
        return lambda array: array, lambda array: array
    import torch  # not where arrays go to an engine that takes them

    if compiled.takes == "numpy":
        return lambda tensor: tensor.float().numpy(force=True), torch.from_numpy
    if is_array:
        return (
            lambda array: torch.from_numpy(np.require(array, np.float32, ["C", "W"])),
            lambda output: output.numpy(force=True),
        )
    return lambda tensor: tensor, lambda output: output
