"""``classy schema``: what configs can say, for editors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def schema(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the schema to this file instead of printing it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Print the JSON Schema (2020-12) of model and training configs.

    An editor that knows it completes keys and marks wrong ones. VS Code with the YAML extension
    takes it from a config's first line:

    # yaml-language-server: $schema=classy.schema.json
    """
    if output is None:
        print(_text(), end="")
        return
    from classy_vision.weights.files import check_target, replacing

    check_target(output, force=force, option="--output")
    text = _text()
    with replacing(output) as beside:
        beside.write_text(text, encoding="utf-8")


def _text() -> str:
    return json.dumps(_schema(), indent=2) + "\n"


def _schema() -> dict[str, Any]:
    """The schema of all configs, or without the packages for training, that of models."""
    from classy_vision.models.schema import config_schema, model_schema

    try:
        from classy_vision.train.config import TrainConfig
    except (
        ImportError,
        RuntimeError,
    ) as error:  # missing, or broken as a torchvision without its operators
        print(f"note: without training configs: {error}", file=sys.stderr)
        return model_schema()
    return config_schema(TrainConfig)
