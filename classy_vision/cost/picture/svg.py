"""A scene as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from classy_vision.cost.picture.palette import PAPER
from classy_vision.cost.picture.scene import Box, Line, Scene, Text

SANS = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def svg(scene: Scene, title: str) -> str:
    """A file that stands alone, with tips where one points at a block."""
    box = f"0 0 {scene.width:.0f} {scene.height:.0f}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{scene.width:.0f}" '
            f'height="{scene.height:.0f}" role="img" aria-label={quoteattr(title)}>',
            f"<style>text {{ font-family: {SANS}; dominant-baseline: central; white-space: pre }} "
            f".mono {{ font-family: {MONO} }}</style>",
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
            *(line for mark in scene.marks for line in _lines(mark)),
            "</svg>\n",
        ]
    )


def _lines(mark: Box | Line | Text) -> Iterator[str]:
    if isinstance(mark, Box):
        stroke = f' stroke="{mark.stroke}" stroke-width="0.6"' if mark.stroke else ""
        radius = f' rx="{mark.radius:g}"' if mark.radius else ""
        tip = f"><title>{escape(mark.tip)}</title></rect>" if mark.tip else "/>"
        yield (
            f'<rect x="{mark.x:.2f}" y="{mark.y:.2f}" width="{mark.width:.2f}" height="{mark.height:.2f}" '
            f'fill="{mark.fill}"{stroke}{radius}{tip}'
        )
    elif isinstance(mark, Line):
        dash = ' stroke-dasharray="4 3"' if mark.dashed else ""
        yield (
            f'<line x1="{mark.x1:.2f}" y1="{mark.y1:.2f}" x2="{mark.x2:.2f}" y2="{mark.y2:.2f}" '
            f'stroke="{mark.colour}" stroke-width="{mark.width:g}"{dash}/>'
        )
    elif mark.text:
        kind = ' class="mono"' if mark.mono else ""
        bold = ' font-weight="600"' if mark.bold else ""
        yield (
            f'<text x="{mark.x:.2f}" y="{mark.y:.2f}" font-size="{mark.size:g}" fill="{mark.colour}" '
            f'text-anchor="{mark.align}"{kind}{bold}>{escape(mark.text)}</text>'
        )
