"""Int8 for AOTInductor: torchao's PT2E for x86, extended by 3-D convolutions, which it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

from classy_vision.export.exported_program import trace
from classy_vision.export.formats import Request

_aten, _onednn, _decomposed = torch.ops.aten, torch.ops.onednn, torch.ops.quantized_decomposed
_CONV3D = _aten.conv3d.default
_CONVS = (_aten.conv2d.default, _CONV3D)
_ADDS = (_aten.add.Tensor, _aten.add_.Tensor)
_RELUS = (_aten.relu.default, _aten.relu_.default)
_QUANTIZE, _DEQUANTIZE = _decomposed.quantize_per_tensor.default, _decomposed.dequantize_per_tensor.default
_DEFAULTS: tuple[Any, ...] = (None, [1, 1, 1], [0, 0, 0], [1, 1, 1], 1)
"""The defaults of bias, stride, padding, dilation and groups."""
_ANNOTATION, _SHAPE = x86.QUANT_ANNOTATION_KEY, "input_shape"

with suppress(RuntimeError):  # one is registered already, or torch was built without oneDNN
    torch.library.register_fake("onednn::qconv_prepack", lambda weight, *others: weight.new_empty(weight.shape))


def quantize(program: torch.export.ExportedProgram, request: Request) -> torch.export.ExportedProgram:
    """Quantizes convolutions and linear layers; inductor runs them by oneDNN."""
    graph = program.module()
    assert isinstance(graph, fx.GraphModule)
    quantizer = _Quantizer()
    quantizer.set_global(_make_config())
    prepared = prepare_pt2e(graph, quantizer)
    for images in request.calibration or ():
        prepared(images)
    quantized = convert_pt2e(prepared)
    _lower(quantized)
    return trace(replace(request, model=quantized))


def _make_config() -> Any:
    """torchao's config, with weights of 7 bits; see ``classy_vision.export.int8``."""
    config = x86.get_default_x86_inductor_quantization_config()
    return replace(config, weight=replace(config.weight, quant_min=-64, quant_max=63))


def _list_nodes(graph: fx.GraphModule) -> list[Any]:
    return list(graph.graph.nodes)


class _Quantizer(x86.X86InductorQuantizer):  # type: ignore[misc]  # torchao has no types
    """torchao's quantizer, with 3-D convolutions and their sums, without what oneDNN has no kernel for."""

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        for node in _list_nodes(model):
            if node.target in _CONVS and not _has_kernel(node):
                _annotate(node, {})
            elif node.target is _CONV3D:
                images, weight = node.args[:2]
                node.meta[_SHAPE] = images.meta["val"].shape
                config = self.global_config
                _annotate(node, {images: config.input_activation, weight: config.weight})
            elif node.target in _ADDS and any(_is_quantized(part) for part in node.args):
                numbers = [part for part in node.all_input_nodes if _is_floating(part)]
                _annotate(node, dict.fromkeys(numbers, self.global_config.input_activation))
        return super().annotate(model)


def _annotate(node: Any, inputs: dict[Any, Any]) -> None:
    node.meta[_ANNOTATION] = x86._X86InductorQuantizationAnnotation(input_qspec_map=inputs, _annotated=True)


def _is_floating(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_quantized(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is _CONV3D and _has_kernel(node)


def _has_kernel(conv: Any) -> bool:
    """Whether the convolution is correct and fast in int8.

    oneDNN has groups of four channels, and single ones in 2-D. With a single input channel and a free
    batch, torch 2.13 compiles wrong code: it takes outputs, which are channels last, for contiguous.
    """
    weight, groups = conv.args[1].meta["val"], conv.args[6] if len(conv.args) > 6 else 1
    given, taken = weight.shape[0] // groups, weight.shape[1]
    if groups == 1:
        return bool(taken > 1)
    return given % 4 == taken % 4 == 0 or (given == taken == 1 and conv.target is not _CONV3D)


def _lower(graph: fx.GraphModule) -> None:
    """Replaces 3-D convolutions between dequantized and quantized values by oneDNN's operators.

    Inductor does this in 2-D. A ReLU needs no operator: unsigned values are bounded by 0.
    """
    for node in _list_nodes(graph):
        if node.target is not _CONV3D or node.args[0].target is not _DEQUANTIZE:
            continue
        images, scale, zero = node.args[0].args[:3]
        weight, scales, zeros = node.args[1].args[:3]
        given = tuple(node.args[2:])
        bias, *how = given + _DEFAULTS[len(given) :]
        done, output = _find_output(node)
        with graph.graph.inserting_before(node):
            packed = graph.graph.call_function(
                _onednn.qconv_prepack.default, (weight, scales, scale, zero, *how, _choose_packing(node))
            )
            whole = graph.graph.call_function(
                _onednn.qconv_pointwise.default,
                (images, scale, zero, packed, scales, zeros, bias, *how, *output, "none", [], ""),
            )
        done[-1].replace_all_uses_with(whole)
        for step in reversed(done):
            graph.graph.erase_node(step)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _find_output(conv: Any) -> tuple[list[Any], tuple[float, int, torch.dtype]]:
    """The nodes that the kernel replaces, and scale, zero point and type of its output."""
    relu = _find_only_user(conv, _RELUS)
    done = [conv, relu] if relu else [conv]
    last = _find_only_user(done[-1], (_QUANTIZE,))
    if last is None or (relu and last.args[2] != 0):
        return [conv], (1.0, 0, torch.float32)
    return [*done, last], (last.args[1], last.args[2], torch.uint8)


def _find_only_user(node: Any, targets: Sequence[Any]) -> Any:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in targets else None


def _choose_packing(conv: Any) -> list[int] | None:
    """The shape of the input that weights are packed for; for others they are packed in every call."""
    sizes = conv.meta[_SHAPE][1:]
    return [1, *sizes] if all(isinstance(size, int) for size in sizes) else None
