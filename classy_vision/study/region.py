"""Design spaces: the networks to draw from.

The spaces are those of Radosavovic et al., "Designing Network Design Spaces", 2020, section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from classy_vision.config import Config, ConfigError, PositiveInt, read_config, unknown
from classy_vision.models.anynet.model import StemType

WIDTH_STEP = 8
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def _parse_amount(value: Any) -> Any:
    """Reads "360M" as 360,000,000."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", value.strip(), re.IGNORECASE)
    if not match:
        raise ValueError("give a number, such as 360M or 360000000")
    return float(match[1]) * _UNITS[match[2].upper()]


Whole = tuple[PositiveInt, PositiveInt]
Real = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Amount = Annotated[float, BeforeValidator(_parse_amount), Field(ge=0)]
Amounts = tuple[Amount, Amount]


class Region(Config):
    """What the networks of both families have in common. Bounds are ``[lowest, highest]``.

    Attributes:
        family: "anynet" or "regnet".
        stages: of every network.
        group_width: powers of two; narrower stages have one group.
        bottleneck: powers of two: the width divided by the bottleneck's inner width.
        macs: multiply-adds with a classifier for ``num_classes``, for one image of ``input_size``.
        params: of the same.
        activations: numbers in the outputs of convolutions and linear layers.
        input_size: height and width of that image.
        num_classes: of that classifier, which the configs leave to who uses them.
        in_channels, stem_type, stem_width, use_se: of every network.
    """

    family: str
    stages: PositiveInt = 4
    group_width: Whole = (1, 32)
    bottleneck: Whole = (1, 4)
    macs: Amounts | None = None
    params: Amounts | None = None
    activations: Amounts | None = None
    input_size: PositiveInt = 224
    num_classes: PositiveInt = 1000
    in_channels: PositiveInt = 3
    stem_type: Annotated[StemType, Field(strict=False)] = StemType.SIMPLE_STEM_IN
    stem_width: PositiveInt = 32
    use_se: bool = False

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        for name in type(self).model_fields:
            bounds = getattr(self, name)
            if isinstance(bounds, tuple) and len(bounds) == 2 and not isinstance(bounds[0], str):
                _check(name, *bounds)
        return self

    @property
    def limits(self) -> dict[str, Amounts]:
        """The bounds of what a whole network costs, where there are any."""
        found = {name: getattr(self, name) for name in ("macs", "params", "activations")}
        return {name: bounds for name, bounds in found.items() if bounds is not None}


def _check(name: str, low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"{name} = [{low:g}, {high:g}]: the lowest comes first")
    if name in ("group_width", "bottleneck") and 2 ** int(math.log2(high)) < low:
        raise ValueError(f"{name} = [{low}, {high}] has no power of two between them")
    if name in ("width", "w_0") and high // WIDTH_STEP * WIDTH_STEP < low:
        raise ValueError(f"{name} = [{low}, {high}] has no multiple of {WIDTH_STEP} between them")


class AnyNetRegion(Region):
    """Networks whose stages are free.

    Attributes:
        depth: blocks of a stage.
        width: channels of a stage, a multiple of 8.
        shared: what is drawn once for all stages: "bottleneck", "group_width".
        rising: what never falls from one stage to the next: "width", "depth".
    """

    family: Literal["anynet"]
    depth: Whole = (1, 16)
    width: Whole = (WIDTH_STEP, 1024)
    shared: tuple[Literal["bottleneck", "group_width"], ...] = ()
    rising: tuple[Literal["width", "depth"], ...] = ()


class RegNetRegion(Region):
    """Networks whose widths lie on a line: see ``classy_vision.models.regnet``.

    Attributes:
        depth: blocks in all.
        w_0: width of the first block before rounding, a multiple of 8.
        w_a: slope of the line, in steps of 0.1.
        w_m: ratio of the widths of neighbouring stages, above 1, in steps of 0.001.
    """

    family: Literal["regnet"]
    depth: Whole = (4, 63)
    w_0: Whole = (WIDTH_STEP, 248)
    w_a: Real = (8.0, 255.9)
    w_m: tuple[Annotated[float, Field(gt=1)], Annotated[float, Field(gt=1)]] = (1.5, 3.0)


FAMILIES: dict[str, type[Region]] = {"anynet": AnyNetRegion, "regnet": RegNetRegion}

_400MF = {"macs": (360e6, 400e6)}
_B = ("bottleneck",)
_C = ("bottleneck", "group_width")
SPACES: dict[str, dict[str, Any]] = {
    "anynet_x_a": {"family": "anynet", **_400MF},
    "anynet_x_b": {"family": "anynet", "shared": _B, **_400MF},
    "anynet_x_c": {"family": "anynet", "shared": _C, **_400MF},
    "anynet_x_d": {"family": "anynet", "shared": _C, "rising": ("width",), **_400MF},
    "anynet_x_e": {"family": "anynet", "shared": _C, "rising": ("width", "depth"), **_400MF},
    "regnet_x": {"family": "regnet", **_400MF},
    "regnet_y": {"family": "regnet", "use_se": True, **_400MF},
}
"""The named spaces: sections 3.2 (AnyNetX, from A to E) and 3.3 (RegNet) of the paper, in its complexity
regime. The paper gives w_0 and w_a no lower bound; 8 is that of its authors' code."""


def read_region(given: str | Path) -> tuple[str, Region]:
    """A name for a region, and the region: a named space, or a YAML or JSON file.

    A file has the keys of a region; with ``space``, those of a named space that it leaves out are as
    there.

    Raises:
        ConfigError: no such space, or a file that cannot be read or says something impossible.
    """
    if str(given) in SPACES:
        return str(given), parse_region(SPACES[str(given)], str(given))
    path = Path(given)
    if path.suffix not in (".yaml", ".yml", ".json") and not path.is_file():
        raise unknown("design space", str(given), SPACES)
    return path.stem, parse_region(read_config(path), str(path))


def parse_region(data: Mapping[str, Any], where: str = "region") -> Region:
    """The region that ``data`` describe.

    Raises:
        ConfigError: names every wrong key and value.
    """
    given = dict(data)
    space = given.pop("space", None)
    if space is not None and space not in SPACES:
        raise unknown("design space", space, SPACES, where)
    given = {**SPACES.get(space, {}), **given}
    if "family" not in given:
        raise ConfigError(f"{where}: give a space ({', '.join(SPACES)}), or a family ({', '.join(FAMILIES)})")
    if given["family"] not in FAMILIES:
        raise unknown("family", given["family"], FAMILIES, where)
    if space is not None and given["family"] != SPACES[space]["family"]:
        raise ConfigError(f"{where}: {space!r} is a space of the family {SPACES[space]['family']!r}")
    return FAMILIES[given["family"]].parse(given, where, also=("space",))
