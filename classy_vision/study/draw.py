"""Drawing networks from a region, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from classy_vision.config import ConfigError, first_line
from classy_vision.models import MODELS
from classy_vision.models.anynet.model import AnyNetParams
from classy_vision.study.complexity import Complexity, complexity
from classy_vision.study.region import WIDTH_STEP, AnyNetRegion, Region
from classy_vision.text import human

TRIES = 20_000
"""Draws in a row without a network before it is an error."""


@dataclass(frozen=True)
class Sample:
    """A network that was drawn.

    Attributes:
        config: for ``build_model``, without heads.
        costs: with a classifier for the region's ``num_classes``, at its ``input_size``.
    """

    config: Mapping[str, Any]
    costs: Complexity


def sample(region: Region, count: int, seed: int = 0, tries: int = TRIES) -> list[Sample]:
    """Draws different networks of ``region``; a larger ``count`` begins with the same ones.

    Args:
        region: see ``parse_region``.
        count: how many.
        seed: of the draws.
        tries: draws in a row without a network before it is an error.

    Raises:
        ConfigError: there are too few such networks; the message says which bound is not met.
    """
    random, found, seen = Random(seed), [], set()
    for done in range(count):
        misses = Misses()
        while not misses.full(tries):
            config = draw(region, random)
            one = _accept(config, region, misses)
            if one and repr(config) in seen:
                misses.add("repeated", "every network that was found had been drawn before")
            elif one:
                break
        else:
            raise ConfigError(f"{done} of {count} networks found, then none in {tries:,} tries: {misses}")
        assert one is not None
        seen.add(repr(config))
        found.append(one)
    return found


# -- one network


def log_uniform(random: Random, bounds: tuple[float, float], step: float = 1) -> float:
    """Draws a multiple of ``step`` within ``bounds``, with a uniform logarithm, bounds included."""
    low, high = math.ceil(bounds[0] / step - 1e-9), math.floor(bounds[1] / step + 1e-9)
    low = max(1, low)
    # Random.random alone gives the same numbers in every version of Python.
    drawn = int(low * math.exp(random.random() * math.log((high + 1) / low)))
    return round(min(max(drawn, low), high) * step, 6)


def uniform(random: Random, bounds: tuple[float, float]) -> float:
    """Draws a whole number within ``bounds``."""
    return int(bounds[0]) + int(random.random() * (bounds[1] - bounds[0] + 1))


def power_of_two(random: Random, bounds: tuple[float, float]) -> float:
    """Draws a power of two within ``bounds``, all equally likely."""
    low, high = math.ceil(math.log2(bounds[0])), math.floor(math.log2(bounds[1]))
    return 2 ** int(uniform(random, (low, high)))


Draw = Callable[[Random, tuple[float, float]], float]
# Section 3.2 draws log-uniformly; for RegNets the paper does not say, and this is what its authors' code does.
ANYNET: dict[str, Draw] = {
    "depth": log_uniform,
    "width": lambda random, bounds: log_uniform(random, bounds, WIDTH_STEP),
    "bottleneck": power_of_two,
    "group_width": power_of_two,
}
REGNET: dict[str, Draw] = {
    "depth": uniform,
    "w_0": lambda random, bounds: log_uniform(random, bounds, WIDTH_STEP),
    "w_a": lambda random, bounds: log_uniform(random, bounds, 0.1),
    "w_m": lambda random, bounds: log_uniform(random, bounds, 0.001),
    "bottleneck": power_of_two,
    "group_width": power_of_two,
}


def draw(region: Region, random: Random) -> dict[str, Any]:
    """Draws a config from the region's ranges, whatever the network costs."""
    common = {
        "name": region.family,
        "in_channels": region.in_channels,
        "stem_type": region.stem_type.value,
        "stem_width": region.stem_width,
        "use_se": region.use_se,
    }
    if isinstance(region, AnyNetRegion):
        return {**common, **_draw_stages(region, random)}
    line = {name: draw(random, getattr(region, name)) for name, draw in REGNET.items()}
    whole = {name: int(line[name]) for name in ("depth", "w_0", "group_width")}
    ratio = {"bottleneck_multiplier": 1 / line.pop("bottleneck")}
    return {**common, **line, **whole, **ratio}


def _draw_stages(region: AnyNetRegion, random: Random) -> dict[str, Any]:
    stages: dict[str, list[int]] = {}
    for name, one in ANYNET.items():
        times = 1 if name in region.shared else region.stages
        drawn = [int(one(random, getattr(region, name))) for _ in range(times)]
        drawn = sorted(drawn) if name in region.rising else drawn
        stages[name] = drawn * (region.stages // times)
    fitted = [fit(*stage) for stage in zip(stages["width"], stages["bottleneck"], stages["group_width"])]
    return {
        "depths": stages["depth"],
        "widths": [width for width, _ in fitted],
        "group_widths": [group for _, group in fitted],
        "bottleneck_multipliers": [1 / ratio for ratio in stages["bottleneck"]],
        "strides": [2] * region.stages,
    }


def fit(width: int, bottleneck: int, group_width: int) -> tuple[int, int]:
    """The width and group width nearest to these that go together (the paper's appendix).

    A bottleneck narrower than a group is one group; others are rounded to a multiple of it.
    """
    inner = max(1, width // bottleneck)
    group = min(group_width, inner)
    return max(1, round(inner / group)) * group * bottleneck, group


# -- whether it is in the region


@dataclass
class Misses:
    """Why draws were refused: by reason, how often, and what would have to change."""

    counts: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    nearest: dict[str, float] = field(default_factory=dict)

    def add(self, reason: str, text: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.texts[reason] = text

    def add_limit(self, name: str, value: float, bounds: tuple[float, float]) -> None:
        """Keeps the value that came nearest to its bounds."""
        side = "above" if value > bounds[1] else "below"
        reason, better = f"{name} {side}", min if side == "above" else max
        self.nearest[reason] = better(value, self.nearest.get(reason, value))
        limits = ", ".join(human(round(bound)) for bound in bounds)
        nearest = human(round(self.nearest[reason]))
        self.add(reason, f"{name} = [{limits}]: all are {side}, the nearest has {nearest}")

    def full(self, tries: int) -> bool:
        return sum(self.counts.values()) >= tries

    def __str__(self) -> str:
        total = sum(self.counts.values())
        often = sorted(self.counts, key=lambda reason: -self.counts[reason])
        return "; ".join(f"{self.texts[r]} ({_percent(self.counts[r] / total)} of tries)" for r in often)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def _accept(config: Mapping[str, Any], region: Region, misses: Misses) -> Sample | None:
    """Returns ``config`` with its costs if it is within all bounds."""
    options = {key: value for key, value in config.items() if key != "name"}
    try:
        network: Any = MODELS[config["name"]].cls.config_class.parse(options)
        params: AnyNetParams = network.to_anynet()
    except ConfigError as error:
        misses.add("config", f"no such network: {first_line(error)}")
        return None
    if reason := _outside(params, region):
        misses.add(*reason)
        return None
    costs = complexity(params, region.input_size, region.num_classes)
    for name, (low, high) in region.limits.items():
        if not low <= (value := getattr(costs, name)) <= high:
            misses.add_limit(name, value, (low, high))
            return None
    return Sample(config, costs)


def _outside(params: AnyNetParams, region: Region) -> tuple[str, str] | None:
    """Returns the bound that rounding has left, and a message."""
    if len(params.depths) != region.stages:
        return "stages", f"stages = {region.stages}: the widths make another number of them"
    if not isinstance(region, AnyNetRegion):
        return None
    low, high = region.width
    if not all(low <= width <= high for width in params.widths):
        return "width", f"width = [{low}, {high}]: multiples of the group widths lie outside it"
    if "width" in region.rising and list(params.widths) != sorted(params.widths):
        return "rising", "rising = [width]: multiples of the group widths fall"
    return None


def describe(costs: Complexity) -> Sequence[str]:
    """The costs for people: "372M MACs", "4.56M parameters", "6.1M activations"."""
    words = {"macs": "MACs", "params": "parameters", "activations": "activations"}
    return [f"{human(getattr(costs, name))} {word}" for name, word in words.items()]
