"""The card of a model: what it is, what it costs, what it learned, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from classy_vision.text import human, size
from classy_vision.weights.catalogue import Published

LIBRARY = "classy-vision-models"
MAX_LABELS = 20
PATHS = ("root", "file", "images")
"""Keys of ``data`` that are paths of the machine that trained the model."""
Rows = Iterable[Sequence[object]]


@dataclass(frozen=True)
class Facts:
    """What a card says of a model.

    Attributes:
        name: what ``from_pretrained`` takes to load it.
        config: of its folder.
        input_shape: without the batch.
        params: the number of its parameters.
        macs: multiply-adds for one input; None if they are not known.
        license: of the weights; None if it is not known.
        published: the weights that they are, if a publisher made them.
        settings: the config of the run that it comes from; empty if there is none.
        metrics: of the last epoch of that run.
    """

    name: str
    config: Mapping[str, Any]
    input_shape: Sequence[int]
    params: int
    macs: int | None
    license: str | None
    published: Published | None
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]


def write_card(facts: Facts) -> str:
    """A model card in Markdown, with the front matter that the hub reads."""
    license = _escape(facts.license) if facts.license else "Not stated."
    parts = [
        _front_matter(facts),
        f"# {_escape(facts.name.rpartition('/')[2])}\n",
        _summary(facts),
        _heads(facts.config),
        _data(facts),
        _metrics(facts.metrics),
        f"## License\n\n{license}\n",
        f"## Use\n\n```python\nfrom classy_vision.models import ClassyModel\n\n"
        f"model = ClassyModel.from_pretrained({facts.name!r}).eval()\n```\n",
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(facts: Facts) -> str:
    import yaml

    task = "video-classification" if len(facts.input_shape) == 4 else "image-classification"
    classifies = any(head.get("num_classes") for head in facts.config["heads"])
    place = facts.published.place if facts.published else ""
    data = {
        "library_name": LIBRARY,
        "pipeline_tag": task if classifies else "image-feature-extraction",
        "license": facts.license,
        "base_model": place if "/" in place else None,
        "tags": [LIBRARY, facts.config["name"]],
    }
    data = {key: value for key, value in data.items() if value is not None}
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _summary(facts: Facts) -> str:
    rows = [("family", facts.config["name"]), ("parameters", f"{human(facts.params)} ({facts.params:,})")]
    if facts.macs is not None:
        rows += [("multiply-adds", f"{human(facts.macs)}, for one input of {size(facts.input_shape)}")]
    return _table(("model", ""), rows)


def _heads(config: Mapping[str, Any]) -> str:
    if not config["heads"]:
        return "## Heads\n\nNone: the output is the feature at the end of the trunk.\n"
    tasks = config.get("tasks") or {}
    rows = [
        (
            *(head["unique_id"], _blocks(head), head["name"], head.get("num_classes", "")),
            _cut((tasks.get(head["unique_id"]) or {}).get("classes") or ()),
        )
        for head in config["heads"]
    ]
    return f"## Heads\n\n{_table(('head', 'block', 'kind', 'classes', 'labels'), rows)}"


def _blocks(head: Mapping[str, Any]) -> str:
    blocks = head["fork_block"]
    return blocks if isinstance(blocks, str) else ", ".join(blocks)


def _cut(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:MAX_LABELS])) + (", …" if len(names) > MAX_LABELS else "")


def _data(facts: Facts) -> str:
    if entry := facts.published:
        values = {**vars(entry.preprocessing), "weights": entry.name, "labels": entry.labels}
    else:
        values = {**(facts.settings.get("data") or {}), "started from": facts.settings.get("weights")}
    rows = [(key, value) for key, value in values.items() if value is not None and key not in PATHS]
    return f"## Data\n\n{_table(('', ''), rows)}" if rows else ""


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = [(key, f"{value:.4g}") for key, value in metrics.items() if isinstance(value, (int, float))]
    return f"## Metrics of the last epoch\n\n{_table(('metric', 'value'), rows)}" if rows else ""


def _table(heading: Sequence[str], rows: Rows) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join("| " + " | ".join(_escape(cell) for cell in line) + " |\n" for line in lines)


def _escape(value: object) -> str:
    """Text that stays in its place, whatever it holds."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
