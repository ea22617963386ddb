"""How the package ``openvino`` is imported and started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Keeps the packages imported within from sending usage data.

    OpenVINO and NNCF import ``openvino_telemetry`` where it is installed, and from then on fork processes that
    send what is imported and converted to an analytics service.
    """
    telemetry = "openvino_telemetry"
    if telemetry in sys.modules:  # someone else's import came first: theirs to decide
        yield
        return
    sys.modules[telemetry] = None  # type: ignore[assignment]  # which makes an import fail
    try:
        yield
    finally:
        sys.modules.pop(telemetry, None)


def load_openvino() -> Any:
    """Returns the package ``openvino``, which sends no usage data."""
    with no_telemetry():
        import openvino
    return openvino


@cache
def find_core() -> Any:
    """Returns the ``openvino.Core`` of this process, which stays.

    On processors with AMX, OpenVINO gives the thread that starts a core a stack for signal handlers, and frees
    it in whichever thread the last network of that core goes. Where these are two threads, the next signal that
    Python handles ends the process.
    """
    return load_openvino().Core()
