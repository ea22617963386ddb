"""Names for classes, and presets for names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from classy_vision.errors import UnknownNameError, unknown

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered name: the class that it names, and the preset values it stands for.

    Attributes:
        family: the name that the class itself is registered by.
    """

    name: str
    cls: type[T]
    family: str
    preset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_preset(self) -> bool:
        return self.name != self.family


REGISTRIES: dict[str, Registry[Any]] = {}
"""Every registry that was made, by its kind."""


class Registry(Generic[T]):
    """The classes of one kind by name, e.g. all models.

    Args:
        kind: what an entry is called in messages.
        base: what every registered class must be a subclass of.
        error: of a name that is not registered, from it, the families and all names.
    """

    def __init__(
        self,
        kind: str,
        base: type[T],
        error: Callable[[object, Iterable[str], Iterable[str]], UnknownNameError] | None = None,
    ) -> None:
        self.kind = kind
        self.base = base
        self._error = error or (lambda name, _, names: unknown(kind, name, names))
        self._entries: dict[str, Entry[T]] = {}
        REGISTRIES[kind] = self

    def register(
        self,
        name: str,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        bypass_checks: bool = False,
    ) -> Callable[[C], C]:
        """A class decorator that makes the class known as ``name``, and by each preset's name.

        The same class may be registered again (a notebook cell that runs twice); another class
        under a taken name is refused.

        Args:
            name: the name in configs.
            presets: rows of config values by name.
            bypass_checks: replace whatever holds the name.

        Raises:
            ValueError: the name is taken by another class, or the class is of another kind.
        """

        def decorate(cls: C) -> C:
            for taken in () if bypass_checks else (name, *(presets or {})):
                self._check(taken, cls)
            self._entries[name] = Entry(name, cls, name)
            for preset, values in (presets or {}).items():
                self._entries[preset] = Entry(preset, cls, name, values)
            return cls

        return decorate

    def _check(self, name: str, cls: type[Any]) -> None:
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise ValueError(
                f"cannot register {getattr(cls, '__name__', cls)} as {self.kind} {name!r}: "
                f"it is not a subclass of {self.base.__name__}"
            )
        held = self._entries.get(name)
        if held and _identity(held.cls) != _identity(cls):
            raise ValueError(
                f"cannot register {_identity(cls)} as {self.kind} {name!r}: the name belongs to "
                f"{_identity(held.cls)}; choose another, or pass bypass_checks=True to replace it"
            )

    def __getitem__(self, name: str) -> Entry[T]:
        if not isinstance(name, str) or name not in self._entries:
            families = [entry.name for entry in self if not entry.is_preset]
            raise self._error(name, families, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries.values())


def _identity(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def unknown_model(name: object, families: Iterable[str], names: Iterable[str]) -> UnknownNameError:
    """The error for a model that is neither a family nor a preset."""
    text = (
        f"it is not of these families: {', '.join(families)}. Their presets: classy list. Any other module, "
        f"such as timm's, becomes a trunk by ClassyModel.from_model(module, blocks)"
    )
    return unknown("model", name, names, otherwise=text)
