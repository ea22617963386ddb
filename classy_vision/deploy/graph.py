"""Parts of a model as graphs of calls, in which neighbours can be seen and merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from classy_vision.layers.conv_norm_act import SameConv2d
from classy_vision.models.classy_model import ClassyModel, ModelAdapter
from classy_vision.models.trunk import END

LEAVES = (SameConv2d,)
"""Modules of ours that stay one call: what they do depends on the size of their input."""


class Traced(nn.Module):
    """A module whose forward is a graph; it keeps its class and attributes, but not its layers."""

    graph: fx.GraphModule

    def forward(self, *inputs: Any) -> Any:
        return self.graph(*inputs)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def parts(model: ClassyModel) -> Iterator[tuple[str, nn.Module]]:
    """The stem, the blocks, the tail and the heads by path: what is called, one after the other."""
    if isinstance(model, ModelAdapter):
        paths = {*model.aliases, *(set(model.block_names) - {END} - set(model.aliases.values()))}
        for path in paths:
            if not any(other.startswith(f"{path}.") for other in paths):
                yield f"model.{path}", model.model.get_submodule(path)
    elif "blocks" in model._modules:
        yield "stem", model.stem
        yield from ((f"blocks.{name}", block) for name, block in model.blocks.items())
        yield "tail", model.tail
    for block, heads in model.get_heads().items():
        yield from ((f"heads.{block}.{head.unique_id}", head) for head in heads)


def trace(part: nn.Module, out: torch.dtype | None = None) -> fx.GraphModule:
    """Makes ``part`` run as a graph, and gives that graph.

    Args:
        part: it keeps its class and attributes, but not its layers.
        out: what its output is converted to.

    Raises:
        TypeError, ValueError, RuntimeError: its forward can't be traced; it stays as it was.
    """
    found = _Tracer().trace(part)
    if out is not None:
        last = next(node for node in reversed(found.nodes) if node.op == "output")
        with found.inserting_before(last):
            last.args = (found.call_method("to", (last.args[0], out)),)
    graph = fx.GraphModule(part, found)
    graph.meta["room"] = getattr(part, "room", None)  # of a layer of DenseNet
    for name in list(part._modules):
        delattr(part, name)
    part.__class__ = type(type(part).__name__, (Traced, type(part)), {})
    part.graph = graph
    return graph


# -- looking around in a graph


def module_at(node: Any) -> nn.Module | None:
    """The module that a node calls."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    owner = node.graph.owning_module
    assert owner is not None
    return owner.get_submodule(str(node.target))


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
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
