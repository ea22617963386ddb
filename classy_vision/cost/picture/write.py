"""The picture as a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from classy_vision.atomic import check_target, replacing
from classy_vision.config import ConfigError, unknown
from classy_vision.cost.costs import Costs
from classy_vision.cost.picture.html import render_html
from classy_vision.cost.picture.rows import describe

SUFFIXES = (".svg", ".png", ".html")


def draw(costs: Costs, path: Path, *, title: str, latency: Mapping[str, float] | None = None) -> None:
    """Draws the trunk with its heads into a file; the suffix of ``path`` selects the format.

    An existing file is replaced once the picture is complete, and left alone if something fails.

    Args:
        costs: the costs of the model to draw.
        path: ends in .svg, .png or .html.
        title: any text.
        latency: milliseconds by the name of a step or head; those that are missing stay blank.

    Raises:
        ConfigError: the file cannot be written; see ``check_picture``.
    """
    path = check_picture(path)
    what = describe(costs, title, latency)
    if path.suffix.lower() == ".html":
        content = render_html(what).encode()
    else:
        from classy_vision.cost.picture.still import render_still

        content = render_still(what, path.suffix.lower().removeprefix("."))
    with replacing(path) as beside:
        beside.write_bytes(content)


def check_picture(path: str | Path, force: bool = True, option: str = "") -> Path:
    """Checks that a picture can be written to ``path``, and returns it with ``~`` expanded.

    Args:
        path: of the picture.
        force, option: as for ``check_target``.

    Raises:
        ConfigError: the suffix is unknown, the folder does not exist, ``path`` is not a file, or an SVG or
            PNG is wanted and matplotlib is not installed.
    """
    path = Path(os.path.expanduser(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown("kind of picture", suffix or path.name, SUFFIXES, str(path))
    check_target(path, force=force, option=option)
    if suffix != ".html" and find_spec("matplotlib") is None:
        raise ConfigError(
            f"{path}: {suffix[1:].upper()} pictures need matplotlib: pip install 'classy-vision-models[plot]'; "
            ".html works without it"
        )
    return path
