"""What a picture of a trunk says, before it is laid out: rows, stages, and numbers as text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import yaml

from classy_vision.cost.costs import Costs, StepCost
from classy_vision.text import human, size


@dataclass(frozen=True)
class Metric:
    """A cost that the picture can colour by.

    Attributes:
        key: names it in code.
        label: names it for people.
        of: its value for a step; None where it is not known.
        text: a value in a few digits.
        exact: a value in all digits.
    """

    key: str
    label: str
    of: Callable[[StepCost], float | None]
    text: Callable[[float], str]
    exact: Callable[[float], str]


@dataclass(frozen=True)
class Amount:
    """A value of a metric: as text, as a share of the model's total, and from 0 to the largest step's 1."""

    text: str
    exact: str
    share: str
    heat: float


@dataclass(frozen=True)
class Row:
    """A step of the trunk, or a head.

    Attributes:
        name: of the step or head.
        reads: the step that a head reads, of several the last; None for a step.
        also_reads: the earlier steps that it reads.
        aliases: its further names.
        shape: of its output, as text.
        repeats: the shape is that of the step before.
        width: channels, as a share of the widest step's.
        extent: length of a side of the feature map, as a share of the longest; of tokens, that of a square.
        runs: whether the forward pass gets there.
        amounts: by the keys of the metrics.
        facts: everything about it, as labels and values.
        fork: the line of a config that puts a head here.
    """

    name: str
    reads: str | None
    also_reads: tuple[str, ...]
    aliases: tuple[str, ...]
    shape: str
    repeats: bool
    width: float
    extent: float
    runs: bool
    amounts: Mapping[str, Amount]
    facts: tuple[tuple[str, str], ...]
    fork: str


@dataclass(frozen=True)
class Stage:
    """Rows that belong together, heads included, and what they cost in sum."""

    name: str
    rows: tuple[Row, ...]
    amounts: Mapping[str, Amount]

    @property
    def steps(self) -> int:
        """How many of the rows are steps."""
        return sum(row.reads is None for row in self.rows)


@dataclass(frozen=True)
class Picture:
    """What is drawn.

    Attributes:
        title: of the picture.
        summary: its totals.
        metrics: the first is the one that a still picture is coloured by.
        stages: in the order in which they run.
        largest: the most that a step or head costs, by the keys of the metrics.
        stop: why the steps that do not run don't; "" where all run.
    """

    title: str
    summary: str
    metrics: tuple[Metric, ...]
    stages: tuple[Stage, ...]
    largest: Mapping[str, Amount]
    stop: str

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of all stages."""
        return tuple(row for stage in self.stages for row in stage.rows)


def describe(costs: Costs, title: str, latency: Mapping[str, float] | None = None) -> Picture:
    """What to draw of ``costs``; ``latency`` in milliseconds, by the name of a step or head."""
    scales = [_Scale(metric, costs.steps) for metric in _metrics(latency)]
    rows = dict(_rows(costs, scales))
    return Picture(
        title=clean(title),
        summary=_summary(costs, scales),
        metrics=tuple(scale.metric for scale in scales),
        stages=tuple(_stages(costs.steps, rows, scales)),
        largest={scale.metric.key: scale.largest for scale in scales},
        stop=_stop(costs),
    )


def clean(text: str) -> str:
    """``text`` on one line, without characters that have no picture."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def _metrics(latency: Mapping[str, float] | None) -> tuple[Metric, ...]:
    def count(number: float) -> str:
        return f"{number:,.0f}"

    def rounded(number: float) -> str:
        return human(round(number))

    metrics = [
        Metric("macs", "MACs", lambda step: step.macs, rounded, count),
        Metric("params", "parameters", lambda step: step.params, rounded, count),
        Metric("activations", "activations", lambda step: step.activations, rounded, count),
    ]
    if latency is not None:
        metrics.append(
            Metric("latency", "latency", lambda step: latency.get(step.name), _milliseconds, _milliseconds)
        )
    return tuple(metrics)


def _milliseconds(number: float) -> str:
    return f"{number:.{max(0, min(3, 2 - math.floor(math.log10(number))))}f} ms" if number > 0 else "0 ms"


class _Scale:
    """Makes amounts of one metric's values."""

    def __init__(self, metric: Metric, steps: Sequence[StepCost]) -> None:
        values = [metric.of(step) or 0 for step in steps]
        self.metric = metric
        self.total = sum(values)
        self.most = max(values, default=0)
        self.largest = self._of(self.most)

    def amount(self, steps: Iterable[StepCost]) -> Amount:
        known = [value for step in steps if (value := self.metric.of(step)) is not None]
        return self._of(sum(known)) if known else Amount("", "", "", 0)

    def _of(self, value: float) -> Amount:
        share = _percent(value / self.total) if self.total else ""
        heat = min(1, value / self.most) if self.most else 0
        return Amount(self.metric.text(value), self.metric.exact(value), share, heat)


def _rows(costs: Costs, scales: Sequence[_Scale]) -> Iterator[tuple[int, Row]]:
    """The rows by the identity of their steps: a head may have the name of a step."""
    skipped = {id(step) for step in costs.skipped}
    trunk = [step for step in costs.steps if step.reads is None]
    widest = max(map(_width, trunk), default=0) or 1
    longest = max(map(_extent, trunk), default=0) or 1
    last: tuple[int, ...] | None = None
    for step in costs.steps:
        amounts = {scale.metric.key: scale.amount([step]) for scale in scales}
        yield (
            id(step),
            Row(
                name=clean(step.name),
                reads=None if step.reads is None else clean(step.reads),
                also_reads=tuple(map(clean, step.also_reads)),
                aliases=tuple(map(clean, step.aliases)),
                shape=size(step.shape),
                repeats=step.reads is None and step.shape == last,
                width=_width(step) / widest,
                extent=_extent(step) / longest,
                runs=id(step) not in skipped,
                amounts=amounts,
                facts=tuple(_facts(step, [scale.metric for scale in scales], amounts)),
                fork=_fork([*step.also_reads, step.reads or step.name]),
            ),
        )
        last = step.shape if step.reads is None else last


def _fork(blocks: list[str]) -> str:
    one = len(blocks) == 1
    value, flow = (blocks[0], False) if one else (blocks, None)
    text: str = yaml.safe_dump(
        {"fork_block": value}, width=math.inf, allow_unicode=True, default_flow_style=flow
    )
    return text.strip()


def _width(step: StepCost) -> int:
    """Channels: the first axis of a feature map, the last of tokens."""
    return 0 if not step.shape else step.shape[0] if len(step.shape) > 2 else step.shape[-1]


def _extent(step: StepCost) -> float:
    """The side of a square with as many positions as a feature map or a frame has, or tokens."""
    return math.sqrt(math.prod(step.shape[-2:] if len(step.shape) > 2 else step.shape[:-1] or (0,)))


def _facts(
    step: StepCost, metrics: Iterable[Metric], amounts: Mapping[str, Amount]
) -> Iterable[tuple[str, str]]:
    facts = [
        ("reads", ", ".join((*step.also_reads, step.reads or ""))),
        ("also", ", ".join(step.aliases)),
        ("output", size(step.shape)),
        ("stride", str(step.stride or "")),
        ("receptive field", _pixels(step.receptive_field)),
    ]
    for metric in metrics:
        amount = amounts[metric.key]
        facts.append((metric.label, f"{amount.exact} ({amount.share})" if amount.share else amount.exact))
    return [(label, clean(value)) for label, value in facts if value]


def _stages(steps: Iterable[StepCost], rows: Mapping[int, Row], scales: Iterable[_Scale]) -> Iterable[Stage]:
    """Steps whose names differ in the last number alone, at one stride, with the heads behind them."""
    trunk: StepCost | None = None
    keyed: list[tuple[tuple[str, int | None, bool], StepCost]] = []
    for step in steps:
        trunk = step if trunk is None or step.reads is None else trunk
        keyed.append(((_prefix(trunk.name), trunk.stride, rows[id(trunk)].runs), step))
    for (name, _, _), group in groupby(keyed, key=lambda pair: pair[0]):
        members = [step for _, step in group]
        yield Stage(
            name=clean(name),
            rows=tuple(rows[id(step)] for step in members),
            amounts={scale.metric.key: scale.amount(members) for scale in scales},
        )


def _percent(share: float) -> str:
    return "0%" if not share else "<0.1%" if share < 0.001 else f"{100 * share:.1f}%"


def _pixels(number: int | None) -> str:
    return f"{number} px" if number else ""


def _prefix(name: str) -> str:
    return re.sub(r"(?:[-_.](?:block|layer))?[-_.]?\d+$", "", name) or name


def _summary(costs: Costs, scales: Iterable[_Scale]) -> str:
    heads = sum(step.reads is not None for step in costs.steps)
    parts = [f"input {size(costs.input_shape)}"]
    parts += [f"{scale.metric.text(scale.total)} {scale.metric.label}" for scale in scales]
    parts.append(f"{heads} head{'' if heads == 1 else 's'}")
    if costs.unread:
        parts.append(f"{human(costs.unread)} parameters that no step reads")
    if costs.uncounted:
        parts.append(f"not counted: {', '.join(costs.uncounted)}")
    return clean(" · ".join(parts))


def _stop(costs: Costs) -> str:
    if not costs.skipped:
        return ""
    macs = sum(step.macs for step in costs.skipped)
    share = f" ({100 * macs / costs.macs:.0f}%)" if costs.macs else ""
    return f"The forward pass stops here: no head reads further. That saves {human(macs)} MACs{share}."
