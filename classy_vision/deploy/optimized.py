"""A model as it is quickest for inference, with the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.deploy.fold import fold
from classy_vision.deploy.graph import parts, trace
from classy_vision.deploy.pack import can_pack
from classy_vision.deploy.pack import pack as pack_graph
from classy_vision.deploy.packed import Workspace
from classy_vision.models.classy_model import ClassyModel
from classy_vision.models.trunk import END

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2, torch.float64: 1e-9}
"""The types in which a model can run, and how far an output may then be off, as a part of its largest value."""
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Optimized(ClassyModel):
    """What ``optimize`` makes of a model; its family's class is the other base.

    Attributes:
        untraced: parts that run as they did, because their forward can't be read as a graph.
    """

    untraced: tuple[str, ...]
    _dtype: torch.dtype
    _is_packed: bool

    def walk(self, x: Tensor, until: str = END) -> Iterator[tuple[str, Tensor]]:
        return super().walk(_prepared(x, self._dtype), until)

    def train(self, mode: bool = True) -> Any:
        """Refuses training.

        Raises:
            TypeError: ``mode`` is true.
        """
        if mode:
            raise TypeError("an optimized model is for inference: train the model that it was made of")
        return super().train(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses to save what is in the order of one machine.

        Raises:
            TypeError: the model is packed.
        """
        if self._is_packed:
            raise TypeError(
                "a packed model has no weights to save: save the model that it was made of, "
                "or take optimize(..., pack=False)"
            )
        return super().state_dict(*args, **kwargs)

    def __reduce__(self) -> Any:
        raise TypeError("an optimized model can't be pickled: pickle the model that it was made of")


def optimize(
    model: ClassyModel,
    example: Tensor | None = None,
    *,
    dtype: torch.dtype | str = torch.float32,
    pack: bool = True,
    compile: bool = False,
    tolerance: float | None = None,
) -> Optimized:
    """A copy of ``model`` for inference: same heads and blocks, same early stop, same outputs.

    Batch norms go into the convolutions beside them, also those before a convolution, and layer
    scales into linear layers. With ``pack``, on a CPU: weights in the order of oneDNN, activations and
    sums in the same call as the layer before them, no copies where DenseNet concatenates, and
    temporary tensors in memory that is kept. Images are taken with channels last. Takes a second or
    so, compiles nothing, and holds a second copy of the weights.

    The copy is run on ``example`` and held against the model before it is given back. It takes other
    batches and sizes as the model does. Call it under ``torch.inference_mode()`` or ``no_grad``.

    Args:
        model: on the device where it is going to run; put into evaluation.
        example: a batch of the usual size, as a tensor; random numbers where it is left out.
        dtype: in which it runs, such as ``torch.bfloat16`` or "bfloat16"; features come in it, the
            outputs of heads in that of the example.
        pack: False leaves plain layers of torch, for ``torch.export`` and the like.
        compile: also by ``torch.compile`` with frozen weights, instead of ``pack``; takes 10 to 100 seconds.
        tolerance: the largest difference of an output, as a part of its largest value; by
            default 1e-4 in 32 bits and 2e-2 in 16.

    Raises:
        TypeError: ``model`` is no ``ClassyModel``, or optimized already.
        UnknownNameError: a ``dtype`` that models do not run in.
        ConfigError: the copy differs by more than ``tolerance``.
    """
    if not isinstance(model, ClassyModel) or isinstance(model, Optimized):
        raise TypeError(f"optimize takes a ClassyModel that is not optimized, not {type(model).__name__}")
    kind = _BY_NAME.get(str(dtype).removeprefix("torch."))
    if kind is None:
        raise unknown("dtype", str(dtype), _BY_NAME)
    bound = TOLERANCES[kind] if tolerance is None else tolerance
    like = next(model.parameters(), torch.empty(0))
    with torch.no_grad():
        x = torch.randn(1, *model.input_shape).to(like) if example is None else example
        model.eval()
        wanted = _outputs(model(x))
        twin, graphs = _folded(model, kind, x.dtype)
        if compile:
            twin.compile(fullgraph=True, options={"freezing": True})
        elif pack:
            _pack(twin, graphs, x)
        for name, output in _outputs(twin(x)).items():
            _compare(name, output, wanted[name], bound)
    return twin


def _folded(model: ClassyModel, dtype: torch.dtype, out: torch.dtype) -> tuple[Optimized, list[fx.GraphModule]]:
    twin: Any = copy.deepcopy(model).requires_grad_(False)
    twin.__class__ = type(f"Optimized{type(model).__name__}", (Optimized, type(model)), {})
    twin._dtype, twin._is_packed = dtype, False
    graphs, untraced = [], []
    for name, part in parts(twin):
        if type(part).__module__.startswith("torch.nn") and not part._modules:
            continue  # one layer has no neighbours
        try:
            graph = trace(part, out if name.startswith("heads.") else None)
        except (TypeError, ValueError, RuntimeError, AttributeError):
            untraced.append(name)
            continue
        fold(graph, dtype)
        graphs.append(graph)
    twin.untraced = tuple(untraced)
    return twin.to(dtype=dtype), graphs


def _pack(twin: Optimized, graphs: list[fx.GraphModule], x: Tensor) -> None:
    if not can_pack(x.device, twin._dtype):
        return
    sizes: dict[nn.Module, tuple[int, ...]] = {}
    layers = [
        m for graph in graphs for m in graph.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d, nn.Linear))
    ]
    hooks = [layer.register_forward_pre_hook(_noting(sizes)) for layer in layers]
    twin(x)
    for hook in hooks:
        hook.remove()
    space = Workspace()
    for graph in graphs:
        pack_graph(graph, sizes, twin._dtype, space)
    twin._is_packed = True


def _noting(sizes: dict[nn.Module, tuple[int, ...]]) -> Any:
    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[layer] = tuple(inputs[0].shape)

    return note


def _prepared(x: Tensor, dtype: torch.dtype) -> Tensor:
    if not isinstance(x, Tensor):
        return x
    return x.detach().to(dtype=dtype, memory_format=_LAYOUTS.get(x.dim(), torch.preserve_format))


def _outputs(outputs: Any) -> Mapping[str, Tensor]:
    return outputs if isinstance(outputs, Mapping) else {"": outputs}


def _compare(name: str, output: Tensor, wanted: Tensor, bound: float) -> None:
    largest = wanted.abs().max().double()
    difference = (output.double() - wanted.double()).abs().max()
    if not difference <= bound * (largest if largest > 0 else 1.0):
        where = f"head {name!r}" if name else "the output"
        raise ConfigError(
            f"the optimized model is not the same: {where} differs by {difference:.3g}; its largest value is "
            f"{largest:.3g}, and allowed is tolerance = {bound:g} of that. Try dtype='float32'"
        )
