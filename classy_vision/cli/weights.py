"""``classy weights``: which there are, what is in a file, and files in other layouts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.convert import convert
from classy_vision.config import ConfigError, unknown

if TYPE_CHECKING:
    from rich.table import Table

weights = typer.Typer(
    name="weights",
    help="Published weights, and files of weights: list, show, convert.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Source(str, Enum):
    """Who published weights."""

    TIMM = "timm"
    TORCHVISION = "torchvision"


@weights.command("list")
def list_weights(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help="Names to list: with wildcards ('*clip*'), or a part of the name."
        ),
    ] = "*",
    source: Annotated[Source | None, typer.Option(help="Only those of this library.")] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of this network, such as resnet50.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with exact numbers.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with exact numbers.")] = False,
) -> None:
    """List published weights that load here: network, parameters, image size, accuracy, license.

    Top-1 is the accuracy in percent that their publisher states, on the classes they were trained on.
    More of one: classy weights show NAME
    """
    from rich.console import Console

    from classy_vision.text import dump

    rows = _matching(pattern, source, preset)
    text = dump(rows, rows, as_json, as_csv)
    if text is not None:
        print(text)
        return
    console = Console(highlight=False)
    columns = _fitting(rows, console.width if console.is_terminal or "COLUMNS" in os.environ else WIDE)
    Console(highlight=False, width=max(_width(rows, columns), console.width)).print(_table(rows, columns))
    if missing := [name for name in COLUMNS if name not in columns]:
        console.print(f"Too narrow for: {', '.join(missing)}. They are in --csv and --json.", style="dim")


def _matching(pattern: str, source: Source | None, preset: str | None) -> list[dict[str, Any]]:
    from classy_vision.weights.catalogue import names, published

    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    everything = [published(name) for name in names()]
    networks = sorted({str(entry.config["name"]) for entry in everything})
    if preset is not None and preset not in networks:
        raise unknown("network of published weights", preset, networks)
    found = [
        entry
        for entry in everything
        if fnmatchcase(entry.name.lower(), wanted.lower())
        and (source is None or entry.name.startswith(f"{source.value}/"))
        and preset in (None, entry.config["name"])
    ]
    if not found:
        near = get_close_matches(pattern, [*networks, *(entry.name for entry in everything)], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no published weights have {pattern!r} in their name{hint}")
    return [
        {
            "name": entry.name,
            "network": entry.config["name"],
            "params": entry.params,
            "image_size": entry.preprocessing.image_size,
            "top1": entry.top1,
            "license": entry.license,
        }
        for entry in found
    ]


# heading: the cell of a row, and whether it is a number
COLUMNS: dict[str, tuple[Callable[[Mapping[str, Any]], str], bool]] = {
    "name": (lambda row: row["name"], False),
    "network": (lambda row: row["network"], False),
    "M params": (lambda row: f"{row['params'] / 1e6:.2f}", True),
    "px": (lambda row: str(row["image_size"]), True),
    "top-1": (lambda row: "" if row["top1"] is None else f"{row['top1']:.1f}", True),
    "license": (lambda row: row["license"] or "not stated", False),
}
DISPENSABLE = ("network", "license", "px")
"""What a narrow terminal leaves out, so that names, which people copy, stay whole."""
WIDE = 1000
"""Columns of a file or a pipe."""


def _fitting(rows: list[dict[str, Any]], width: int) -> list[str]:
    columns = list(COLUMNS)
    for name in DISPENSABLE:
        if _width(rows, columns) > width:
            columns.remove(name)
    return columns


def _width(rows: list[dict[str, Any]], columns: list[str]) -> int:
    return 2 + sum(2 + max(len(name), *(len(COLUMNS[name][0](row)) for row in rows)) for name in columns)


def _table(rows: list[dict[str, Any]], columns: list[str]) -> Table:
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in columns:
        grid.add_column(name, justify="right" if COLUMNS[name][1] else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(COLUMNS[name][0](row) for name in columns))
    return grid


# -- show


@weights.command()
def show(
    source: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="The name of published weights, or a file of weights.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is known of published weights, or what a file of weights holds.

    Of a file these are its layouts, and the config of a model with exactly its tensors.
    """
    from classy_vision.weights.catalogue import is_published

    is_name = is_published(source) and not Path(os.path.expanduser(source)).exists()
    facts = _of_name(source) if is_name else _of_file(source)
    print(json.dumps(facts, indent=2) if as_json else _readable(facts))


def _of_name(name: str) -> dict[str, Any]:
    from classy_vision.weights.catalogue import published
    from classy_vision.weights.sources import TORCHVISION

    entry = published(name)
    place = f"https://huggingface.co/{entry.place}" if "/" in entry.place else f"{TORCHVISION}/{entry.place}"
    facts = {**asdict(entry), "config": dict(entry.config), "place": place}
    return {key: facts[key] for key in _FACTS}


_FACTS = ("name", "params", "outputs", "labels", "top1", "license", "place", "preprocessing", "config")


def _of_file(source: str) -> dict[str, Any]:
    from classy_vision.identify.identify import examine
    from classy_vision.trunk.loading import find_source
    from classy_vision.weights.classy_vision import flatten
    from classy_vision.weights.files import read_tensors

    state = flatten(read_tensors(find_source(source)))
    found = examine(state)
    return {
        "file": source,
        "tensors": len(state),
        "params": _count(found.config),
        "family": found.family,
        "layouts": list(found.layouts),
        "preset": found.config["name"] if found.is_preset else None,
        "not seen in a file": list(found.unseen),
        "config": found.config,
    }


def _count(config: Mapping[str, Any]) -> int:
    """Parameters of a model; statistics of norms are none."""
    from classy_vision.cost import OnMeta
    from classy_vision.models import build_model

    with OnMeta():
        return sum(p.numel() for p in build_model(config).parameters())


def _readable(facts: Mapping[str, Any]) -> str:
    """Lines "key: value", and blocks of YAML for what has parts."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"{key}:", *(f"  {line}" for k, v in value.items() for line in _yaml(k, v))]
            continue
        shown = f"{value:,}" if isinstance(value, int) else value
        shown = ", ".join(value) if isinstance(value, list) else shown
        lines.append(f"{key}: {_MISSING.get(key, 'not known') if value is None else shown}")
    return "\n".join(lines)


_MISSING = {"preset": "none"}


def _yaml(key: str, value: Any) -> list[str]:
    import yaml

    text = yaml.safe_dump(_plain(value), sort_keys=False, default_flow_style=True, width=72)
    return f"{key}: {text.removesuffix('...' + chr(10))}".splitlines()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


weights.command()(convert)
