"""``classy weights``: list published weights, show what is in a file, and convert files to other layouts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from pydantic_core import to_jsonable_python

from classy_vision.cli.command import HELP, Command, Group
from classy_vision.cli.options import FORMATS, OUTPUT, WORDS, ForceOption, Format, FormatOption, option
from classy_vision.config import ConfigError, system_error, unknown
from classy_vision.presets import families

if TYPE_CHECKING:
    from classy_vision.models import ClassyModel

weights = typer.Typer(
    name="weights",
    cls=Group,
    help="List, show and convert weights.",
    no_args_is_help=True,
    add_completion=False,
    context_settings=HELP,
    rich_markup_mode=None,
)


class Publisher(str, Enum):
    """Libraries that published weights."""

    TIMM = "timm"
    TORCHVISION = "torchvision"
    TRANSFORMERS = "transformers"

    @property
    def prefix(self) -> str:
        """Before the names of its weights; those for transformers are named by their repositories."""
        return "hf-hub:" if self is Publisher.TRANSFORMERS else f"{self.value}/"


Pattern = Annotated[
    str,
    typer.Argument(metavar="PATTERN", help="Names to list: with wildcards ('*clip*'), or a part of the name."),
]
Source = Annotated[
    Publisher | None, option("--source", "timm|torchvision|transformers", "List only those of this library.")
]
Preset = Annotated[str | None, option("--preset", "NAME", "List only those of this model, such as resnet50.")]
Family = Annotated[str | None, option("--family", "NAME", "List only those of this family, such as resnext.")]
MaxParams = Annotated[
    float | None, option("--max-params", "MILLIONS", "List only those of at most so many million parameters.")
]
ImageSize = Annotated[
    int | None, option("--image-size", "N", "List only those for images of this many pixels.")
]
MinTop1 = Annotated[float | None, option("--min-top1", "PERCENT", "List only those of at least this accuracy.")]
License = Annotated[
    str | None,
    option("--license", "TEXT", "List only those with this in their license; or permissive, or restricted."),
]
Data = Annotated[
    str | None,
    option("--trained-on", "TEXT", "List only those whose tag has this, such as in22k, laion2b or dinov3."),
]
Sort = Annotated[
    str | None,
    option("--sort", "COLUMN", "Print the best first by this column; '-top1' prints the worst first."),
]


@weights.command("list", cls=Command)
def list_weights(
    pattern: Pattern = "*",
    source: Source = None,
    preset: Preset = None,
    family: Family = None,
    max_params: MaxParams = None,
    image_size: ImageSize = None,
    min_top1: MinTop1 = None,
    license: License = None,
    trained_on: Data = None,
    sort: Sort = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """List published weights that load here: model, parameters, image size, accuracy, license.

    Top-1 is the accuracy in percent that their publisher states, on the classes they were trained on.
    To see more of one: classy weights show NAME
    """
    from classy_vision.text import dump, print_grid

    wanted = Wanted(family, max_params, image_size, min_top1, license, trained_on)
    rows = _sort(_choose(_find_published(pattern, source, preset), wanted), sort)
    text = dump(rows, rows, format.value)
    if text is not None:
        print(text)
    else:
        print_grid(_make_grid(rows), DISPENSABLE, "--format csv and json have them.")


def _find_published(pattern: str, source: Publisher | None, preset: str | None) -> list[dict[str, Any]]:
    from classy_vision.weights.catalogue import names, published

    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    everything = [published(name) for name in names()]
    networks = sorted({str(entry.config["name"]) for entry in everything})
    if preset is not None and preset not in networks:
        raise unknown("network of published weights", preset, networks)
    found = [
        entry
        for entry in everything
        if fnmatchcase(entry.name.lower(), wanted.lower())
        and (source is None or entry.name.startswith(source.prefix))
        and preset in (None, entry.config["name"])
    ]
    if not found:
        near = get_close_matches(pattern, [*networks, *(entry.name for entry in everything)], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no published weights have {pattern!r} in their name{hint}")
    return [
        {
            "name": entry.name,
            "network": entry.config["name"],
            "params": entry.params,
            "image_size": entry.preprocessing.image_size,
            "top1": entry.top1,
            "license": entry.license,
        }
        for entry in found
    ]


class Wanted(NamedTuple):
    """What rows are listed for; None asks for nothing."""

    family: str | None
    max_params: float | None
    image_size: int | None
    min_top1: float | None
    license: str | None
    trained_on: str | None


def _choose(rows: list[dict[str, Any]], wanted: Wanted) -> list[dict[str, Any]]:
    known = families()
    if wanted.family is not None and wanted.family not in known:
        raise unknown("family", wanted.family, known)
    of_family = {wanted.family, *known.get(wanted.family or "", ())}
    keep: dict[str, Callable[[dict[str, Any], Any], bool]] = {
        "family": lambda row, _: row["network"] in of_family,
        "max_params": lambda row, most: row["params"] <= 1e6 * most,
        "image_size": lambda row, size: row["image_size"] == size,
        "min_top1": lambda row, least: row["top1"] is not None and row["top1"] >= least,
        "license": lambda row, text: _has_license(row["license"], text.lower()),
        "trained_on": lambda row, text: text.lower() in row["name"].partition(".")[2].lower(),
    }
    asked = {name: value for name, value in wanted._asdict().items() if value is not None}
    found = [row for row in rows if all(keep[name](row, value) for name, value in asked.items())]
    if not found:
        options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in asked.items())
        raise ConfigError(f"none of {len(rows)} published weights have all of this: {options}")
    return found


def _has_license(license: str | None, wanted: str) -> bool:
    from classy_vision.weights.licenses import find_restriction

    if wanted in ("permissive", "restricted"):
        return (find_restriction(license) is None) is (wanted == "permissive")
    return wanted in (license or "").lower()


def _sort(rows: list[dict[str, Any]], column: str | None) -> list[dict[str, Any]]:
    """Orders rows, the best first; those without a value come last."""
    if column is None:
        return rows
    name = column.removeprefix("-")
    if name not in HEADINGS:
        raise unknown("column", name, HEADINGS, "--sort")
    there = [row for row in rows if row[name] is not None]
    ordered = sorted(there, key=lambda row: row[name], reverse=(name == "top1") != column.startswith("-"))
    return [*ordered, *(row for row in rows if row[name] is None)]


HEADINGS = {
    "name": "name",
    "network": "network",
    "params": "params",
    "image_size": "px",
    "top1": "top-1",
    "license": "license",
}
DISPENSABLE = ("network", "license", "image_size")
"""The columns that a narrow terminal leaves out, first to last; names, which people copy, stay whole."""


def _make_grid(rows: list[dict[str, Any]]) -> Any:
    from classy_vision.text import Grid, human

    lines = [
        {
            **row,
            "params": human(row["params"]),
            "image_size": str(row["image_size"]),
            "top1": "" if row["top1"] is None else f"{row['top1']:.1f}",
            "license": row["license"] or "not stated",
        }
        for row in rows
    ]
    return Grid(HEADINGS, lines, ("name", "network", "license"))


# -- show


Shown = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS",
        help="Published weights, a file of weights, a run folder, a folder of save_pretrained, or "
        "hf-hub:OWNER/NAME.",
    ),
]
ShowFormat = Annotated[Format, option("--format", FORMATS, "Print lines, JSON or CSV.", OUTPUT)]


@weights.command(cls=Command)
def show(source: Shown, format: ShowFormat = Format.TABLE) -> None:
    """Show what is known of published weights, or what a file of weights holds.

    Of a file these are its layouts, and the config of a model with exactly its tensors.
    """
    from classy_vision.resolve import TRAINED, Kind, resolve
    from classy_vision.text import dump

    word = resolve(source, TRAINED, "classy weights show")
    if word.path is not None and word.path.suffix in (".onnx", ".pt2"):
        resolve(source, TRAINED - {Kind.EXPORTED}, "classy weights show")
    facts = _describe_name(source) if word.kind is Kind.PUBLISHED else _describe_file(source)
    row = {key: json.dumps(v) if isinstance(v, Mapping) else v for key, v in facts.items()}
    print(dump(facts, [row], format.value) or _write_facts(facts))


def _describe_name(name: str) -> dict[str, Any]:
    from classy_vision.weights.catalogue import published
    from classy_vision.weights.licenses import find_restriction

    entry = published(name)
    facts = {**asdict(entry), "config": dict(entry.config), "place": entry.address}
    facts["restriction"] = find_restriction(entry.license)
    facts["preprocessing"] = {key: value for key, value in facts["preprocessing"].items() if value is not None}
    return {key: facts[key] for key in _FACTS}


_FACTS = (
    *("name", "params", "outputs", "labels", "top1", "license", "restriction", "place"),
    *("preprocessing", "config"),
)


def _describe_file(source: str) -> dict[str, Any]:
    from classy_vision.identify.identify import examine
    from classy_vision.trunk.loading import find_source
    from classy_vision.weights.classy_vision import flatten
    from classy_vision.weights.files import read_tensors

    state = flatten(read_tensors(find_source(source)))
    found = examine(state)
    return {
        "file": source,
        "tensors": len(state),
        "params": _count_params(found.config),
        "family": found.family,
        "layouts": list(found.layouts),
        "preset": found.config["name"] if found.is_preset else None,
        "not visible in a file": list(found.unseen),
        "config": found.config,
    }


def _count_params(config: Mapping[str, Any]) -> int:
    """Counts the parameters of a model, without the statistics of norms."""
    from classy_vision.cost import OnMeta
    from classy_vision.models import build_model

    with OnMeta():
        return sum(p.numel() for p in build_model(config).parameters())


def _write_facts(facts: Mapping[str, Any]) -> str:
    """Writes lines "key: value", and blocks of YAML for values with parts."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"{key}:", *(f"  {line}" for k, v in value.items() for line in _write_yaml(k, v))]
            continue
        shown = f"{value:,}" if isinstance(value, int) else value
        shown = ", ".join(value) if isinstance(value, list) else shown
        lines.append(f"{key}: {_MISSING.get(key, 'not known') if value is None else shown}")
    return "\n".join(lines)


_MISSING = {"preset": "none", "restriction": "none"}


def _write_yaml(key: str, value: Any) -> list[str]:
    import yaml

    text = yaml.safe_dump(to_jsonable_python(value), sort_keys=False, default_flow_style=True, width=72)
    return f"{key}: {text.removesuffix('...' + chr(10))}".splitlines()


# -- convert


WRITTEN = (".safetensors", ".npz")
In = Annotated[str, typer.Argument(metavar="IN", help="A file of weights, or a published name.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="A .safetensors or .npz file to write.")]
_TO = "Write the key names of this library: native, classy_vision, timm, torchvision and others."
To = Annotated[str, option("--to", "LAYOUT", _TO)]
_FOUND = "found from the names and shapes of the tensors"
Model = Annotated[
    str | None, option("--model", "MODEL", f"The model that the weights are for: {WORDS}.", show_default=_FOUND)
]


@weights.command(cls=Command)
def convert(source: In, target: Out, to: To, model: Model = None, force: ForceOption = False) -> None:
    """Write weights in the layout of another library, and check them by reading them back."""
    import torch

    from classy_vision.atomic import check_target
    from classy_vision.identify.networks import find_network_of
    from classy_vision.models import build_model, load_weights
    from classy_vision.trunk.loading import find_source
    from classy_vision.trunk.saving import check_layout
    from classy_vision.weights.catalogue import is_published
    from classy_vision.weights.files import read_tensors

    target = Path(os.path.expanduser(target))
    check_target(target, WRITTEN, force=force)
    _check_known(to)
    state = read_tensors(find_source(source))
    config = find_network_of(state, model or (source if is_published(source) else None), "--model")
    with torch.device("meta"):
        original, copy = build_model(config), build_model(config)
    check_layout(type(original), to)
    for network in (original, copy):
        network.to(_find_dtype(state))
    report = load_weights(original, state)
    _write(original, copy, target, to)
    print(f"{target}: {len(report.loaded)} tensors of {config['name']}, {report.layout} to {to}")
    for reason in dict.fromkeys(report.dropped.values()):
        left = [key for key, why in report.dropped.items() if why == reason]
        print(f"left out, {reason}: {', '.join(left)}")


def _write(original: ClassyModel, copy: ClassyModel, target: Path, layout: str) -> None:
    """Writes the weights of ``original``, and reads them into ``copy`` before the file is in its place."""
    from classy_vision.models import load_weights
    from classy_vision.trunk.saving import save_weights

    beside = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        save_weights(original, beside, layout=layout)
        load_weights(copy, beside, layout=layout)
        _check_equal(original.state_dict(), copy.state_dict())
        os.replace(beside, target)
    except OSError as error:
        raise system_error(error, f"cannot write {str(target)!r}") from None
    finally:
        beside.unlink(missing_ok=True)


def _check_known(layout: str) -> None:
    """Raises an UnknownNameError if no family has such a layout."""
    from classy_vision.models import MODELS
    from classy_vision.weights.layout import OURS

    known = dict.fromkeys([*OURS, *(name for entry in MODELS for name in entry.cls.layouts)])
    if layout not in known:
        raise unknown("layout", layout, known, "--to")


def _find_dtype(state: Mapping[str, Any]) -> Any:
    """Returns the type of the numbers in a file; float32 where there are several."""
    import torch

    from classy_vision.weights.classy_vision import flatten

    tensors = [value for value in flatten(state).values() if isinstance(value, torch.Tensor)]
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 else torch.float32


def _check_equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    import torch

    odd = [key for key in ours if not torch.equal(ours[key], theirs[key]) and "num_batches" not in key]
    if odd:
        raise ConfigError(f"the written file does not hold the same numbers: {', '.join(odd[:3])}")
