"""What an engine does, and which engines there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from classy_vision.config import ConfigError, unknown

if TYPE_CHECKING:
    from classy_vision.engines.program import Program


class Compiled(Protocol):
    """A program that an engine has compiled. Several threads may call it."""

    @property
    def takes(self) -> Literal["numpy", "torch"]:
        """What it is called with and returns: arrays or tensors, in float32."""

    def __call__(self, images: Any) -> list[Any]:
        """Returns the outputs for a batch, in memory of their own."""

    def stream(self, batches: Iterable[Any]) -> Iterator[list[Any]]:
        """Yields the outputs for each of many batches in their order, using all threads at once."""

    def save(self, folder: Path, stem: str) -> None:
        """Writes the files that ``Engine.load`` reads."""


class Engine(Protocol):
    """A library that runs programs; each is a module of this package."""

    NAME: str
    EXTRA: str
    """The extra of the distribution that installs it; "" where it comes with torch."""
    PACKAGES: tuple[str, ...]
    DEVICES: tuple[str, ...]
    """The types of devices that it runs on."""
    NEEDS_TRUST: bool
    """Whether reading a file of this engine can run code that is in the file."""

    compile: Callable[[Program], Compiled]
    load: Callable[[Path, str, int], Compiled]
    emulates: Callable[[str], bool]
    """Whether the processor lacks a dtype, so that it is slower than float32."""


NAMES = ("openvino", "onnxruntime", "torch", "plain")
"""The engines, in the order in which "auto" tries them."""


def find_engine(name: str) -> Engine:
    """Returns the engine called ``name``; its library is imported when it is used.

    Raises:
        UnknownNameError: there is no such engine.
    """
    module: Any
    if name == "openvino":
        import classy_vision.engines.openvino as module
    elif name == "onnxruntime":
        import classy_vision.engines.onnxruntime as module
    elif name == "torch":
        import classy_vision.engines.inductor as module
    elif name == "plain":
        import classy_vision.engines.plain as module
    else:
        raise unknown("engine", name, ("auto", *NAMES))
    return cast(Engine, module)


def find_missing(engine: Engine) -> str:
    """Returns the command that installs the packages that ``engine`` lacks; "" where it lacks none."""
    lacks = any(find_spec(package) is None for package in engine.PACKAGES)
    return f"pip install 'classy-vision-models[{engine.EXTRA}]'" if lacks else ""


def check_installed(engine: Engine) -> None:
    """Raises where the library of ``engine`` is not installed.

    Raises:
        ConfigError: names the extra that installs it.
    """
    if command := find_missing(engine):
        raise ConfigError(f"the engine {engine.NAME!r} is not installed: {command}")
