"""A page per family, made from the registry, the configs, the presets and their costs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.cost import Costs, StepCost, count
from classy_vision.models.schema import MODEL_KEYS
from classy_vision.text import human, size
from classy_vision.trunk.trunk import END, ModelConfig

from .families import CLASSES, Family, families, outline
from .fields import definitions, fields
from .markdown import code, codes, fence, paragraphs, table

FEW = 4
"""Blocks of a stage that a table shows one by one."""
WIDE = 140
"""Characters of preset values that a table has room for."""


def names() -> list[str]:
    """The file names of the index and of every family's page."""
    return ["index.md", *(f"{name}.md" for name in families())]


def page(file: str) -> str:
    """The Markdown of a page."""
    every = families()
    return _index(every) if file == "index.md" else _page(every[file.removesuffix(".md")], definitions())


def _index(every: Mapping[str, Family]) -> str:
    rows = [
        (f"[{f.title}]({name}.md)", paragraphs(f.entry.cls)[0], str(len(f.presets) or ""), _range(f))
        for name, f in every.items()
    ]
    return "\n\n".join(
        [
            "# Families",
            "`build_model` and configs take the name of a family, with values of your own, or of a preset, "
            f"which is a row of values. There are {sum(len(f.presets) for f in every.values())} presets; "
            "`classy list` shows them with their costs.",
            table(("family", "what it is", "presets:", "parameters:"), rows),
            fence("{toctree}", ":hidden:\n\n" + "\n".join(every)),
        ]
    )


def _range(family: Family) -> str:
    sizes = sorted(costs["params"] for costs in family.costs.values())
    return f"{human(sizes[0])} – {human(sizes[-1])}" if sizes else "any"


def _page(family: Family, defs: Mapping[str, Any]) -> str:
    parts = [f"# {family.title}", *family.about]
    if family.example:
        parts += ["## Heads and features", *_heads(family), "## Blocks", *_blocks(family)]
    if family.presets:
        parts += ["## Presets", *_presets(family)]
    parts += ["## Config", *_config(family, defs), "## Class"]
    parts += [fence("{eval-rst}", _autoclass(entry.cls)) for entry in family.entries]
    return "\n\n".join(parts) + "\n"


def _autoclass(cls: type[Any]) -> str:
    return f".. autoclass:: {cls.__module__.removesuffix('.model')}.{cls.__qualname__}"


# -- an example with two heads


def _heads(family: Family) -> list[str]:
    assert family.example
    block = _early(family.example)
    end = family.entry.cls.default_head(outline({**family.example, "heads": []}).config)
    heads = [
        {"name": "fully_connected", "num_classes": 2, "unique_id": "early", "fork_block": block},
        {"name": end["name"], "num_classes": 10, "unique_id": "end", "fork_block": END},
    ]
    model = outline({**family.example, "heads": heads})
    shape = (1, *model.input_shape)
    feature = model.feature_info([block])[block]
    lines = [
        "import torch",
        "from classy_vision.models import build_model",
        "",
        f"model = build_model({_literal({**family.example, 'heads': heads})})",
        f"x = torch.randn{shape}",
        'model(x)  # {"early": (1, 2), "end": (1, 10)}',
        f"model.features(x, [{json.dumps(block)}])  # {{{json.dumps(block)}: {(1, *feature.shape)}}}",
    ]
    text = (
        f"One head halfway, on `{block}`, and one at the end, of the kind that `num_classes` stands for "
        f"in this family. `in_plane` is left out: a head takes the channels of its block."
    )
    return [text, fence("python", "\n".join(lines))]


def _early(example: Mapping[str, Any]) -> str:
    """A block halfway, the end of a stage where there are stages."""
    model = outline({**example, "heads": []})
    steps = [step for step in count(model).steps if step.name in model.blocks]
    steps = steps[:-2] or steps
    names = [step.aliases[0] for step in steps if step.aliases] or [step.name for step in steps]
    return names[len(names) // 2]


def _literal(config: Mapping[str, Any]) -> str:
    """``config`` as Python, a line per entry."""
    lines = ["{"]
    for key, value in config.items():
        if key == "heads":
            lines += ['    "heads": [', *map(_head_literal, value), "    ],"]
        else:
            lines.append(f"    {json.dumps(key)}: {json.dumps(value)},")
    return "\n".join([*lines, "}"])


def _head_literal(head: Mapping[str, Any]) -> str:
    """On two lines, since a page is not wide."""
    first, second = (json.dumps({k: head[k] for k in keys}) for keys in (list(head)[:2], list(head)[2:]))
    return f"        {first[:-1]},\n         {second[1:]},"


# -- blocks, presets, config


def _blocks(family: Family) -> list[str]:
    assert family.example
    costs = count(outline({**family.example, "heads": []}))
    of = code(family.example["name"]) if family.presets else "the model above"
    text = (
        f"Those of {of}, for an input of {size(costs.input_shape)}. A head's `fork_block` and "
        f"`model.features` take any of these names; the first column is also what the state dict has."
    )
    headings = ("block", "also called", "output:", "stride:", "params:", "MACs:")
    return [text, table(headings, _shortened(costs))]


def _shortened(costs: Costs) -> list[tuple[str, ...]]:
    """A row per step; of a long stage, the first and the last."""
    stages: list[list[StepCost]] = []
    for step in costs.steps:
        if stages and _stage(stages[-1][-1].name) == _stage(step.name):
            stages[-1].append(step)
        else:
            stages.append([step])
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        if len(stage) > FEW:
            rows += [_step(stage[0]), (f"… {len(stage) - 2} more", "", "", "", "", ""), _step(stage[-1])]
        else:
            rows += map(_step, stage)
    return rows


def _stage(name: str) -> str:
    return re.sub(r"\d+$", "", name)


def _step(step: StepCost) -> tuple[str, ...]:
    stride = str(step.stride or "")
    return code(step.name), codes(step.aliases), size(step.shape), stride, human(step.params), human(step.macs)


def _presets(family: Family) -> list[str]:
    shared = {k: v for k, v in next(iter(family.presets.values())).items() if _all_have(family, k, v)}
    cells = {
        preset: ", ".join(f"{k}={v}" for k, v in values.items() if k not in shared)
        for preset, values in family.presets.items()
    }
    room = all(len(cell) <= WIDE for cell in cells.values())
    rows = [
        (
            code(preset),
            f"{costs['params'] / 1e6:.2f}",
            f"{costs['macs'] / 1e9:.2f}",
            size(costs["input_shape"]),
            *([code(cells[preset]) if cells[preset] else ""] if room else ()),
        )
        for preset, costs in family.costs.items()
    ]
    headings = ("name", "M params:", "GMACs:", "input:", *(("values",) if room else ()))
    first = next(iter(family.presets))
    text = (
        f"Parameters and multiply-adds are those of the trunk and its default head for {CLASSES} classes. "
        f"`MODELS[{first!r}].preset` gives a preset's values, `classy show {first}` its blocks; "
        f"every value can be replaced: `build_model({first!r}, in_channels=1)`."
    )
    more = f"All have {code(', '.join(f'{k}={v}' for k, v in shared.items()))}." if shared and room else ""
    return [text, *([more] if more else []), table(headings, rows)]


def _all_have(family: Family, key: str, value: Any) -> bool:
    return all(key in values and values[key] == value for values in family.presets.values())


def _config(family: Family, defs: Mapping[str, Any]) -> list[str]:
    shared = list(ModelConfig.model_fields)
    leave = [*MODEL_KEYS, *(key for key in shared if not _takes(family, key))]
    parts = [
        'Keys of a config with `"name"`: '
        + " or ".join(code(json.dumps(entry.name)) for entry in family.entries)
        + (", or of a preset" if family.presets else "")
        + ". The keys `heads` and `num_classes` go with every family: see [Configs](../configs.md).",
        fields(defs[f"model.{family.name}"], defs, leave, shared),
    ]
    for entry in family.others:
        parts += [f"`{entry.name}`: {text}" for text in paragraphs(entry.cls.config_class)[:1]]
    return parts


def _takes(family: Family, key: str) -> bool:
    """Whether the family minds a key that all of them have."""
    config = family.entry.cls.config_class
    values = next(iter(family.presets.values()), family.example or {})
    given = {k: v for k, v in values.items() if k in config.model_fields}
    try:
        config.parse({**given, key: config.model_fields[key].default})
    except ConfigError:
        return not given
    return True
