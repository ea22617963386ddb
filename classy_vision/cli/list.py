"""``classy list``: the models there are, and what they cost."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

CLASSES = 1000


def list_models(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Names to list: with wildcards ('regnet_y_*'), or a part of the name.", metavar="PATTERN"
        ),
    ] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with exact numbers.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with exact numbers.")] = False,
) -> None:
    """List the preset models with their parameters, multiply-adds and activations.

    They are those of the trunk and its default head for 1000 classes, as papers print them, for
    one input of the given size. Show one model block by block with: classy show NAME
    """
    from rich.console import Console

    from classy_vision.presets import known_costs
    from classy_vision.text import dump

    known = known_costs()
    rows = [
        {"name": name, "family": family, **(known.get(name) or _costs(name))}
        for name, family in _matching(pattern)
    ]
    text = dump(rows, rows, as_json, as_csv)
    if text is not None:
        print(text)
        return
    console = Console(highlight=False)
    console.print(_table(rows, padding=1 if console.width >= 90 else 0))
    console.print(_caption(), style="dim")


def _matching(pattern: str) -> list[tuple[str, str]]:
    """(preset, family) of the presets that ``pattern`` names, or that are of that family."""
    from classy_vision.presets import check_model, families

    known = families()
    presets = {name: family for family, names in known.items() for name in names}
    wanted = pattern.lower()
    if wanted not in presets and not set(wanted) & set("*?["):
        wanted = f"*{wanted}*"
    found = [
        (name, family)
        for name, family in presets.items()
        if fnmatchcase(name, wanted) or (family == pattern.lower() and pattern not in presets)
    ]
    if not found:
        check_model(pattern)
        raise ConfigError(
            f"the family {pattern!r} has no presets: a config describes a model of it, as the page of the "
            f"family in the documentation shows, and classy show CONFIG.yaml counts it"
        )
    return found


def _costs(name: str) -> dict[str, Any]:
    """Counted now, for a preset that someone else has registered."""
    from classy_vision.cost import OnMeta, count
    from classy_vision.models import build_model

    with OnMeta():
        model = build_model(name, num_classes=CLASSES)
    costs = count(model.eval())
    return {
        "params": costs.params,
        "macs": costs.macs,
        "activations": costs.activations,
        "input_shape": list(costs.input_shape),
    }


def _table(rows: list[dict[str, Any]], padding: int) -> Table:
    from rich import box
    from rich.table import Table

    from classy_vision.text import size

    grid = Table(box=box.SIMPLE, padding=(0, padding, 0, padding))
    grid.add_column("family", no_wrap=True)
    grid.add_column("model", no_wrap=True)
    for heading in ("M params", "GMACs", "M acts", "input"):
        grid.add_column(heading, justify="right", no_wrap=True)
    family = None
    for row in rows:
        if family not in (None, row["family"]):
            grid.add_section()
        label = "" if row["family"] == family else row["family"]
        family = row["family"]
        numbers = (row["params"] / 1e6, row["macs"] / 1e9, row["activations"] / 1e6)
        grid.add_row(label, row["name"], *(f"{n:.2f}" for n in numbers), size(row["input_shape"]))
    return grid


def _caption() -> str:
    from classy_vision.presets import families

    rest = [family for family, presets in families().items() if not presets]
    text = (
        f"Parameters, multiply-adds (MACs) and activations (acts) with the default head for {CLASSES} classes."
    )
    return f"{text}\nFamilies that a config describes: {', '.join(rest)}." if rest else text
