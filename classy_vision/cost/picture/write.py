"""The picture as a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from classy_vision.config import ConfigError, unknown
from classy_vision.cost.costs import Costs
from classy_vision.cost.picture.html import html
from classy_vision.cost.picture.rows import Picture, picture
from classy_vision.cost.picture.scene import scene
from classy_vision.cost.picture.svg import svg
from classy_vision.weights.files import check_target, replacing

SUFFIXES = (".svg", ".png", ".html")


def draw(costs: Costs, path: Path, *, title: str, latency: Mapping[str, float] | None = None) -> None:
    """Writes a picture of the trunk with its heads, in the form that the suffix of ``path`` names.

    A file of that name is replaced as a whole, or left as it was if something fails.

    Args:
        costs: what is drawn.
        path: ends in .svg, .png or .html.
        title: any text.
        latency: milliseconds by the name of a step or head; those that are left out stay blank.

    Raises:
        ConfigError: such a file cannot be written; see ``check_picture``.
    """
    path = check_picture(path)
    content = _render(picture(costs, title, latency), path.suffix.lower())
    with replacing(path) as beside:
        beside.write_bytes(content)


def check_picture(path: str | Path) -> Path:
    """``path`` with the home folder filled in, where a picture can be written there.

    Raises:
        ConfigError: another suffix, no such folder, something there that is no file, or a PNG
            without matplotlib.
    """
    path = Path(os.path.expanduser(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown("kind of picture", suffix or path.name, SUFFIXES, str(path))
    check_target(path, force=True)
    if suffix == ".png" and find_spec("matplotlib") is None:
        raise ConfigError(
            f"{path}: a PNG needs matplotlib: pip install 'classy-vision-models[plot]'; "
            ".svg and .html need nothing"
        )
    return path


def _render(what: Picture, suffix: str) -> bytes:
    if suffix == ".html":
        return html(what).encode()
    if suffix == ".svg":
        return svg(scene(what), what.title).encode()
    from classy_vision.cost.picture.png import png

    return png(scene(what))
