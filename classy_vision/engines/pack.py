"""Puts the quickest layers for a CPU in the place of torch's, with what follows them in the same call."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.engines.fold import Clamp
from classy_vision.engines.graph import (
    calls,
    constant,
    drop,
    is_in_place,
    module_at,
    put,
    reader,
    swap,
    sweep,
    tidy,
)
from classy_vision.engines.packed import (
    CONVS,
    Append,
    Attention,
    ClampInto,
    Excite,
    MeanPool,
    PackedConv,
    PackedLinear,
    Positions,
    Then,
    Workspace,
)
from classy_vision.heads.classy_head import pool
from classy_vision.layers.activation import Hardswish, SiLU
from classy_vision.models.vision_transformer.positions import resized

_ACTIVATIONS: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "swish",
    SiLU: "swish",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Hardswish: "hardswish",
    Hardswish: "hardswish",
}


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine has what it takes."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # untyped
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(
    graph: fx.GraphModule, inputs: Mapping[nn.Module, Sequence[int]], dtype: torch.dtype, space: Workspace
) -> None:
    """Changes a part, folded and in its final type.

    Args:
        graph: the part.
        inputs: shapes of the usual inputs of convolutions and linear layers.
        dtype: in which it runs.
        space: for temporary tensors.
    """
    for node in list(graph.graph.nodes):
        if calls(node, operator.mul, torch.mul) and (layers := _excitation(node)):
            swap(node, Excite(*layers), (node.args[0],))
    sweep(graph)
    for node in list(graph.graph.nodes):
        layer = module_at(node)
        if isinstance(layer, nn.Linear) and layer in inputs:
            _pack_linear(node, layer, inputs[layer])
        elif layer is not None and type(layer) in CONVS and layer in inputs:
            _pack_conv(node, layer, inputs[layer])
        elif node.op in ("call_function", "call_method"):
            _swap_call(node, graph, dtype, space)
    sweep(graph)
    for node in graph.graph.nodes:
        clamp = module_at(node)
        if isinstance(clamp, Clamp) and clamp.low.dim() == 4 and _is_read_at_once(node):
            put(node, ClampInto(clamp, space))
    tidy(graph)


def _pack_conv(node: fx.Node, conv: Any, size: Sequence[int]) -> None:
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        then = _with_act(node, _with_sum(node, Then()))
        put(node, PackedConv(conv, then, size))


def _pack_linear(node: fx.Node, linear: nn.Linear, size: Sequence[int]) -> None:
    then = _with_gelu(node, _with_sum(node, Then()))
    then = then if then.adds else _with_act(node, then)
    put(node, PackedLinear(linear, then, max(1, torch.Size(size[:-1]).numel())))


def _swap_call(node: fx.Node, graph: fx.GraphModule, dtype: torch.dtype, space: Workspace) -> None:
    x, *rest = node.args or (None,)
    if calls(node, pool):
        swap(node, MeanPool(), (x,))
    elif calls(node, torch.cat) and isinstance(x, (list, tuple)) and len(x) == 2 and rest == [1]:
        room = graph.meta["room"]
        if room:
            swap(node, Append(room), tuple(x))
    elif calls(node, F.scaled_dot_product_attention) and set(node.kwargs) <= {"dropout_p", "scale"}:
        # In 32 bits torch's own kernel is quicker.
        if dtype == torch.bfloat16 and not node.kwargs.get("dropout_p") and len(rest) == 2:
            swap(node, Attention(space), (x, *rest, node.kwargs.get("scale")))
    elif calls(node, resized) and (positions := constant(x)) is not None:
        options: Any = rest
        prefix, grid, size, how = options
        swap(node, Positions(positions, prefix, grid, how), (size,))


def _excitation(node: fx.Node) -> tuple[nn.Conv2d, nn.Module, nn.Conv2d] | None:
    """The layers of x * sigmoid(conv(act(conv(mean(x))))), where ``x`` is fresh and nothing else reads it."""
    chain: list[Any] = []
    step = node.args[1] if len(node.args) == 2 else None
    for kind in (nn.Sigmoid, nn.Conv2d, nn.Module, nn.Conv2d):
        layer = module_at(step)
        if not isinstance(layer, kind) or not isinstance(step, fx.Node) or len(step.users) != 1:
            return None
        chain.append(layer)
        step = step.args[0]
    _, excite, act, squeeze = chain
    if type(act) not in _ACTIVATIONS and not isinstance(act, nn.GELU):
        return None  # it may see more than one number at a time
    x = node.args[0]
    if not calls(step, "mean", torch.mean) or not isinstance(step, fx.Node):
        return None
    if step.args != (x, (2, 3)) or step.kwargs != {"keepdim": True} or len(step.users) != 1:
        return None
    if not isinstance(x, fx.Node) or set(x.users) != {step, node} or not _is_fresh(x):
        return None
    is_pointwise = all(conv.kernel_size == (1, 1) and conv.groups == 1 for conv in (excite, squeeze))
    return (squeeze, act, excite) if is_pointwise else None


def _is_fresh(node: fx.Node) -> bool:
    """Whether a layer has just made this tensor, so that nothing else sees it change."""
    layer = module_at(node)
    while type(layer) in _ACTIVATIONS and getattr(layer, "inplace", False):
        before = node.all_input_nodes[0]
        if reader(before) is not node:
            return False
        node, layer = before, module_at(before)
    return type(layer) in _ACTIVATIONS or isinstance(layer, CONVS)


def _is_read_at_once(node: fx.Node) -> bool:
    after = reader(node)
    layer = module_at(after)
    return after is node.next and (isinstance(layer, PackedConv) or type(layer) in CONVS)


# -- what goes into the same call


def _with_sum(node: fx.Node, then: Then) -> Then:
    total = reader(node)
    if total is None or not calls(total, operator.add, torch.add) or total.kwargs or len(total.args) != 2:
        return then
    other = [arg for arg in total.args if arg is not node]
    if len(other) != 1 or not isinstance(other[0], fx.Node) or not _is_tensor(other[0]):
        return then
    between = node.next
    while between is not total:  # the call moves behind these
        if is_in_place(between):
            return then
        between = between.next
    node.args = (*node.args, other[0])
    total.append(node)  # the other may be made behind it
    drop(total, node)
    return then._replace(adds=True)


def _is_tensor(node: fx.Node) -> bool:
    """Whether it is certainly no size or other number."""
    if node.op in ("placeholder", "call_module", "get_attr"):
        return True
    if node.op == "call_method":
        return node.target not in ("size", "dim", "numel", "item", "stride", "__len__")
    if node.target in (getattr, len, operator.getitem):
        return False
    return any(map(_is_tensor, node.all_input_nodes))


def _with_act(node: fx.Node, then: Then) -> Then:
    after = reader(node)
    act = None if after is None else _ACTIVATIONS.get(type(module_at(after)))  # type: ignore[arg-type]  # any module
    if act is None or after is None or then.act != "none":
        return then
    drop(after, node)
    return then._replace(act=act)


def _with_gelu(node: fx.Node, then: Then) -> Then:
    after = reader(node)
    if then.adds or after is None or not calls(after, F.gelu):
        return then
    algorithm = str(after.kwargs.get("approximate", "none"))
    drop(after, node)
    return Then("gelu", algorithm)
