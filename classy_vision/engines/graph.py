"""Parts of a model as graphs of calls, in which neighbours can be seen and merged."""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx, nn

from classy_vision.layers.activation import Hardswish, SiLU
from classy_vision.layers.conv_norm_act import SameConv2d
from classy_vision.models.classy_model import ClassyModel
from classy_vision.models.densenet.model import DenseLayer

LEAVES = (SameConv2d, SiLU, Hardswish)
"""Modules of ours that stay one call: what they do depends on their input."""
TRACING = threading.RLock()
"""fx changes ``nn.Module`` for the whole process while it traces, and reads the globals of what others call."""


class Traced(nn.Module):
    """A module whose forward is a graph; it keeps its class and attributes, but not its layers."""

    graph: fx.GraphModule

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.graph(*inputs, **named)


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:  # a model that another thread runs meanwhile
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def parts(model: ClassyModel) -> Iterator[tuple[str, nn.Module]]:
    """The stem, the blocks, the tail and the heads by path: what is called, one after the other."""
    if (hooked := model.hooked_modules()) is not None:
        tapped = set(hooked.values())
        for path, module in model.named_modules():
            if module in tapped and not any(part in tapped for part in module.modules() if part is not module):
                yield path, module
    elif "blocks" in model._modules:
        ends = {name: model._modules.get(name) for name in ("stem", "tail")}
        yield from ((name, part) for name, part in ends.items() if part is not None)
        yield from ((f"blocks.{name}", block) for name, block in model.blocks.items())
    for block, heads in model.get_heads().items():
        yield from ((f"heads.{block}.{head.unique_id}", head) for head in heads)


def trace(part: nn.Module) -> fx.GraphModule:
    """Makes ``part`` run as a graph, and gives that graph. It keeps its class and attributes.

    Raises:
        Exception: of any kind, as its forward can't be traced; it stays as it was.
    """
    if isinstance(part, fx.GraphModule) or len(inspect.signature(part.forward).parameters) > 1:
        raise TypeError(f"{type(part).__name__}: a forward of one input is needed")
    with TRACING:
        graph = fx.GraphModule(part, _Tracer().trace(part))
    traced = type(type(part).__name__, (Traced, type(part)), {})
    # What changes its input in place may have no reader.
    kept = {node for node in graph.graph.nodes if not node.users and node.op != "output"}
    graph.meta.update(kept=kept, left=set(), room=part.capacity if isinstance(part, DenseLayer) else None)
    for name in list(part._modules):
        delattr(part, name)
    part.__class__ = traced
    part.graph = graph
    return graph


def leave_shared(graphs: Iterable[fx.GraphModule], untraced: Iterable[nn.Module]) -> None:
    """Makes ``module_at`` pass over modules that may not be rewritten: those with weights that are called
    in several places, and those with hooks or parametrizations."""
    graphs = list(graphs)
    calls = Counter(id(module) for graph in graphs for module in _called(graph))
    calls.update(id(module) for part in untraced for module in (*part.modules(), *part.modules()))
    for graph in graphs:
        for module in _called(graph):
            has_weights = any(True for _ in (*module.parameters(), *module.buffers()))
            if (has_weights and calls[id(module)] > 1) or not _is_plain(module):
                graph.meta["left"].add(id(module))


def _called(graph: fx.GraphModule) -> list[nn.Module]:
    return [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]


def _is_plain(module: nn.Module) -> bool:
    return not (module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations"))


# -- looking around in a graph


def module_at(node: Any) -> nn.Module | None:
    """The module that a node calls, where it may be rewritten."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    owner = node.graph.owning_module
    assert owner is not None
    module = owner.get_submodule(str(node.target))
    return None if id(module) in owner.meta["left"] else module


def reader(node: fx.Node) -> fx.Node | None:
    """The one node that reads the result of ``node``; None where there are none or more."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def calls(node: Any, *functions: Any) -> bool:
    """Whether ``node`` calls one of the functions, or a method of such a name."""
    return (
        isinstance(node, fx.Node) and node.op in ("call_function", "call_method") and node.target in functions
    )


def constant(node: Any) -> torch.Tensor | None:
    """The tensor of the module that a node gives."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = node.graph.owning_module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value if isinstance(value, torch.Tensor) else None


def is_in_place(node: fx.Node) -> bool:
    """Whether a node may change what it reads."""
    if node.op == "call_module":
        owner = node.graph.owning_module
        assert owner is not None
        return bool(getattr(owner.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    known = name.startswith("i") and name[1:] in ("add", "sub", "mul", "truediv", "and", "or", "xor", "matmul")
    return known or (name.endswith("_") and not name.endswith("__")) or bool(node.kwargs.get("inplace"))


def put(node: fx.Node, module: nn.Module) -> None:
    """Puts ``module`` in the place of the one that ``node`` calls."""
    owner = node.graph.owning_module
    assert owner is not None
    path, _, name = str(node.target).rpartition(".")
    setattr(owner.get_submodule(path), name, module)


def swap(node: fx.Node, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Puts a call of ``module`` in the place of ``node``."""
    owner = node.graph.owning_module
    assert owner is not None
    name = f"{type(module).__name__.lower()}_{node.name}"
    owner.add_submodule(name, module)
    with node.graph.inserting_before(node):
        call = node.graph.call_module(name, inputs)
    drop(node, call)


def drop(node: fx.Node, instead: fx.Node) -> None:
    """Takes a node out; what read it reads ``instead``."""
    node.replace_all_uses_with(instead)
    node.graph.erase_node(node)


def tidy(graph: fx.GraphModule) -> None:
    """Leaves out what nothing reads, and makes the code anew."""
    sweep(graph)
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()


def sweep(graph: fx.GraphModule) -> None:
    """Takes out what nothing reads."""
    kept = graph.meta["kept"]
    graph.graph.eliminate_dead_code(lambda node: node in kept or node.is_impure())
