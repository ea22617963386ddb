"""Packages whose names are looked up when they are used, so that importing one of them stays quick."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import resolve_name
from typing import Any, NoReturn


def lazy(
    package: str,
    places: Mapping[str, str],
    moved: Mapping[str, str] | None = None,
    otherwise: Callable[[str], NoReturn] | None = None,
) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of ``package``.

    Args:
        package: its name.
        places: the module in it that holds each public name.
        moved: names that were public here, with the dotted name under which each is found now; using one
            gives a DeprecationWarning.
        otherwise: raises the error for other names.
    """

    def find(name: str) -> Any:
        if moved and name in moved:
            warnings.warn(
                f"{package}.{name} is now {moved[name]}; the old name will be removed in the next version",
                DeprecationWarning,
                stacklevel=2,
            )
            return resolve_name(moved[name])
        if name not in places and otherwise:
            otherwise(name)
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find
