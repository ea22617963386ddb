"""``classy show``: a model block by block."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from classy_vision.config import ConfigError, read_config

CLASSES = 1000
ASSUMED = f"Heads that do not say their classes are shown with {CLASSES}: see --num-classes."
FILES = (".yaml", ".yml", ".json")


def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's name, or a YAML or JSON file: a model config or a training config.",
        ),
    ],
    num_classes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Classes of heads that do not say theirs, and of the default head where there "
            "is none; 0 shows no head.",
        ),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(metavar="H[xW]", help="Height and width of the input, such as 256 or 256x192."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with exact numbers.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with exact numbers.")] = False,
) -> None:
    """Show a model block by block: shapes, parameters and multiply-adds.

    Heads stand behind the block that they read. The names in the first column are those that a
    head's fork_block and model.features take.
    """
    from rich.console import Console

    from classy_vision.cost import OnMeta, count
    from classy_vision.cost.table import dump, plain, saving, size, table
    from classy_vision.models import build_model

    source = read_model(model)
    config = with_classes(source.config, CLASSES if num_classes is None and source.is_open else num_classes)
    with OnMeta():
        built = build_model(config)
    costs = count(built.eval(), _resized(built.input_shape, input_size or source.image_size))
    data = {"model": config["name"], **plain(costs)}
    text = dump(data, data["steps"], as_json, as_csv)
    if text is not None:
        print(text)
        return
    console = Console(highlight=False)
    console.print(table(costs, f"{config['name']}, input {size(costs.input_shape)}"))
    assumed = num_classes is None and config != source.config
    for line in filter(
        None, (saving(costs), ASSUMED if assumed else "", "MACs are multiply-adds for one input.")
    ):
        console.print(line, style="dim")


@dataclass(frozen=True)
class Source:
    """What the command was given.

    Attributes:
        config: of the model.
        is_open: whether numbers of classes that it leaves out are said elsewhere, by the data.
        image_size: the input's, where it is said.
    """

    config: dict[str, Any]
    is_open: bool = False
    image_size: str | None = None


def read_model(given: str) -> Source:
    """The model that ``given`` names.

    Raises:
        ConfigError: it is neither a model's name nor a file with a model in it.
    """
    from classy_vision.models import MODELS

    path = Path(given)
    if given in MODELS or not (path.suffix in FILES or path.is_file()):
        return Source({"name": MODELS[given].name}, is_open=True)
    config = read_config(path)
    if "name" in config:
        return Source(config)
    model, data = config.get("model"), config.get("data")
    if isinstance(model, str):
        model = {"name": model}
    if not isinstance(model, dict):
        raise ConfigError(f"{given}: a model config has the key 'name', a training config the key 'model'")
    size = data.get("image_size") if isinstance(data, dict) else None
    return Source(model, is_open=True, image_size=None if size is None else str(size))


def with_classes(config: dict[str, Any], classes: int | None) -> dict[str, Any]:
    """``config`` with ``classes`` in the heads that do not say theirs, or in the default head."""
    if not classes:
        return config
    if not config.get("heads"):
        return {"num_classes": classes, **config}
    heads = [{"num_classes": classes, **head} if isinstance(head, dict) else head for head in config["heads"]]
    return {**config, "heads": heads}


def _resized(shape: tuple[int, ...], size: str | None) -> tuple[int, ...]:
    if size is None:
        return shape
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", size)
    if not match:
        raise ConfigError(f"input size {size!r}: give a height and a width, such as 256 or 256x192")
    if len(shape) < 3:
        raise ConfigError(f"input size {size!r}: the model takes inputs {shape}, not images")
    height, width = match[1], match[2] or match[1]
    return (*shape[:-2], int(height), int(width))
