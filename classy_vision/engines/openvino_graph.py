"""Converts exported programs to OpenVINO.

OpenVINO has torch decompose a program first, which traces it again: 4 to 9 seconds for the networks of this
library, more than all other steps together. Most networks need only the operators in ``RULES`` decomposed, so
these are replaced here. If that fails, OpenVINO converts the program its own way.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx.node import map_arg

from classy_vision.engines.openvino_package import load_openvino

_aten = torch.ops.aten


def convert(exported: torch.export.ExportedProgram) -> Any:
    """Returns the program as an ``openvino.Model``."""
    ov = load_openvino()
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own graphs
        try:
            graph = exported.module(check_guards=False)
            _fold(graph)
            _rewrite(graph)
            return ov.convert_model(TorchFXPythonDecoder(graph, dynamic_shapes=True))
        except Exception:  # a rule or OpenVINO may raise any
            return ov.convert_model(exported)


def _fold(module: Any) -> None:
    """Computes what depends on no input and no weight, such as the angles of positions."""
    graph, values = module.graph, dict[Any, Any]()
    for node in graph.nodes:
        is_known = node.op == "call_function" and all(of in values for of in node.all_input_nodes)
        if is_known and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    for node in reversed(values):
        if any(user not in values for user in node.users):
            name = f"folded_{node.name}"
            module.register_buffer(name, values[node])
            with graph.inserting_before(node):
                constant = graph.get_attr(name)
            constant.meta.update(node.meta)
            node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in values)
    for node in reversed(values):
        graph.erase_node(node)


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
        if node.target == _aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target in IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif rule := RULES.get(node.target):
            target, *args = rule(node, *_list_arguments(node))
            with graph.inserting_before(node):
                new = graph.call_function(target, tuple(args))
                if target in HAVE_SEVERAL_RESULTS:
                    new = graph.call_function(operator.getitem, (new, 0))
            new.meta.update(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)
    module.recompile()


def _list_arguments(node: Any) -> list[Any]:
    """Returns the arguments of a call in the order of the operator's schema, with its defaults."""
    schema = node.target._schema.arguments
    return [*node.args, *(node.kwargs.get(a.name, a.default_value) for a in schema[len(node.args) :])]


def _convert_convolution(node: Any, x: Any, weight: Any, bias: Any, *settings: Any) -> tuple[Any, ...]:
    axes = node.meta["val"].dim() - 2
    *sizes, groups = settings
    stride, padding, dilation = ([*size] * (axes // len(size)) for size in sizes)
    return _aten.convolution.default, x, weight, bias, stride, padding, dilation, False, [0] * axes, groups


def _convert_batch_norm(node: Any, *args: Any) -> tuple[Any, ...]:
    *tensors, training, momentum, eps, _ = args
    assert not training
    return _aten._native_batch_norm_legit_no_training.default, *tensors, momentum, eps


def _convert_reshape(node: Any, x: Any, *args: Any) -> tuple[Any, ...]:
    sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    if sizes.count(-1) > 1:
        raise NotImplementedError(f"{node} has several dynamic sizes")
    return _aten.view.default, x, sizes


def _convert_average(node: Any, x: Any, sizes: Any) -> tuple[Any, ...]:
    if set(sizes) != {1}:
        raise NotImplementedError(f"{node} does not average whole maps")
    return _aten.mean.dim, x, list(range(-len(sizes), 0)), True


def _convert_chunk(node: Any, x: Any, chunks: int, dim: int) -> tuple[Any, ...]:
    return _aten.split.Tensor, x, -(-x.meta["val"].shape[dim] // chunks), dim


def _convert_pad(node: Any, x: Any, pads: Any, mode: str, value: float | None) -> tuple[Any, ...]:
    if mode != "constant":
        raise NotImplementedError(f"{node} pads with {mode}")
    return _aten.constant_pad_nd.default, x, pads, value or 0.0


def _convert_type(node: Any, x: Any, dtype: Any, *settings: Any) -> tuple[Any, ...]:
    if x.meta["val"].dtype != dtype:
        raise NotImplementedError(f"{node} changes the type of {x}")
    return _aten.alias.default, x


RULES: Mapping[Any, Callable[..., tuple[Any, ...]]] = {
    _aten.adaptive_avg_pool2d.default: _convert_average,
    _aten.adaptive_avg_pool3d.default: _convert_average,
    _aten.batch_norm.default: _convert_batch_norm,
    _aten.chunk.default: _convert_chunk,
    _aten.conv2d.default: _convert_convolution,
    _aten.conv3d.default: _convert_convolution,
    _aten.flatten.using_ints: _convert_reshape,
    _aten.layer_norm.default: lambda node, *args: (_aten.native_layer_norm.default, *args[:5]),
    _aten.max_pool2d.default: lambda node, *args: (_aten.max_pool2d_with_indices.default, *args),
    _aten.max_pool3d.default: lambda node, *args: (_aten.max_pool3d_with_indices.default, *args),
    _aten.mT.default: lambda node, x: (_aten.transpose.int, x, -2, -1),
    _aten.pad.default: _convert_pad,
    _aten.reshape.default: _convert_reshape,
    _aten.softmax.int: lambda node, x, dim, dtype: (_aten._softmax.default, x, dim, False),
    _aten.to.dtype: _convert_type,
    _aten.unflatten.int: _convert_reshape,
}
"""For each operator a function of the node and its arguments; returns the operator that replaces it, and the
arguments of that."""
IDENTITIES = {_aten.contiguous.default, _aten.dropout.default}
"""Operators that return their input in evaluation mode."""
HAVE_SEVERAL_RESULTS = {
    _aten._native_batch_norm_legit_no_training.default,
    _aten.native_layer_norm.default,
    _aten.max_pool2d_with_indices.default,
    _aten.max_pool3d_with_indices.default,
}
"""Operators of which the first result is used."""
