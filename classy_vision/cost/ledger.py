"""A record of the operators that a model runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from classy_vision.cost.operators import MACS
from classy_vision.layers.meta import OnMeta


@dataclass(frozen=True)
class Operation:
    """One operator that ran.

    Attributes:
        name: such as "aten.convolution".
        macs: its multiply-adds.
        params: parameters that it was the first to read.
        result: what it gave, on the meta device.
    """

    name: str
    macs: int
    params: int
    result: Any


class Ledger(OnMeta):  # type: ignore[no-untyped-call]
    """Writes down every operator that runs in its context.

    Args:
        parameters: meta tensors to look out for; each counts for the operator that reads it first.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._unread = {id(p): p.numel() for p in parameters}
        self._end: dict[int, int] = {}

    @property
    def unread(self) -> int:
        """Parameters that nothing has read so far."""
        return sum(self._unread.values())

    def end_of(self, tensor: Tensor) -> int:
        """How many operators had run when ``tensor`` was ready."""
        return self._end.get(id(tensor), len(self.operations))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        params = sum(self._unread.pop(id(t), 0) for t in _tensors((*args, *options.values())))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        formula = MACS.get(func.overloadpacket)
        macs = formula(*args, **options, out_val=result) if formula else 0
        # The result is kept, so that its id stays its own.
        self.operations.append(Operation(str(func.overloadpacket), macs, params, result))
        self._end.update((id(t), len(self.operations)) for t in _tensors((result,)))
        return result


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
