"""The page of a review: pictures to look at, in one file that asks nothing of the network.

Pictures are in the page itself, small ones of the first few groups, labels and outliers. There is no script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from classy_vision.embed.findings import Disagreement, Group, Neighbours, Query

MEMBERS = 12
"""Pictures of a group, or of an image that was asked about, that are shown."""
BESIDE = 6
"""Neighbours that are shown beside an outlier or a label."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor, title: of it.
        count: of all that there is; None where it is not a finding.
        text: says what is shown.
        entries: in HTML.
    """

    anchor: str
    title: str
    count: int | None
    text: str
    entries: Sequence[str]


def list_shown(found: Neighbours, show: int) -> list[int]:
    """Lists the rows whose pictures the page shows."""
    rows = [row for query in found.queries for row in (query.row, *query.rows[:MEMBERS]) if row is not None]
    rows += [row for group in found.duplicates[:show] for row in group.rows[:MEMBERS]]
    for row in (*(one.row for one in found.disagreements[:show]), *found.outliers[:show].tolist()):
        rows += [row, *found.rows[row, :BESIDE].tolist()]
    return [*dict.fromkeys(rows)]


def render_page(
    found: Neighbours,
    paths: Sequence[str],
    pictures: Mapping[int, bytes | str],
    asked: Sequence[bytes | str],
    show: int,
) -> str:
    """Renders the page.

    Args:
        found: what it shows.
        paths: of all rows.
        pictures: JPEGs by row, or the reasons why there are none.
        asked: the same of the queries.
        show: how many groups, labels and outliers.
    """
    writer = _Writer(found, paths, pictures)
    sections = [*writer.list_sections(asked, show)]
    style = _read("review.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return Template(_read("review.html")).substitute(
        title=escape(f"Neighbours in {found.stored.folder.name}"),
        summary=escape(describe(found)),
        style=style,
        style_hash=f"sha256-{digest}",
        links="".join(map(_make_link, sections)),
        sections="\n".join(map(_make_section, sections)),
    )


def describe(found: Neighbours) -> str:
    """Says in a line what the neighbours are of."""
    count, k = found.rows.shape
    labels = f"labels from the column {found.label}" if found.label else "no labels"
    return (
        f"{count:,} {found.unit}s by {found.column}, {k} neighbour{'s' * (k > 1)} of each by cosine, {labels}."
    )


def _read(name: str) -> str:
    return (files("classy_vision.embed") / name).read_text(encoding="utf-8")


def _make_link(one: Section) -> str:
    count = "" if one.count is None else f" <b>{one.count:,}</b>"
    return f'<a href="#{one.anchor}">{one.title}{count}</a>'


def _make_section(one: Section) -> str:
    shown = len(one.entries)
    first = f" The first {shown} of {one.count:,} are shown." if one.count and shown < one.count else ""
    head = f"<h2>{one.title}</h2><p>{escape(one.text + first)}</p>"
    body = "\n".join(one.entries) or "<p>There are none.</p>"
    return f'<section id="{one.anchor}">{head}\n<div>\n{body}\n</div></section>'


class _Writer:
    """Writes pictures with their texts."""

    def __init__(self, found: Neighbours, paths: Sequence[str], pictures: Mapping[int, bytes | str]) -> None:
        self.found, self.paths, self.pictures = found, paths, pictures

    def list_sections(self, asked: Sequence[bytes | str], show: int) -> Iterator[Section]:
        found = self.found
        if found.queries:
            queries = [*map(self.make_query, found.queries, asked)]
            yield Section("queries", "Images asked about", len(queries), QUERIES, queries)
        text, groups = DUPLICATES.format(found.threshold), [*map(self.make_group, found.duplicates[:show])]
        yield Section("duplicates", "Near duplicates", len(found.duplicates), text, groups)
        if found.label:
            labels = [*map(self.make_disagreement, found.disagreements[:show])]
            yield Section("labels", "Labels that disagree", len(found.disagreements), LABELS, labels)
        text, rows = OUTLIERS.format(found.rows.shape[1]), found.outliers[:show].tolist()
        yield Section("outliers", "Outliers", None, text, [*map(self.make_outlier, rows)])

    def make_query(self, one: Query, picture: bytes | str) -> str:
        label = self.found.labels[one.row] if one.row is not None else None
        own = _make_figure(picture, one.name, one.name, label, False, "", "own")
        return _make_article(
            escape(one.name), [own, *self.make_near(one.rows, one.similarities, MEMBERS, label)]
        )

    def make_group(self, one: Group) -> str:
        copies = f", {len(one.copies)} of them exact copies" if len(one.copies) > 1 else ""
        copies = copies or ", one an exact copy" * len(one.copies)
        text = f"{len(one.rows)} {self.found.unit}s<small>{copies}, cosine {one.similarity:.6f} or more</small>"
        if len(one.labels) > 1:
            text += f"<em>, labels {escape(', '.join(one.labels[:5]))}{', …' * (len(one.labels) > 5)}</em>"
        figures = [self.make_member(row, one) for row in one.rows[:MEMBERS]]
        left = len(one.rows) - len(figures)
        return _make_article(text, [*figures, *([f'<li class="more">and {left:,} more</li>'] if left else [])])

    def make_member(self, row: int, group: Group) -> str:
        return self.make_figure(row, "exact copy" if row in group.copies else "", odd=len(group.labels) > 1)

    def make_disagreement(self, one: Disagreement) -> str:
        text = f"<em>{escape(one.label)}</em>, where neighbours suggest <em>{escape(one.suggested)}</em>"
        text += f" <small>({one.share:.0%} have another label)</small>"
        return self.make_entry(one.row, text, one.label)

    def make_outlier(self, row: int) -> str:
        text = f"distance {self.found.distances[row]:.4f}"
        return self.make_entry(row, text, self.found.labels[row])

    def make_entry(self, row: int, text: str, label: str | None) -> str:
        own = self.make_figure(row, "", kind="own")
        near = self.make_near(
            self.found.rows[row].tolist(), self.found.similarities[row].tolist(), BESIDE, label
        )
        return _make_article(text, [own, *near])

    def make_near(
        self, rows: Iterable[int], similarities: Iterable[float], most: int, label: str | None
    ) -> Iterator[str]:
        """Makes figures of neighbours; those with another label than ``label`` stand out."""
        for row, similarity in [*zip(rows, similarities)][:most]:
            other = label is not None and self.found.labels[row] not in (None, label)
            yield self.make_figure(row, f"{similarity:.4f}", odd=other)

    def make_figure(self, row: int, number: str, *, odd: bool = False, kind: str = "") -> str:
        found = self.found
        name, path = found.stored.ids[row], self.paths[row]
        return _make_figure(self.pictures[row], name, path or name, found.labels[row], odd, number, kind)


QUERIES = "The nearest images of the collection, with their cosines."
DUPLICATES = (
    "Groups joined by neighbours with a cosine of {:.6f} or more. Exact copies have the same bytes as an image "
    "before them. Where labels differ, one may be wrong."
)
LABELS = (
    "Images whose neighbours have another label more often than theirs, the clearest first. After each come "
    "its nearest neighbours, with their cosines."
)
OUTLIERS = (
    "Images by their distance (1 - cosine) to neighbour {}, the furthest first. All images are ranked: where "
    "outliers end is for you to say. After each come its nearest neighbours, with their cosines."
)


def _make_article(text: str, figures: Iterable[str]) -> str:
    return f"<article><h3>{text}</h3><ul>{''.join(figures)}</ul></article>"


def _make_figure(
    picture: bytes | str, name: str, path: str, label: str | None, odd: bool, number: str, kind: str
) -> str:
    if isinstance(picture, bytes):
        data = base64.b64encode(picture).decode()
        shown = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(name)}" decoding="async">'
    else:
        shown = f'<div class="missing">not shown: {escape(picture)}</div>'
    lines = (
        [f'<span class="odd">{escape(label)}</span>' if odd else f"<span>{escape(label)}</span>"]
        if label
        else []
    )
    lines += [f'<span class="number">{escape(number)}</span>'] if number else []
    lines += [f'<span class="name"><bdi>{escape(name)}</bdi></span>']
    own = f' class="{kind}"' if kind else ""
    text = f"<figcaption>{''.join(lines)}</figcaption>"
    return f'<li{own} title="{escape(path)}"><figure>{shown}{text}</figure></li>'
