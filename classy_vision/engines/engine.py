"""Which engines there are."""

from __future__ import annotations

from importlib.util import find_spec

from classy_vision.config import ConfigError, unknown
from classy_vision.engines.compiled import Compiled

NAMES = ("openvino", "onnxruntime", "torch", "plain")
"""The engines, in the order in which "auto" tries them."""


def find_engine(name: str) -> type[Compiled]:
    """Returns the engine called ``name``; its library is imported when it is used.

    Raises:
        UnknownNameError: there is no such engine.
    """
    if name == "openvino":
        from classy_vision.engines.openvino import OpenVINO

        return OpenVINO
    if name == "onnxruntime":
        from classy_vision.engines.onnxruntime import OnnxRuntime

        return OnnxRuntime
    if name == "torch":
        from classy_vision.engines.inductor import Inductor

        return Inductor
    if name == "plain":
        from classy_vision.engines.plain import Plain

        return Plain
    raise unknown("engine", name, ("auto", *NAMES))


def find_missing(engine: type[Compiled]) -> str:
    """Returns the command that installs the packages that ``engine`` lacks; "" where it lacks none."""
    lacks = any(find_spec(package) is None for package in engine.packages)
    return f"pip install 'classy-vision-models[{engine.extra}]'" if lacks else ""


def check_installed(engine: type[Compiled]) -> None:
    """Raises where the library of ``engine`` is not installed.

    Raises:
        ConfigError: names the extra that installs it.
    """
    if command := find_missing(engine):
        raise ConfigError(f"the engine {engine.name!r} is not installed: {command}")
