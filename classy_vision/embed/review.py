"""What neighbours say about a collection: near duplicates, outliers, labels that may be wrong, similar images.

Axes: n rows, c channels, k neighbours.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from classy_vision.config import ConfigError, shown, unknown
from classy_vision.embed.encoder import HEAD, Encoder, load_encoder
from classy_vision.embed.findings import Disagreement, Group, Neighbours, Query
from classy_vision.embed.nearest import Index, Nearest
from classy_vision.embed.settings import Settings
from classy_vision.embed.stored import Array, Embeddings, load
from classy_vision.embed.thumbnails import Files, find_copies
from classy_vision.predict.inputs import Input, read_input
from classy_vision.predict.predictor import find_device

NEIGHBOURS = 10
CLOSE = 0.1
"""Near duplicates are closer than this part of the median distance to the nearest neighbour."""
EQUAL = 1e-8
"""The distance of features that differ by no more than rounding, also in float16."""
LABEL = "label"
SAME = ("class", "config", "digest", "trunk_norm", "preprocessing")
"""What a model must have in common with the one that embedded."""
MANY = 10_000
"""Names among which a similar one is not looked for any more."""


def neighbours(
    folder: str | Path,
    *,
    column: str | None = None,
    label: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    of: Sequence[str | Path] = (),
    model: str | Path | None = None,
    device: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Neighbours:
    """Finds near duplicates, outliers, labels that disagree with their neighbours, and neighbours of images.

    The neighbours are the exact ones by cosine; those that are equally near come in the order of the rows.

    Args:
        folder: of embeddings that ``classy embed`` or ``embed`` wrote.
        column: of the features, such as "block3/mean"; by default the only one with a vector for each row.
        label: the column of labels; by default "label", where there is one.
        k: how many neighbours; by default 10, or all where there are fewer.
        threshold: the cosine from which two neighbours are near duplicates. By default their distance, 1 -
            cosine, is at most a tenth of the median distance to the nearest neighbour that is not equal.
        of: ids or paths of images whose neighbours are wanted, or image files that are not in the folder.
        model: that made the embeddings; needed for files that are not in the folder.
        device: "cpu", "cuda", …; by default a GPU where there is one.
        progress: is called with the number of rows that are done, and of all.

    Raises:
        ConfigError: something is not there or does not fit.
    """
    stored = load(folder)
    column, k = _find_column(stored, column), _find_count(stored, k)
    label, labels = _read_labels(stored, label)
    _check_threshold(threshold)
    files, words = Files(stored), [str(word) for word in of]
    places = [_find_row(files, word) for word in words]
    outside = [word for word, row in zip(words, places) if row is None]
    vectors = _embed(outside, model, stored, column, device) if outside else None
    index = _make_index(stored, column, device)
    joined = index.join(k, progress)
    others = None if vectors is None else index.search(vectors, k)
    threshold = _choose_threshold(joined) if threshold is None else threshold
    return Neighbours(
        stored=stored, column=column, label=label, labels=labels, rows=joined.rows,
        similarities=joined.similarities, threshold=threshold,
        duplicates=find_duplicates(joined, threshold, labels, files),
        outliers=np.argsort(joined.similarities[:, -1], kind="stable"),
        disagreements=find_disagreements(joined, labels), queries=_answer(words, places, joined, others),
    )  # fmt: skip


# -- what is asked for


def _find_column(stored: Embeddings, column: str | None) -> str:
    """Chooses the column of features.

    Raises:
        ConfigError: there is no such column, it does not hold vectors, or there are several to choose from.
    """
    vectors = [name for name in stored if len(stored.shape(name)) == 2]
    where = str(stored.folder)
    said = f"columns with vectors: {', '.join(vectors) or 'none; classy embed --pooling mean writes one'}"
    if column is None:
        if len(vectors) == 1:
            return vectors[0]
        if not vectors:
            raise ConfigError(f"{where!r} has no column with one vector for each image ({said})")
        raise ConfigError(f"{where!r} has several columns: choose one with --column ({said})")
    if column not in stored:
        raise unknown("column", column, vectors, where)
    if column not in vectors:
        shape = "×".join(map(str, stored.shape(column)[1:]))
        raise ConfigError(f"column {column!r} holds {shape} values for each image, not one vector ({said})")
    return column


def _find_count(stored: Embeddings, k: int | None) -> int:
    if stored.rows < 2:
        raise ConfigError(f"{str(stored.folder)!r} is too small for neighbours: rows = {stored.rows}")
    if k is None:
        return min(NEIGHBOURS, stored.rows - 1)
    if not 1 <= k < stored.rows:
        raise ConfigError(f"k = {k}: each of {stored.rows:,} rows has 1 to {stored.rows - 1:,} neighbours")
    return k


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 < threshold <= 1:
        raise ConfigError(f"threshold = {threshold}: a cosine above 0, and at most 1, is needed")


def _read_labels(stored: Embeddings, column: str | None) -> tuple[str | None, list[str | None]]:
    """Reads the labels as texts; missing and empty ones are None.

    Raises:
        ConfigError: there is no such column, or its cells are not classes.
    """
    others = [name for name in stored.columns if name not in ("id", "path")]
    if column is not None and column not in others:
        raise unknown("column of labels", column, others, str(stored.folder))
    cells = stored.column(column or LABEL) if column or LABEL in others else []
    fit = all(isinstance(cell, (str, int, bool, type(None))) for cell in cells)
    if column is None and (not fit or not cells):
        return None, [None] * stored.rows
    if not fit:
        raise ConfigError(f"column {column!r} does not hold labels: a name or a whole number per row is needed")
    return column or LABEL, [None if cell is None or cell == "" else str(cell) for cell in cells]


def _find_row(files: Files, word: str) -> int | None:
    """Finds the row that an id or a path means; None for an image file that is not among them.

    Raises:
        ConfigError: there is no such row and no such file.
    """
    row = files.find(word)
    if row is None and not os.path.isfile(os.path.expanduser(word)):
        where = str(files.stored.folder)
        said = f"no row of {where!r} has it as id or path, and there is no such file"
        raise unknown("image", word, files.stored.ids[:MANY], otherwise=said)
    return row


def _embed(
    words: Sequence[str], model: str | Path | None, stored: Embeddings, column: str, device: str | None
) -> Array:
    """Embeds files as the folder was; returns their features (n, c).

    Raises:
        ConfigError: no model is given, it is another one, or a file cannot be read.
    """
    if model is None:
        raise ConfigError(f"{shown(words[0])} is not in {str(stored.folder)!r}: --model MODEL embeds it")
    encoder = load_encoder(model, _find_settings(stored, column, device))
    wanted = stored.manifest["model"]
    for key in SAME:
        if encoder.about.get(key) != wanted.get(key):
            raise ConfigError(
                f"{shown(str(model))} is not the model of {str(stored.folder)!r}: it has another {key}"
            )
    return np.concatenate([_embed_one(encoder, word, column) for word in words])


def _find_settings(stored: Embeddings, column: str, device: str | None) -> Settings:
    block, _, reading = column.rpartition("/")
    wanted: dict[str, Any] = {"blocks": (block,), "pooling": (reading,)}
    if column.startswith(f"{HEAD}/"):
        wanted = {"heads": (column.removeprefix(f"{HEAD}/"),)}
    trunk_norm = stored.manifest["model"].get("trunk_norm", True)
    return Settings.parse({**wanted, "trunk_norm": trunk_norm, "device": device}, "neighbours")


def _embed_one(encoder: Encoder, word: str, column: str) -> Array:
    file = Path(os.path.expanduser(word))
    return encoder(read_input(Input(word, file), encoder.data, encoder.channels)[None])[column]


def _make_index(stored: Embeddings, column: str, device: str | None) -> Index:
    """Opens the features, mapped into memory where the folder can be written to.

    Raises:
        ConfigError: they cannot be read, or are not all finite numbers.
    """
    try:
        features: Array = stored.memmap(column)
    except ConfigError:
        features = stored[column]
    index = Index(features, find_device(device))
    if index.not_finite is not None:
        name = stored.ids[index.not_finite]
        raise ConfigError(f"column {column!r} has values that are not finite, first of {shown(name)}")
    return index


def _answer(
    words: Sequence[str], places: Sequence[int | None], joined: Nearest, others: Nearest | None
) -> tuple[Query, ...]:
    """Gives each image that was asked about its neighbours; those of ``others`` are not in the folder."""
    found, at = [], 0
    for word, row in zip(words, places):
        if row is not None:
            rows, similarities = joined.rows[row], joined.similarities[row]
        else:
            assert others is not None
            rows, similarities, at = others.rows[at], others.similarities[at], at + 1
        found.append(Query(word, row, tuple(rows.tolist()), tuple(similarities.tolist())))
    return tuple(found)


# -- near duplicates


def _choose_threshold(joined: Nearest) -> float:
    """Chooses the cosine of near duplicates by how near different images are: that differs with the block."""
    distances = 1 - joined.similarities
    differ = distances > EQUAL
    nearest = distances[np.arange(len(distances)), differ.argmax(1)][differ.any(1)]
    return float(1 - max(EQUAL, CLOSE * float(np.median(nearest)) if nearest.size else 0.0))


def find_duplicates(
    joined: Nearest, threshold: float, labels: Sequence[str | None], files: Files
) -> tuple[Group, ...]:
    """Joins neighbours that are at least as similar as ``threshold`` to groups, the largest first."""
    count = len(joined.rows)
    pairs = np.argwhere(joined.similarities >= min(threshold, 1 - EQUAL))
    ones, others = pairs[:, 0], joined.rows[pairs[:, 0], pairs[:, 1]]
    edges = coo_array((np.ones(len(ones), bool), (ones, others)), shape=(count, count))
    _, numbers = connected_components(edges, directed=False)
    members, lowest = defaultdict[int, list[int]](list), dict[int, float]()
    for row in np.unique(np.concatenate([ones, others])).tolist():
        members[int(numbers[row])].append(row)
    for row, similarity in zip(ones.tolist(), joined.similarities[pairs[:, 0], pairs[:, 1]].tolist()):
        number = int(numbers[row])
        lowest[number] = min(lowest.get(number, 1.0), similarity)
    copies = find_copies(files, [*members.values()])
    groups = [
        Group(
            tuple(rows),
            lowest[number],
            {row: copies[row] for row in rows if row in copies},
            tuple(dict.fromkeys(name for row in rows if (name := labels[row]) is not None)),
        )
        for number, rows in members.items()
    ]
    return tuple(sorted(groups, key=lambda one: (-len(one.rows), -one.similarity, one.rows)))


# -- labels


def find_disagreements(joined: Nearest, labels: Sequence[str | None]) -> tuple[Disagreement, ...]:
    """Finds the rows whose neighbours have another label more often than theirs, the clearest first."""
    names = [*dict.fromkeys(name for name in labels if name is not None)]
    numbers = {name: number for number, name in enumerate(names)}
    own = np.array([-1 if name is None else numbers[name] for name in labels], np.int64)
    near = own[joined.rows]
    voting = (near >= 0).sum(1)
    other = ((near >= 0) & (near != own[:, None])).sum(1)
    found = []
    for row in np.flatnonzero((own >= 0) & (2 * other >= voting) & (other > 0)).tolist():
        suggested, votes = _count_votes(near[row], joined.similarities[row])
        if votes > (near[row] == own[row]).sum():
            one = Disagreement(row, names[own[row]], names[suggested], float(other[row] / voting[row]))
            found.append(((-one.share, -votes / voting[row], -joined.similarities[row, 0], row), one))
    return tuple(one for _, one in sorted(found, key=lambda entry: entry[0]))


def _count_votes(near: Array, similarities: Array) -> tuple[int, int]:
    """Returns the most frequent label and how often it is there; of equally frequent ones the most similar."""
    votes: dict[int, tuple[int, float]] = {}
    for number, similarity in zip(near.tolist(), similarities.tolist()):
        if number >= 0:
            count, total = votes.get(number, (0, 0.0))
            votes[number] = count + 1, total + similarity
    best = max(votes, key=votes.__getitem__)
    return best, votes[best][0]
