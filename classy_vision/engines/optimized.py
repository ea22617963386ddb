"""A model on an engine: called as the model is, with the same outputs; and files of such models."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from classy_vision.config import Config, ConfigError, first_line
from classy_vision.data.files import count_processors
from classy_vision.engines.archive import map_archive, write_archive
from classy_vision.engines.compiled import Compiled
from classy_vision.engines.engine import check_installed, find_engine

if TYPE_CHECKING:
    from classy_vision.engines.report import EngineReport

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
    parts: tuple[Part, ...] = ()


Key = tuple["tuple[str, ...] | None", tuple[int, ...]]
"""The ``blocks`` and the ``input_shape`` of a part."""


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
        compiled: Mapping[Key, Compiled],
        report: EngineReport | None = None,
        build: Callable[[Key], Compiled] | None = None,
    ) -> None:
        self._about = about
        self._compiled = dict(compiled)
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
        _, shape = next(iter(self._compiled))
        return shape

    def __call__(self, images: Any) -> Any:
        """Returns the model's outputs.

        Args:
            images: a batch (n, c, h, w) or (n, c, t, h, w) of any n, a tensor or an array. A size other than
                the example's is compiled at its first use, which takes seconds.

        Raises:
            ConfigError: the model does not take an input of that shape.
        """
        return _unwrap(self._find(None, images)(images))

    def features(self, images: Any, blocks: Sequence[str]) -> dict[str, Any]:
        """Returns the features of ``blocks`` by name; nothing after the deepest of them runs.

        They are compiled at the first use of this set of blocks, which takes seconds.

        Raises:
            UnknownNameError: the model does not have one of the blocks.
            ConfigError: the model was read from a file that does not hold them.
        """
        if isinstance(blocks, str):
            raise ConfigError(f"features takes a list of blocks: [{blocks!r}]")
        found = self._find(tuple(sorted(set(blocks))), images)(images)
        return {block: found[block] for block in blocks}

    def stream(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields the outputs for each of many batches, in their order.

        Several batches are processed at a time: more samples per second than by one call after the other, and
        a longer wait for each.

        Args:
            batches: tensors or arrays of one size; they are taken as they are needed.
        """
        iterator = iter(batches)
        for first in iterator:
            yield from map(_unwrap, self._find(None, first).stream(_check_sizes(first, iterator)))

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes the model to a file that ``load_optimized`` reads.

        The sizes and features that were used before are in it.

        Args:
            path: of the file; its name may have any ending.
            force: replace an existing file.

        Raises:
            ConfigError: the file cannot be written, or the model was read from a file.
        """
        from classy_vision.atomic import check_target, replacing

        if self._build is None:
            raise ConfigError("the model was read from a file: copy that file")
        with self._lock:
            compiled = dict(self._compiled)
        parts = tuple(
            Part(blocks=blocks, input_shape=shape, names=tuple(one.outputs), places=tuple(one.outputs.values()))
            for (blocks, shape), one in compiled.items()
        )
        path = Path(os.path.expanduser(path))
        check_target(path, force=force)
        with TemporaryDirectory() as folder, replacing(path) as beside:
            for i, one in enumerate(compiled.values()):
                one.save(Path(folder, f"program{i}"))
            about = self._about.model_copy(update={"parts": parts}).model_dump_json()
            write_archive(beside, ABOUT, about, Path(folder))

    def _find(self, blocks: tuple[str, ...] | None, images: Any) -> Compiled:
        """Returns the program for ``blocks`` and the size of ``images``, compiled now if it is new."""
        shape = tuple(getattr(images, "shape", ()))
        key = blocks, shape[1:]
        if 0 not in shape and (found := self._compiled.get(key)):
            return found
        wanted = self.input_shape
        if len(shape) != len(wanted) + 1 or shape[1] != wanted[0] or 0 in shape:
            sizes = ", ".join(map(str, wanted))
            raise ConfigError(f"an input of shape {shape}: this model takes (n, {sizes})")
        if self._build is None:
            held = "; ".join(_describe(*known) for known in self._compiled)
            raise ConfigError(
                f"the file does not hold {_describe(*key)}; it holds {held}. Call the optimized model "
                f"with them before you save it"
            )
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._build(key)
            return self._compiled[key]


def load_optimized(
    path: str | Path,
    *,
    threads: int | None = None,
    cache_dir: str | Path | None = None,
    trust: bool = False,
) -> Optimized:
    """Reads a file that ``Optimized.save`` wrote.

    Args:
        path: of the file.
        threads: of the processor, for one call; by default all that this process may use.
        cache_dir: as for ``optimize``.
        trust: read a file of the engines "torch" and "plain", which can run any code.

    Raises:
        ConfigError: there is no such file, it is damaged, its engine is not installed, or it takes ``trust``.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}")
    try:
        text, files = map_archive(path, ABOUT)
        about = _read_about(text)
        engine = find_engine(about.engine)
        check_installed(engine)
        if engine.needs_trust and not trust:
            raise ConfigError(
                f"it is for the engine {about.engine!r}, and reading it can run code that is in it: "
                f"pass trust=True if you know where it comes from"
            )
        options = {"threads": threads or count_processors(), "dtype": about.dtype, "cache_dir": cache_dir}
        compiled = {}
        for i, part in enumerate(about.parts):
            start = f"program{i}."
            own = {name.removeprefix(start): file for name, file in files.items() if name.startswith(start)}
            one = compiled[part.blocks, part.input_shape] = engine.load(own, **options)
            one.outputs = dict(zip(part.names, part.places))
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from None
    except Exception as error:  # of zipfile, and of what the engines stumble over
        reason = first_line(error)[:300]
        raise ConfigError(f"{str(path)!r} is damaged, or not an optimized model: {reason}") from None
    return Optimized(about, compiled)


def _read_about(text: bytes) -> About:
    about = About.model_validate_json(text)
    if not about.parts or any(len(part.names) != len(part.places) for part in about.parts):
        raise ConfigError("it is damaged: it does not say what it gives")
    return about


def _check_sizes(first: Any, others: Iterable[Any]) -> Iterator[Any]:
    yield first
    for images in others:
        if images.shape[1:] != first.shape[1:] or not len(images):
            raise ConfigError(
                f"a batch of shape {tuple(images.shape)} after those of {tuple(first.shape)}: "
                f"stream takes images of one size"
            )
        yield images


def _describe(blocks: tuple[str, ...] | None, shape: tuple[int, ...]) -> str:
    what = "the outputs" if blocks is None else f"features of {', '.join(blocks)}"
    return f"{what} for inputs {'x'.join(map(str, shape))}"


def _unwrap(named: Mapping[str, Any]) -> Any:
    return named[""] if tuple(named) == ("",) else named
