"""Where the channels of a foreign module's maps are: first, as in convolutional networks, or last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.trunk.features import Trace, trace

MapLayout = Literal["nchw", "nhwc"]
"""Channels first, (n, c, h, w) and (n, c, t, h, w), or last, (n, h, w, c) and (n, t, h, w, c)."""


def channels_first(x: Any) -> Any:
    """A map or clip with channels last, seen with channels first; anything else as it is."""
    return x.movedim(-1, 1) if isinstance(x, Tensor) and x.dim() in (4, 5) else x


class MapLayouts:
    """The layouts of the steps of one trunk, by step: those that its author named, and those that were found.

    Args:
        layout: for all blocks, or by block; None finds them.
        names: the steps, by every name that they have.
        input_shape: without the batch.

    Raises:
        ConfigError: no such layout or block.
    """

    def __init__(
        self,
        layout: MapLayout | Mapping[str, MapLayout] | None,
        names: Mapping[str, str],
        input_shape: tuple[int, ...],
    ) -> None:
        self._input_shape = input_shape
        self._given = _check_layouts(layout, names)
        self._known: dict[str, MapLayout | None] = {}
        self.channels_last: frozenset[str] = frozenset()

    def find(self, trunk: nn.Module, module: nn.Module, steps: Sequence[str]) -> None:
        """Finds the layouts of ``steps``, whose features are still as ``module`` makes them."""
        given = {step: layout for step, layout in self._given.items() if step in steps}
        found = find_layouts(trunk, module, steps, self._input_shape) if len(given) < len(steps) else {}
        self._known = {**self._known, **found, **given}  # other threads read what there was
        self.channels_last = frozenset(step for step, value in self._known.items() if value == "nhwc")

    def check(self, steps: Iterable[str]) -> None:
        """Raises where the layout of a step is not known."""
        for step in steps:
            if step in self._known and self._known[step] is None:
                raise ConfigError(
                    f"block {step!r}: it cannot be told whether the channels of its map come first or last; "
                    f"say from_model(..., layout='nchw') or layout='nhwc', or layout={{{step!r}: 'nchw'}} for "
                    f"one block"
                )


def _check_layouts(
    layout: MapLayout | Mapping[str, MapLayout] | None, names: Mapping[str, str]
) -> dict[str, MapLayout]:
    """The layouts that a caller has named, by step."""
    given = layout if isinstance(layout, Mapping) else dict.fromkeys(names, layout) if layout else {}
    for name, value in given.items():
        if name not in names:
            raise unknown("block", name, names, "layout")
        if value not in get_args(MapLayout):
            raise unknown("layout", value, get_args(MapLayout))
    return {names[name]: value for name, value in given.items() if value}


def find_layouts(
    model: nn.Module, module: nn.Module, steps: Sequence[str], input_shape: tuple[int, ...]
) -> dict[str, MapLayout | None]:
    """The layouts of the steps that give maps, found without data; None where they cannot be told.

    An axis that grows with the input does not hold channels. Where a module takes one size alone, a map has the
    proportions of the input; where all axes are alike, the module may say what it gives, as timm's do.

    Args:
        model: a trunk, whose features are still as ``module`` makes them.
        module: whose ``output_fmt`` is asked.
        steps: of the walk.
        input_shape: without the batch.
    """
    if len(input_shape) < 3:
        return {}
    traced = _traced(model, input_shape, steps)
    shapes = {step: tuple(x.shape[1:]) for step, x in traced.features.items()} if traced else {}
    maps = {step: shape for step, shape in shapes.items() if len(shape) in (3, 4)}
    fits = {step: _fitting(shape, input_shape) for step, shape in maps.items()}
    larger: Trace | None = None
    if any(layouts != {"nchw"} for layouts in fits.values()):
        double = (*input_shape[:-2], *(2 * size for size in input_shape[-2:]))
        larger = _traced(model, double, [step for step in steps if step in maps])
    said = {"NHWC": "nhwc", "NCHW": "nchw"}.get(str(getattr(module, "output_fmt", "")))
    found: dict[str, MapLayout | None] = {}
    for step, shape in maps.items():
        grown = tuple(larger.features[step].shape[1:]) if larger and step in larger.features else shape
        found[step] = _layout(shape, grown, fits[step], said)
    return found


def _traced(model: nn.Module, input_shape: tuple[int, ...], steps: Sequence[str]) -> Trace | None:
    for until in steps[:-3:-1]:  # what follows the last block may need what is not there
        try:
            return trace(model, input_shape, until)
        except ConfigError:
            continue
    return None


def _layout(
    shape: tuple[int, ...], grown: tuple[int, ...], fitting: set[str], said: str | None
) -> MapLayout | None:
    if fitting == {"nchw"}:
        return "nchw"
    if grown[-1] != shape[-1]:
        return "nchw"
    if grown[-2] != shape[-2] or fitting == {"nhwc"} or said == "nhwc":
        return "nhwc"
    return "nchw" if said == "nchw" else None


def _fitting(shape: tuple[int, ...], input_shape: tuple[int, ...]) -> set[str]:
    """The layouts in which a map has the proportions of the input."""
    areas = {"nchw": shape[-2:], "nhwc": shape[-3:-1]}
    return {layout for layout, area in areas.items() if _is_scaled(area, input_shape[-2:])}


def _is_scaled(area: Sequence[int], whole: Sequence[int]) -> bool:
    (h, w), (height, width) = area, whole
    return h == w if height == width else abs(h * width - w * height) <= max(height, width)
