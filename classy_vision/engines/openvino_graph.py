"""Exported programs in the operators that OpenVINO reads.

OpenVINO's own route has torch decompose a program first, which traces it again: 4 to 9 seconds for the networks
of this library, which is more than all other steps together. Nearly all of it is for the operators in
``RULES``, so those are rewritten here. A program with others takes OpenVINO's route.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from classy_vision.engines.openvino_package import load_openvino

_aten = torch.ops.aten
_Call = Callable[..., Any]
"""Puts an operator with its arguments into the graph."""


def convert(exported: torch.export.ExportedProgram) -> Any:
    """Returns the program as an ``openvino.Model``."""
    ov = load_openvino()
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own graphs
        try:
            graph = exported.module(check_guards=False)
            _rewrite(graph)
            return ov.convert_model(TorchFXPythonDecoder(graph, dynamic_shapes=True))
        except Exception:  # whatever a rule or OpenVINO stumbles over
            return ov.convert_model(exported)


def _rewrite(module: Any) -> None:
    """Replaces the operators that have a rule.

    Raises:
        NotImplementedError: a value is overwritten while something else reads it, which OpenVINO does not see.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if getattr(getattr(node.target, "_schema", None), "is_mutable", False) and len(node.args[0].users) > 1:
            raise NotImplementedError(f"{node.args[0]} is overwritten by {node}")
        if rule := RULES.get(node.target):
            with graph.inserting_before(node):
                new = rule(lambda target, *args: graph.call_function(target, args), node, *_arguments(node))
            if new not in node.all_input_nodes:
                new.meta.update(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)
    module.recompile()


def _arguments(node: Any) -> list[Any]:
    """The arguments of a call in the order of the operator's schema, with its defaults."""
    schema = node.target._schema.arguments
    given = [*node.args, *(node.kwargs.get(a.name, a.default_value) for a in schema[len(node.args) :])]
    return given


def _convolution(call: _Call, node: Any, x: Any, weight: Any, bias: Any, *how: Any) -> Any:
    axes = node.meta["val"].dim() - 2
    stride, padding, dilation = ([*size] * (axes // len(size)) for size in how[:3])
    return call(
        _aten.convolution.default, x, weight, bias, stride, padding, dilation, False, [0] * axes, how[3]
    )


def _batch_norm(call: _Call, node: Any, x: Any, *args: Any) -> Any:
    *parts, training, momentum, eps, _ = args
    assert not training
    return _first(call, _aten._native_batch_norm_legit_no_training.default, x, *parts, momentum, eps)


def _reshape(call: _Call, node: Any, x: Any, *args: Any) -> Any:
    sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    if sizes.count(-1) > 1:
        raise NotImplementedError(f"{node} has several free sizes")
    return call(_aten.view.default, x, sizes)


def _average(call: _Call, node: Any, x: Any, sizes: Any) -> Any:
    if set(sizes) != {1}:
        raise NotImplementedError(f"{node} is not the mean")
    return call(_aten.mean.dim, x, list(range(-len(sizes), 0)), True)


def _chunk(call: _Call, node: Any, x: Any, chunks: int, dim: int) -> Any:
    return call(_aten.split.Tensor, x, -(-x.meta["val"].shape[dim] // chunks), dim)


def _first(call: _Call, target: Any, *args: Any) -> Any:
    """The first result of an operator that has several."""
    return call(operator.getitem, call(target, *args), 0)


RULES: Mapping[Any, Callable[..., Any]] = {
    _aten.adaptive_avg_pool2d.default: _average,
    _aten.adaptive_avg_pool3d.default: _average,
    _aten.batch_norm.default: _batch_norm,
    _aten.chunk.default: _chunk,
    _aten.conv2d.default: _convolution,
    _aten.conv3d.default: _convolution,
    _aten.contiguous.default: lambda call, node, x, *args: x,
    _aten.dropout.default: lambda call, node, x, *args: x,
    _aten.flatten.using_ints: _reshape,
    _aten.layer_norm.default: lambda call, node, *args: _first(
        call, _aten.native_layer_norm.default, *args[:5]
    ),
    _aten.max_pool2d.default: lambda call, node, *args: _first(
        call, _aten.max_pool2d_with_indices.default, *args
    ),
    _aten.max_pool3d.default: lambda call, node, *args: _first(
        call, _aten.max_pool3d_with_indices.default, *args
    ),
    _aten.mT.default: lambda call, node, x: call(_aten.transpose.int, x, -2, -1),
    _aten.pad.default: lambda call, node, x, pads, mode, value: call(
        _aten.constant_pad_nd.default, x, pads, value or 0.0
    ),
    _aten.reshape.default: _reshape,
    _aten.softmax.int: lambda call, node, x, dim, dtype: call(_aten._softmax.default, x, dim, False),
    _aten.unflatten.int: _reshape,
}
"""For each operator a function of ``call``, the node and its arguments that returns what stands for it."""
