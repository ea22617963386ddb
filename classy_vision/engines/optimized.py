"""A model as it is quickest for inference, with the same numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.cost.memory import in_mode
from classy_vision.engines.fold import fold
from classy_vision.engines.graph import TRACING, leave_shared, parts, trace
from classy_vision.engines.pack import can_pack
from classy_vision.engines.pack import pack as pack_graph
from classy_vision.engines.packed import Workspace
from classy_vision.identify.networks import load_model
from classy_vision.models.classy_model import ClassyModel
from classy_vision.trunk.trunk import END

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2, torch.float64: 1e-9}
"""The types in which a model can run, and how far an output may then be off, as a part of its largest value."""
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
_LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)


class Optimized(nn.Module):
    """What ``optimize`` returns: a model for inference whose parts run as graphs.

    Args:
        model: holds the optimized parts.
        out: the type of outputs.

    Attributes:
        untraced: parts that run as before, because their forward cannot be traced.
    """

    def __init__(self, model: ClassyModel, dtype: torch.dtype, out: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.untraced: tuple[str, ...] = ()
        self._dtype, self._out, self._is_packed = dtype, out, False
        self.train(False)

    @property
    def block_names(self) -> Any:
        """Those of the model."""
        return self.model.block_names

    @property
    def blocks(self) -> Any:
        """Those of the model, as graphs."""
        return self.model.blocks

    @property
    def input_shape(self) -> tuple[int, ...]:
        """That of the model."""
        return self.model.input_shape

    def get_heads(self) -> Any:
        """Returns the heads by block, as graphs."""
        return self.model.get_heads()

    def forward(self, x: Any) -> Any:
        """Returns what the model returns, in the type of the example."""
        return convert_outputs(self._run(self.model, x), self._out)

    def features(self, x: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """As ``ClassyModel.features``."""
        features: dict[str, Tensor] = self._run(self.model.features, x, blocks)
        return features

    def extract_features(self, x: Tensor) -> Tensor:
        """As ``ClassyModel.extract_features``."""
        return self._run(self.model.extract_features, x)

    def walk(self, x: Tensor, until: str = END) -> Iterator[tuple[str, Tensor]]:
        """As ``ClassyModel.walk``."""
        return self.model.walk(_prepare(x, self._dtype), until)

    def _run(self, call: Callable[..., Any], x: Any, *args: Any) -> Any:
        x = _prepare(x, self._dtype)
        if isinstance(x, Tensor) and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):  # the types are chosen already
                return call(x, *args)
        return call(x, *args)

    def train(self, mode: bool = True) -> Any:
        """Refuses training.

        Raises:
            TypeError: ``mode`` is true.
        """
        if mode:
            raise TypeError("an optimized model is for inference: train the model that it was made of")
        return super().train(False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("an optimized model can't be pickled or copied: optimize the model that it was made of")

    def _refuse(self, what: str) -> None:
        if self._is_packed:
            raise TypeError(
                f"a packed model {what}: do that with the model that it was made of, "
                "or take optimize(..., pack=False)"
            )

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("has no weights to save")
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("takes no weights")
        return self.model.load_state_dict(*args, **kwargs)

    def set_heads(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("keeps its heads")
        self.model.set_heads(*args, **kwargs)

    def clear_heads(self) -> None:
        self._refuse("keeps its heads")
        self.model.clear_heads()

    def feature_info(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("cannot run without data")
        return self.model.feature_info(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("stays on its device and in its type")
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]  # of torch
        self._dtype = next((p.dtype for p in self.parameters()), self._dtype)
        return self


def optimize(
    model: ClassyModel | str | Path,
    example: Tensor | None = None,
    *,
    dtype: torch.dtype | str = torch.float32,
    pack: bool = True,
    compile: bool = False,
    tolerance: float | None = None,
) -> Optimized:
    """Makes a copy of ``model`` for inference: same heads and blocks, same early stop, same outputs.

    Batch norms are folded into the convolutions beside them, also those before a convolution, and layer
    scales into linear layers. On a CPU, ``pack`` stores weights in the order of oneDNN and fuses layers.
    Nothing is compiled, and the copy holds another set of weights.

    The copy is run on ``example`` and compared with the model: its outputs, and in 32 bits or more the
    features of every block. Other batches and sizes work as in the model. Call the copy under
    ``torch.inference_mode()`` or ``no_grad``.

    Args:
        model: on the device where the copy will run; it does not change. Or a word that means a model with
            weights, such as a run folder or "timm/resnet50.a1_in1k".
        example: a batch of the usual size; random by default.
        dtype: the type of the arithmetic, such as "bfloat16"; outputs have the type of the example.
        pack: False leaves plain layers of torch, for ``torch.export`` and the like.
        compile: use ``torch.compile`` with frozen weights instead of ``pack``; takes 10 to 100 seconds.
        tolerance: the largest difference of an output, relative to its largest value; 1e-4 in 32 bits and
            2e-2 in 16 by default.

    Raises:
        TypeError: ``model`` is not a ``ClassyModel``, or is optimized already.
        UnknownNameError: models do not run in ``dtype``.
        ConfigError: the copy differs by more than ``tolerance``, or cannot be made.
    """
    if isinstance(model, (str, Path)):
        model = load_model(model, "optimize")
    if not isinstance(model, ClassyModel):
        raise TypeError(f"optimize takes a ClassyModel that is not optimized, not {type(model).__name__}")
    kind = _BY_NAME.get(str(dtype).removeprefix("torch."))
    if kind is None:
        raise unknown("dtype", str(dtype), _BY_NAME)
    check_tolerance(tolerance)
    if example is not None and not (isinstance(example, Tensor) and example.numel()):
        what = f"{tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ConfigError(f"example: a batch is needed, as a tensor, not {what}")
    with TRACING, in_mode(model, training=False) as model:  # one after the other: see TRACING
        return _optimize(model, example, kind, pack, compile, tolerance)


def _optimize(
    model: ClassyModel,
    example: Tensor | None,
    kind: torch.dtype,
    pack: bool,
    compile: bool,
    tolerance: float | None,
) -> Optimized:
    like = next(model.parameters(), torch.empty(0))
    x = torch.randn(1, *model.input_shape).to(like) if example is None else example
    bound = max(TOLERANCES[kind], TOLERANCES.get(x.dtype, 0.0)) if tolerance is None else tolerance
    wanted = _outputs(model(x))
    twin, graphs = _trace(model, torch.promote_types(like.dtype, kind), x.dtype)
    sizes = _sizes(twin, graphs, x)
    for graph in graphs:
        fold(graph, sizes, kind)
    twin.to(dtype=kind)
    twin._dtype = kind
    if compile:
        twin.compile(fullgraph=True, options={"freezing": True})
    elif pack and can_pack(x.device, kind):
        space = Workspace()
        for graph in graphs:
            pack_graph(graph, sizes, kind, space)
        twin._is_packed = True
    with _making(twin):
        outputs = _outputs(twin(x))
    for name, output in outputs.items():
        _compare(f"head {name!r}" if name else "the output", output, wanted[name], bound)
    if kind in (torch.float32, torch.float64):
        _compare_features(model, twin, x, bound)
    return twin


def _trace(model: ClassyModel, dtype: torch.dtype, out: torch.dtype) -> tuple[Optimized, list[fx.GraphModule]]:
    """Copies the model with graphs for its parts, in a type in which folding loses nothing."""
    try:
        copied = copy.deepcopy(model).requires_grad_(False).to(dtype=dtype)
    except Exception as error:  # of whatever a module holds, such as locks
        raise ConfigError(f"{type(model).__name__} cannot be copied: {error}") from error
    graphs: list[fx.GraphModule] = []
    untraced: dict[str, nn.Module] = {}
    for name, part in parts(copied):
        if type(part).__module__.startswith("torch.nn") and not part._modules:
            continue  # one layer has no neighbours
        try:
            graphs.append(trace(part))
        except Exception:  # tracers raise errors of any kind
            untraced[name] = part
    leave_shared(graphs, untraced.values())
    twin = Optimized(copied, dtype, out)
    twin.untraced = tuple(untraced)
    return twin, graphs


def check_tolerance(tolerance: float | None) -> None:
    """Checks a relative difference.

    Raises:
        ConfigError: it is not a number above 0.
    """
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and 0 < tolerance < math.inf):
        raise ConfigError(f"tolerance = {tolerance!r}: give a number above 0, such as 0.0001")


@contextmanager
def _making(twin: Optimized) -> Iterator[None]:
    """Turns errors into one that says that ``twin`` cannot be made."""
    try:
        yield
    except Exception as error:  # of whatever a module does
        raise ConfigError(
            f"Optimized{type(twin.model).__name__} cannot be made: its parts do not run as graphs ({error})"
        ) from error


def _sizes(twin: Optimized, graphs: list[fx.GraphModule], x: Tensor) -> dict[nn.Module, tuple[int, ...]]:
    """Shapes of the inputs of layers, of all steps: also of those that no head reads."""
    sizes: dict[nn.Module, tuple[int, ...]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs:
            sizes[layer] = tuple(inputs[0].shape)

    layers = [module for graph in graphs for module in graph.modules() if isinstance(module, _LAYERS)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with _making(twin):
            twin(x)
            for _ in twin.walk(x) if twin.block_names else ():
                pass
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def _compare_features(model: ClassyModel, twin: Optimized, x: Tensor, bound: float) -> None:
    """Each block, behind the next: that must not have changed it."""
    if not model.block_names:
        return
    before: tuple[str, Any, Any] | None = None
    for (name, wanted), (_, feature) in zip(model.walk(x), twin.walk(x)):
        if before is not None:
            _compare(*before, bound)
        before = (f"block {name!r}", feature, wanted)


def _prepare(x: Any, dtype: torch.dtype) -> Any:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x.detach().to(dtype=dtype, memory_format=_LAYOUTS.get(x.dim(), torch.preserve_format))


def convert_outputs(outputs: Any, dtype: torch.dtype) -> Any:
    """Converts floating-point outputs to ``dtype``."""
    if isinstance(outputs, Tensor):
        return outputs.to(dtype) if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {name: convert_outputs(output, dtype) for name, output in outputs.items()}
    return tuple(convert_outputs(o, dtype) for o in outputs) if isinstance(outputs, (tuple, list)) else outputs


def _outputs(outputs: Any) -> Mapping[str, Any]:
    return outputs if isinstance(outputs, Mapping) else {"": outputs}


def _compare(where: str, output: Any, wanted: Any, bound: float) -> None:
    if isinstance(wanted, (tuple, list)):
        for one, other in zip(output, wanted):
            _compare(where, one, other, bound)
    if not isinstance(wanted, Tensor) or not wanted.numel():
        return
    if not wanted.isfinite().all():
        raise ConfigError(f"{where} of the model itself is not finite for the example: nothing can be compared")
    largest = wanted.double().abs().max()
    difference = (output.double() - wanted.double()).abs().max()
    if not difference <= bound * (largest if largest > 0 else 1.0):
        raise ConfigError(
            f"the optimized model is not the same: {where} differs by {difference:.3g}; its largest value is "
            f"{largest:.3g}, and allowed is tolerance = {bound:g} of that"
        )
