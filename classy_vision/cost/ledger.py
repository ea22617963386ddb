"""A record of the operators that a model runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from classy_vision.cost.operators import MACS, activations, is_known
from classy_vision.cost.receptive_field import Fields, tensors_in
from classy_vision.trunk.meta import OnMeta


@dataclass(frozen=True)
class Operation:
    """One operator that ran.

    Attributes:
        name: such as "aten.convolution".
        macs: its multiply-adds.
        activations: the numbers in its output, if they count.
        params: parameters that it was the first to read.
        is_known: whether it is known what it does; otherwise it counts nothing.
        result: its output, on the meta device.
    """

    name: str
    macs: int
    activations: int
    params: int
    is_known: bool
    result: Any


class Ledger(OnMeta):  # type: ignore[no-untyped-call]  # torch leaves the mode untyped
    """Records every operator that runs in its context.

    Args:
        parameters: meta tensors to look out for; each counts for the operator that reads it first.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.fields = Fields()
        self._unread = {id(p): p.numel() for p in parameters}
        self._end: dict[int, int] = {}

    @property
    def unread(self) -> int:
        """Parameters that nothing has read so far."""
        return sum(self._unread.values())

    def end_of(self, tensor: Tensor) -> int:
        """How many operators had run when ``tensor`` was ready."""
        return self._end.get(id(tensor), len(self.operations))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        inputs = tensors_in((*args, *options.values()))
        params = sum(self._unread.pop(id(t), 0) for t in inputs)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        formula = MACS.get(func.overloadpacket)
        macs = formula(*args, **options, out_val=result) if formula else 0
        given, name = activations(func, args, result), str(func.overloadpacket)
        # The result is kept, so that its id stays its own.
        self.operations.append(Operation(name, macs, given, params, is_known(func), result))
        results = tensors_in((result,))
        self.fields.follow(func, inputs, args, results)
        self._end.update((id(t), len(self.operations)) for t in results)
        return result
