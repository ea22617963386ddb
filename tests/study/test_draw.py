"""Networks drawn from design spaces: within all bounds, as likely as they should be, and the same again."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.cost import OnMeta, count
from classy_vision.models import build_model
from classy_vision.models.anynet import AnyNetParams, StemType
from classy_vision.study import SPACES, AnyNetRegion, parse_region, read_region, sample
from classy_vision.study.draw import draw, fit, log_uniform, power_of_two, uniform

SMALL = {"stem_width": 8, "input_size": 32, "num_classes": 10}


def pair(low: int, high: int) -> Any:
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)


def powers(high: int) -> Any:
    return st.tuples(*[st.sampled_from([2**i for i in range(high + 1)])] * 2).map(sorted)


COMMON = {
    "stages": st.integers(1, 4),
    "group_width": powers(5),
    "bottleneck": powers(2),
    "input_size": st.integers(16, 64),
    "num_classes": st.integers(1, 20),
    "in_channels": st.sampled_from([1, 3]),
    "stem_type": st.sampled_from([stem.value for stem in StemType]),
    "stem_width": st.integers(1, 20),
    "use_se": st.booleans(),
}
ANYNETS = st.fixed_dictionaries(
    {
        "family": st.just("anynet"),
        "depth": pair(1, 4),
        "width": pair(1, 12).map(lambda b: [8 * b[0], 8 * b[1]]),
        "shared": st.sets(st.sampled_from(["bottleneck", "group_width"])).map(sorted),
        "rising": st.sets(st.sampled_from(["width", "depth"])).map(sorted),
        **COMMON,
    }
)
REGNETS = st.fixed_dictionaries(
    {
        "family": st.just("regnet"),
        "depth": pair(1, 10),
        "w_0": pair(1, 5).map(lambda b: [8 * b[0], 8 * b[1]]),
        "w_a": st.tuples(*[st.floats(0.1, 60)] * 2).map(lambda b: [min(b), max(b) + 0.1]),
        "w_m": st.tuples(*[st.floats(1.01, 3)] * 2).map(lambda b: [min(b), max(b) + 0.001]),
        **COMMON,
    }
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(ANYNETS, REGNETS), st.integers(0, 5), st.floats(0.2, 1))
def test_what_is_drawn_is_within_all_bounds_and_costs_what_is_said(
    data: dict[str, Any], seed: int, share: float
) -> None:
    try:
        (largest,) = sample(parse_region(data), 1, seed, tries=300)
    except ConfigError as error:
        assert "of tries)" in str(error)  # noqa: PT017
        return
    region = parse_region({**data, "macs": [share * largest.costs.macs, largest.costs.macs]})
    for one in sample(region, 1, seed, tries=3000):
        with OnMeta():
            model = build_model({**one.config, "num_classes": region.num_classes}).eval()
        costs = count(model, (region.in_channels, region.input_size, region.input_size))
        assert (one.costs.macs, one.costs.params) == (costs.macs, costs.params)
        assert one.costs.activations == costs.activations
        assert region.macs is not None
        assert region.macs[0] <= costs.macs <= region.macs[1]
        check_shape(model.params, region)  # type: ignore[attr-defined]


def check_shape(params: AnyNetParams, region: Any) -> None:
    assert len(params.depths) == region.stages
    (low, high), depths = region.depth, params.depths
    assert all(low <= d <= high for d in (depths if isinstance(region, AnyNetRegion) else [sum(depths)]))
    for width, _, _, group, multiplier in params.get_expanded_params():
        inner = round(width * multiplier)
        assert inner % group == 0
        assert region.bottleneck[0] <= 1 / multiplier <= region.bottleneck[1]
        assert region.group_width[0] <= group <= region.group_width[1] or group == inner
    if isinstance(region, AnyNetRegion):
        assert all(region.width[0] <= width <= region.width[1] for width in params.widths)
        for name, values in (("width", params.widths), ("depth", depths)):
            assert name not in region.rising or list(values) == sorted(values)
        assert "bottleneck" not in region.shared or len(set(params.bottleneck_multipliers)) == 1


@pytest.mark.parametrize("space", SPACES)
def test_the_papers_spaces(space: str) -> None:
    name, region = read_region(space)
    found = sample(region, 3, seed=1)
    assert name == space
    for one in found:
        assert 360e6 <= one.costs.macs <= 400e6
        params = build_params(one.config)
        assert len(params.depths) == 4
        assert max(params.depths) <= (16 if region.family == "anynet" else 60)
        assert all(width % 8 == 0 for width in params.widths)
        if region.family == "anynet":
            assert max(params.widths) <= 1024
        inner = [round(w * m) for w, m in zip(params.widths, params.bottleneck_multipliers)]
        assert all(g in (1, 2, 4, 8, 16, 32) or g == c for g, c in zip(params.group_widths, inner))
        assert params.use_se == (space == "regnet_y")


def build_params(config: Any) -> AnyNetParams:
    with OnMeta():
        params: AnyNetParams = build_model(config).params  # type: ignore[attr-defined]
    return params


def test_the_same_seed_gives_the_same_networks_and_more_of_them_begin_with_these() -> None:
    region = parse_region({"family": "anynet", "width": [8, 64], "depth": [1, 3], **SMALL})
    first = sample(region, 5, seed=3)
    assert sample(region, 5, seed=3) == first
    assert sample(region, 8, seed=3)[:5] == first
    assert sample(region, 5, seed=4) != first
    assert len({repr(one.config) for one in sample(region, 50)}) == 50


def test_draws_are_those_of_every_version_of_python() -> None:
    """Golden: networks that were drawn elsewhere can be drawn again."""
    anynet = draw(parse_region({"space": "anynet_x_e"}), Random(0))
    assert anynet["depths"] == [2, 3, 8, 10]
    assert anynet["widths"] == [32, 64, 96, 352]
    regnet = draw(parse_region({"space": "regnet_x"}), Random(0))
    assert [regnet[key] for key in ("depth", "w_0", "w_a", "w_m", "group_width")] == REGNET


REGNET = [54, 104, 34.3, 1.795, 4]


def test_distributions() -> None:
    random, n = Random(0), 40_000
    drawn = Counter(log_uniform(random, (1, 16)) for _ in range(n))
    for value in range(1, 17):
        expected = math.log((value + 1) / value) / math.log(17)
        assert drawn[value] / n == pytest.approx(expected, abs=0.01)
    widths = Counter(log_uniform(random, (8, 1024), 8) for _ in range(n))
    assert set(widths) <= set(range(8, 1025, 8))
    assert {8, 1024} <= set(widths)
    assert sum(v for width, v in widths.items() if width < 88) / n == pytest.approx(
        math.log(11) / math.log(129), abs=0.01
    )
    assert set(Counter(power_of_two(random, (1, 4)) for _ in range(100))) == {1, 2, 4}
    assert set(Counter(uniform(random, (3, 6)) for _ in range(100))) == {3, 4, 5, 6}
    steps = {log_uniform(random, (1.5, 3.0), 0.001) for _ in range(n)}
    assert (min(steps), max(steps)) == (1.5, 3.0)


@pytest.mark.parametrize(
    ("width", "bottleneck", "group", "fitted"),
    [
        (64, 1, 16, (64, 16)),
        (8, 1, 32, (8, 8)),  # a group as wide as the bottleneck
        (8, 4, 32, (8, 2)),
        (40, 1, 16, (32, 16)),
        (56, 1, 32, (64, 32)),
        (24, 4, 4, (32, 4)),
    ],
)
def test_groups_are_fitted_as_in_the_paper(
    width: int, bottleneck: int, group: int, fitted: tuple[int, int]
) -> None:
    assert fit(width, bottleneck, group) == fitted


def test_a_third_is_the_most_that_fitting_moves_a_width() -> None:
    for width in range(8, 1025, 8):
        for bottleneck in (1, 2, 4):
            for group in (1, 2, 4, 8, 16, 32):
                assert abs(fit(width, bottleneck, group)[0] - width) <= width / 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"macs": [1, 2]},
            r"0 of 2 networks found, then none in 50 tries: macs = \[1, 2\]: all are above, the ",
        ),
        ({"params": ["90G", "100G"]}, r"params = \[90.0G, 100G\]: all are below, the nearest has [\d.]+[KM] "),
        ({"activations": [0, 1]}, "activations = .* all are above"),
        ({"family": "regnet", "stages": 9, "depth": [1, 8]}, "stages = 9: the widths make another number"),
        ({"width": [8, 8], "depth": [1, 1], "group_width": [1, 1], "bottleneck": [1, 1]}, "had been drawn"),
        ({"width": [40, 40], "group_width": [16, 16], "bottleneck": [1, 1]}, "width = .* lie outside"),
    ],
)
def test_a_bound_that_is_never_met_is_named(data: dict[str, Any], message: str) -> None:
    region = parse_region({"family": "anynet", **SMALL, **data})
    with pytest.raises(ConfigError, match=message):
        sample(region, 2, tries=50)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "give a space .* or a family"),
        ({"space": "regnet_q"}, "unknown design space 'regnet_q'; did you mean 'regnet_"),
        ({"space": "regnet_x", "family": "anynet"}, "'regnet_x' is a space of the family 'regnet'"),
        ({"family": "resnet"}, "unknown family 'resnet'"),
        ({"space": "regnet_x", "w_q": [8, 16]}, "unknown key 'w_q'; did you mean 'w_"),
        ({"space": "regnet_x", "spaces": 1}, "unknown key 'spaces'; did you mean 'space'"),
        ({"space": "anynet_x_a", "depth": [4, 2]}, r"depth = \[4, 2\]: the lowest comes first"),
        ({"space": "anynet_x_a", "depth": [0, 2]}, "depth.* greater than 0"),
        ({"space": "anynet_x_a", "width": [9, 15]}, "no multiple of 8"),
        ({"space": "anynet_x_a", "group_width": [5, 7]}, "no power of two"),
        ({"space": "anynet_x_a", "macs": ["lots", 3]}, "give a number, such as 360M"),
        ({"space": "anynet_x_a", "shared": ["width"]}, "shared.*width"),
    ],
)
def test_a_region_that_says_something_impossible(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_region(data)


def test_amounts_have_units() -> None:
    region = parse_region({"space": "regnet_y", "macs": ["360M", "1.5G"], "params": [0, "20k"]})
    assert region.limits == {"macs": (360e6, 1.5e9), "params": (0, 20e3)}


def test_a_space_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'anynet_x_a'"):
        read_region("anynet_a")
