"""How a trunk is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

Features = Iterator[tuple[str, Tensor]]
"""(step, feature), in the order in which steps run."""


class Route(ABC):
    """Which steps a trunk has, what they are called, and what gives their features.

    The trunk is an argument of every method, so that a route goes along into copies. It is a ``Trunk``,
    whose file imports this one.
    """

    @abstractmethod
    def key(self, trunk: Any) -> tuple[str, ...]:
        """What the other names follow from; quick."""

    @abstractmethod
    def steps(self, trunk: Any) -> Sequence[str]:
        """The steps in the order in which they run."""

    @abstractmethod
    def aliases(self, trunk: Any) -> Mapping[str, str]:
        """The steps by their further names."""

    @abstractmethod
    def block_names(self, trunk: Any) -> list[str]:
        """Every name that ``find`` accepts and shows."""

    @abstractmethod
    def find(self, trunk: Any, block: str) -> str:
        """The step that ``block`` names, or an UnknownNameError."""

    @abstractmethod
    def walk(self, trunk: Any, x: Tensor, until: str) -> Features:
        """Runs the steps up to and including ``until``."""

    @abstractmethod
    def run(self, trunk: Any, x: Tensor, until: str) -> Features:
        """The same, as the trunk's class may have it."""

    @abstractmethod
    def read(self, trunk: Any, x: Tensor, steps: Collection[str]) -> Features:
        """The features of ``steps``; nothing runs after the deepest of them."""

    @abstractmethod
    def look(self, trunk: Any, x: Tensor, steps: Collection[str]) -> Features:
        """What a run without data reads for the sake of ``steps``."""

    @abstractmethod
    def end(self, trunk: Any, x: Tensor) -> Tensor:
        """What the trunk gives without heads."""

    @abstractmethod
    def path(self, trunk: Any, step: str) -> str:
        """The path of the module that gives a step; empty where no module does."""

    @abstractmethod
    def check_input(self, trunk: Any, x: Any) -> None:
        """Raises where ``x`` is not what the trunk takes."""

    @abstractmethod
    def prepare(self, trunk: Any, steps: Iterable[str]) -> None:
        """Makes steps readable."""

    @abstractmethod
    def check_layouts(self, steps: Iterable[str]) -> None:
        """Raises where it cannot be told which axis of a step's feature holds channels."""

    def deepest(self, trunk: Any, steps: Container[str]) -> str:
        """The last of ``steps`` to run."""
        return [step for step in self.steps(trunk) if step in steps][-1]
