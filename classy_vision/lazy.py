"""Packages whose names are looked up when they are used, so that importing one of them stays quick."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, places: Mapping[str, str], moved: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of ``package``.

    Args:
        package: its name.
        places: the module in it that holds each public name.
        moved: names that were public here, with the dotted name under which each is found now; using one
            gives a DeprecationWarning.
    """

    def find(name: str) -> Any:
        if moved and name in moved:
            module, _, attribute = moved[name].rpartition(".")
            warnings.warn(
                f"{package}.{name} is now {moved[name]}; the old name will be removed in the next version",
                DeprecationWarning,
                stacklevel=2,
            )
            return getattr(import_module(module), attribute)
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find
