"""The card of a model: what it is, what it costs, what it learned, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.cost.count import count
from classy_vision.hub.load import read_json
from classy_vision.hub.use import published_of, run_settings
from classy_vision.models.classy_model import ClassyModel
from classy_vision.text import human, size
from classy_vision.weights.catalogue import Published

LIBRARY = "classy-vision-models"
MAX_LABELS = 20
Rows = Iterable[Sequence[object]]


def card(
    model: ClassyModel,
    config: Mapping[str, Any],
    name: str,
    *,
    licence: str | None = None,
    run: str | Path | None = None,
) -> str:
    """A model card in Markdown, with the front matter that the hub reads.

    Args:
        model: its heads and costs are shown.
        config: that of the folder: what ``describe`` says of it, and what it takes to use it.
        name: what ``from_pretrained`` takes to load it.
        licence: of the weights; by default that of the published ones they are.
        run: the run folder it comes from: its data, classes and metrics are shown.

    Raises:
        ConfigError: ``run`` is no run folder.
    """
    entry = published_of(model)
    settings = run_settings(run)
    licence = licence or (entry.licence if entry else None)
    parts = [
        _front_matter(model, config, licence, entry),
        f"# {_cell(name.rpartition('/')[2])}\n",
        _summary(model, config),
        _heads(config),
        _data(settings, entry),
        _metrics(run),
        f"## Licence\n\n{_cell(licence) if licence else 'Not stated.'}\n",
        _use(name),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(
    model: ClassyModel, config: Mapping[str, Any], licence: str | None, entry: Published | None
) -> str:
    import yaml

    task = "video-classification" if len(model.input_shape) == 4 else "image-classification"
    classifies = any(head.get("num_classes") for head in config["heads"])
    data = {
        "library_name": LIBRARY,
        "pipeline_tag": task if classifies else "image-feature-extraction",
        "license": licence,
        "base_model": entry.place if entry and "/" in entry.place else None,
        "tags": [LIBRARY, config["name"]],
    }
    data = {key: value for key, value in data.items() if value is not None}
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _summary(model: ClassyModel, config: Mapping[str, Any]) -> str:
    rows: list[tuple[str, object]] = [("family", config["name"])]
    try:
        costs = count(model)
        rows += [("parameters", f"{human(costs.params)} ({costs.params:,})")]
        rows += [("multiply-adds", f"{human(costs.macs)}, for one input of {size(costs.input_shape)}")]
    except ConfigError:  # a model that takes no such input
        rows += [("parameters", f"{sum(p.numel() for p in model.parameters()):,}")]
    return _table(("model", ""), rows)


def _heads(config: Mapping[str, Any]) -> str:
    if not config["heads"]:
        return "## Heads\n\nNone: the output is the feature at the end of the trunk.\n"
    tasks = config.get("tasks") or {}
    rows = []
    for head in config["heads"]:
        names = (tasks.get(head["unique_id"]) or {}).get("classes")
        rows.append(
            (head["unique_id"], head["fork_block"], head["name"], head.get("num_classes", ""), _short(names))
        )
    return f"## Heads\n\n{_table(('head', 'block', 'kind', 'classes', 'labels'), rows)}"


def _short(names: Sequence[str] | None) -> str:
    shown = ", ".join(map(str, (names or ())[:MAX_LABELS]))
    return f"{shown}, …" if names and len(names) > MAX_LABELS else shown


def _data(settings: Mapping[str, Any], entry: Published | None) -> str:
    if entry:
        values = {**vars(entry.preprocessing), "weights": entry.name, "labels": entry.labels}
    else:
        values = {**(settings.get("data") or {}), "started from": settings.get("weights")}
    hidden = ("root", "file", "images")  # paths of the machine that trained it
    rows = [(key, value) for key, value in values.items() if value is not None and key not in hidden]
    return f"## Data\n\n{_table(('', ''), rows)}" if rows else ""


def _metrics(run: str | Path | None) -> str:
    found = read_json(Path(run) / "metrics.json") if run else None
    final = found.get("final") if isinstance(found, dict) else None
    if not isinstance(final, dict):
        return ""
    rows = [(key, f"{value:.4g}") for key, value in final.items() if isinstance(value, (int, float))]
    return f"## Metrics of the last epoch\n\n{_table(('metric', 'value'), rows)}"


def _use(name: str) -> str:
    return (
        f"## Use\n\n```python\nfrom classy_vision.models import ClassyModel\n\n"
        f"model = ClassyModel.from_pretrained({name!r}).eval()\n```\n"
    )


def _table(heading: Sequence[str], rows: Rows) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(value: object) -> str:
    """Text that stays in its place, whatever it holds."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
