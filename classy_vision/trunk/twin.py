"""A second set of modules around the tensors of a model, or around others: what looks at a model works on
that, and the model itself can run in other threads meanwhile.

A twin has modules, modes and hooks of its own. Everything else that a module holds, such as a lock, a config
or an open file, is shared, so that any module has a twin. What refers to a module or a parameter in another
way than torch knows, such as a list of modules, a bound method or a closure, refers to the twin's.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
_ATOMS = frozenset(
    (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size)
)
_TABLES = (dict, OrderedDict)
_REGISTERED = frozenset(("_parameters", "_buffers", "_modules"))
_DEPTH = 6
"""How far references are followed through containers and objects that are not modules."""


def twin_of(model: Module, change: Callable[[Tensor], Tensor] | None = None) -> Module:
    """A twin of ``model`` in the same modes.

    Args:
        model: it is read, and neither run nor changed.
        change: gives the twin's tensor for a parameter or buffer, once for each; by default they are shared.
    """
    return _Twins(change or _same).of_model(model)


def outline_of(model: Module, gradients: bool = False) -> Module:
    """A twin on the meta device: shapes and types, no numbers.

    Args:
        model: as above.
        gradients: whether all that can have a gradient wants one, or nothing does.
    """

    def change(tensor: Tensor) -> Tensor:
        outline = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        wanted = gradients and isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
        return outline.requires_grad_(wanted)

    return twin_of(model, change)


def _same(tensor: Tensor) -> Tensor:
    return tensor


class _Twins:
    """The twins of modules and tensors, by the identity of the originals, all of which are alive."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self._change = change
        self._known: dict[int, Any] = {}
        self._originals: list[Any] = []  # alive, so that no other object gets their identity
        self._new: list[nn.Module] = []

    def of_model(self, model: Module) -> Module:
        twin = self._module(model)
        filled: list[nn.Module] = []
        while self._new or filled:  # first all that is registered: attributes may refer to any of it
            if self._new:
                filled.append(self._new.pop())
                self._fill(filled[-1])
            else:
                self._follow_attributes(filled.pop())
        return twin

    def _module(self, module: Module) -> Module:
        """The twin of ``module``, to be filled if it is new."""
        if id(module) not in self._known:
            self._originals.append(module)
            if isinstance(module, torch.jit.ScriptModule):  # what it holds is not within Python's reach
                self._known[id(module)] = self._scripted(module)
            else:
                twin: Module = object.__new__(type(module))
                twin.__dict__.update(module.__dict__)
                self._known[id(module)] = twin
                self._new.append(twin)
        return cast(Module, self._known[id(module)])

    def _scripted(self, module: nn.Module) -> nn.Module:
        with torch.no_grad():  # or its tensors would remember what they are copies of
            twin = copy.deepcopy(module)
        for part in twin.modules():
            for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
                setattr(part, name, self._change(tensor))
        return twin

    def _tensor(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._known:
            new = self._change(tensor)
            if isinstance(tensor, nn.Parameter) and not isinstance(new, nn.Parameter):
                new = nn.Parameter(new, requires_grad=new.requires_grad)
            self._originals.append(tensor)
            self._known[id(tensor)] = new
        return cast(Tensor, self._known[id(tensor)])

    def _fill(self, twin: nn.Module) -> None:
        """Gives a new twin tensors and modules of its own, in place of its original's."""
        state = twin.__dict__
        for kind in ("_parameters", "_buffers"):
            state[kind] = {n: t if t is None else self._tensor(t) for n, t in [*state[kind].items()]}
        state["_modules"] = {n: m if m is None else self._module(m) for n, m in [*state["_modules"].items()]}
        if "_compiled_call_impl" in state:  # calls the original
            del state["_compiled_call_impl"]

    def _follow_attributes(self, twin: nn.Module) -> None:
        state = twin.__dict__
        for name, value in [*state.items()]:
            kind = type(value)
            if kind in _ATOMS or name in _REGISTERED:
                continue
            if kind in _TABLES and not value:
                state[name] = kind()  # hooks of the twin's own
            elif kind is not tuple or not _ATOMS.issuperset(map(type, value)):
                new = self._follow(value, _DEPTH)
                state[name] = copy.copy(new) if kind in _TABLES and new is value else new

    def _follow(self, value: Any, depth: int) -> Any:
        """``value`` with twins for what it refers to; itself where it refers to nothing of the model."""
        if type(value) in _ATOMS or depth == 0:
            return value
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value) if isinstance(value, nn.Parameter) else self._known.get(id(value), value)
        if isinstance(value, types.MethodType):
            owner = self._follow(value.__self__, depth - 1)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            func, args, named = new = tuple(self._follow(part, depth - 1) for part in parts)
            return value if _all_same(parts, new) else functools.partial(func, *args, **named)
        if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
            return self._container(value, depth)
        return self._object(value, depth)

    def _container(self, value: Any, depth: int) -> Any:
        items = [*value.values()] if isinstance(value, dict) else [*value]
        new = [self._follow(item, depth - 1) for item in items]
        if _all_same(items, new):
            return value
        if not isinstance(value, dict):
            return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
        twin = copy.copy(value)
        twin.update(zip(value, new))
        return twin

    def _function(self, value: types.FunctionType, depth: int) -> Any:
        """A function whose closure refers to the twin."""
        cells = value.__closure__ or ()
        held = [cell.cell_contents for cell in cells if _is_full(cell)]
        if len(held) < len(cells):
            return value
        new = [self._follow(item, depth - 1) for item in held]
        if _all_same(held, new):
            return value
        closure = tuple(types.CellType(item) for item in new)
        twin = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, closure
        )
        twin.__kwdefaults__ = value.__kwdefaults__
        return twin

    def _object(self, value: Any, depth: int) -> Any:
        """A copy of an object of someone's own, if its attributes refer to the model."""
        state = getattr(value, "__dict__", None)
        if type(value).__module__.partition(".")[0] == "torch" or type(state) is not dict:
            return value
        old = dict(state)
        new = self._follow(old, min(depth - 1, 2))
        if new is old:
            return value
        twin = object.__new__(type(value))
        twin.__dict__.update(new)
        return twin


def _all_same(old: Iterable[Any], new: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(old, new))


def _is_full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
