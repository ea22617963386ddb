"""``classy list``: the presets, and what they cost."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from classy_vision.cli.options import Format, FormatOption
from classy_vision.errors import ConfigError

CLASSES = 1000
Pattern = Annotated[
    str,
    typer.Argument(
        metavar="PATTERN", help="Names to list: with wildcards ('regnet_y_*'), or a part of the name."
    ),
]


def list_models(pattern: Pattern = "*", format: FormatOption = Format.TABLE) -> None:
    """List the presets with their parameters, multiply-adds and activations.

    The numbers are those of the trunk and its default head for 1000 classes, for one input of the size in
    the last column, as papers print them. To see one model block by block: classy show NAME
    """
    from rich.console import Console

    from classy_vision.presets import known_costs
    from classy_vision.text import dump, print_grid

    known = known_costs()
    rows = [
        {"name": name, "family": family, **(known.get(name) or _count(name))}
        for name, family in _find_presets(pattern)
    ]
    text = dump(rows, rows, format.value)
    if text is not None:
        print(text)
        return
    print_grid(_make_grid(rows), ("acts",), "--format csv and json have them.")
    Console(highlight=False).print(_write_caption(), style="dim")


def _find_presets(pattern: str) -> list[tuple[str, str]]:
    """Finds (preset, family) of the presets that ``pattern`` names, or that are of that family."""
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


def _count(name: str) -> dict[str, Any]:
    """Counts a preset that is not one of this library."""
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


def _make_grid(rows: list[dict[str, Any]]) -> Any:
    from classy_vision.text import Grid, human, size

    names = ("family", "model", "params", "MACs", "acts", "input")
    lines, ends = [], []
    for index, row in enumerate(rows):
        is_first = index == 0 or row["family"] != rows[index - 1]["family"]
        if is_first and index:
            ends.append(index - 1)
        numbers = [human(row[name]) for name in ("params", "macs", "activations")]
        cells = (row["family"] if is_first else "", row["name"], *numbers, size(row["input_shape"]))
        lines.append(dict(zip(names, cells)))
    return Grid(dict(zip(names, names)), lines, ("family", "model"), sections=ends)


def _write_caption() -> str:
    from classy_vision.presets import families

    rest = [family for family, presets in families().items() if not presets]
    text = (
        f"Parameters, multiply-adds (MACs) and activations (acts) with the default head for {CLASSES} classes."
    )
    return f"{text}\nFamilies without presets, which a config describes: {', '.join(rest)}." if rest else text
