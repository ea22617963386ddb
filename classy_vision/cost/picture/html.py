"""A picture as an HTML page that stands alone: no request leaves it, and its policy forbids any."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from classy_vision.cost.picture.palette import HEAT, HEAT_ON_DARK
from classy_vision.cost.picture.rows import Amount, Metric, Picture, Row, Stage


def render_html(what: Picture) -> str:
    """The page. All texts of ``what`` are escaped; styles and script are named by their hashes."""
    style = _read("page.css") + "\n".join(_rules(what))
    script = _read("page.js")
    facts = [{"name": row.name, "facts": row.facts, "fork": row.fork} for row in what.rows]
    return Template(_read("page.html")).substitute(
        title=escape(what.title),
        summary=escape(what.summary),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        metrics="\n".join(_choice(metric, index) for index, metric in enumerate(what.metrics)),
        labels=_spans({metric.key: escape(metric.label) for metric in what.metrics}),
        most=_spans({key: f"{a.text}, {a.share}" for key, a in what.largest.items()}),
        flat="" if any(row.extent for row in what.rows if row.reads is None) else ' class="flat"',
        rows="\n".join(_rows(what)),
        facts=json.dumps(facts).replace("<", "\\u003c"),
    )


def _read(name: str) -> str:
    return (files("classy_vision.cost.picture") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _rules(what: Picture) -> Iterator[str]:
    """Style rules in place of style attributes, which would need a laxer policy."""
    yield f":root {{ --low: {HEAT[0]}; --middle: {HEAT[1]}; --high: {HEAT[2]} }}"
    low, middle, high = HEAT_ON_DARK
    dark = f":root {{ --low: {low}; --middle: {middle}; --high: {high} }}"
    yield f"@media screen and (prefers-color-scheme: dark) {{ {dark} }}"
    for metric in what.metrics:
        chosen = f":root:has(#choose-{metric.key}:checked)"
        yield f"{chosen} .{metric.key} {{ display: contents }}"
        yield f"{chosen} tr {{ --heat: var(--{metric.key}) }}"
    for index, row in enumerate(what.rows):
        heats = "; ".join(f"--{key}: {amount.heat:.4f}" for key, amount in row.amounts.items())
        yield f"#row-{index} {{ --width: {row.width:.4f}; --extent: {row.extent:.4f}; {heats} }}"


def _choice(metric: Metric, index: int) -> str:
    checked = " checked" if index == 0 else ""
    return (
        f'<input type="radio" name="metric" id="choose-{metric.key}"{checked}>'
        f'<label for="choose-{metric.key}">{escape(metric.label)}</label>'
    )


def _spans(texts: Mapping[str, str]) -> str:
    return "".join(f'<span class="metric {key}">{text}</span>' for key, text in texts.items())


def _rows(what: Picture) -> Iterator[str]:
    last = max((i for i, row in enumerate(what.rows) if row.runs and row.reads is None), default=0)
    wires = _wires(what.rows)
    index, ran = 0, True
    for stage in what.stages:
        runs = stage.rows[0].runs
        if ran and not runs:
            yield f'<tbody class="stop"><tr><td colspan="5">{escape(what.stop)}</td></tr></tbody>'
        yield "<tbody>" if runs else '<tbody class="rests">'
        for place, row in enumerate(stage.rows):
            classes = ["step" if row.reads is None else "head"]
            classes += ["joins"] * (place == 0 and index > 0 and ran is runs)
            classes += ["ends"] * (row.reads is not None and index > last)
            yield _row(row, index, " ".join(classes), "" if place else _stage(stage), wires[index])
            index += 1
        ran = runs
        yield "</tbody>"


def _wires(rows: Sequence[Row]) -> list[str]:
    """The lines from earlier steps to the heads that read them too, by row."""
    places = {row.name: index for index, row in enumerate(rows) if row.reads is None}
    wires = [""] * len(rows)
    heads = [(index, row) for index, row in enumerate(rows) if row.also_reads]
    for lane, (end, row) in enumerate(heads):
        read = {places[step] for step in row.also_reads}
        for index in range(min(read), end + 1):
            kind = {min(read): " start", end: " end"}.get(index, " read" if index in read else "")
            wires[index] += f'<i class="wire{kind}" style="--lane: {lane % 4}"></i>'
    return wires


def _row(row: Row, index: int, classes: str, stage: str, wires: str) -> str:
    button = f'<button type="button" title="Copy “{escape(row.fork)}”"><bdi>{escape(row.name)}</bdi></button>'
    alias = f' <span class="alias">= {escape(" = ".join(row.aliases))}</span>' if row.aliases else ""
    name = '<span class="kind">head</span>' if row.reads else button + alias
    picture = f'<i class="fork"></i>{button}' if row.reads else '<i class="extent"></i><i class="width"></i>'
    shape = f'<span class="same">{escape(row.shape)}</span>' if row.repeats else escape(row.shape)
    return (
        f'<tr id="row-{index}" class="{classes}"><th scope="row">{name}</th>'
        f'<td class="shape">{shape}</td><td class="picture">{picture}{wires}</td>'
        f'<td class="amount"><div>{_amounts(row.amounts)}<i class="bar"></i></div></td>{stage}</tr>'
    )


def _amounts(amounts: Mapping[str, Amount]) -> str:
    return _spans({key: f"<b>{a.text}</b> <small>{a.share}</small>" for key, a in amounts.items()})


def _stage(stage: Stage) -> str:
    rows = len(stage.rows)
    if stage.steps < 2:
        return f'<td class="stage" rowspan="{rows}"></td>'
    name = f"<p><strong>{escape(stage.name)}</strong> × {stage.steps}</p>"
    return f'<td class="stage many" rowspan="{rows}">{name}{_amounts(stage.amounts)}</td>'
