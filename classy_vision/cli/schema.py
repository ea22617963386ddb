"""``classy schema``: the JSON Schema of configs, for editors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from classy_vision.cli.options import ForceOption, option

_OUTPUT = "Write the schema to this file instead of printing it."
Output = Annotated[Path | None, option("--output -o", "FILE", _OUTPUT)]


def schema(output: Output = None, force: ForceOption = False) -> None:
    """Print the JSON Schema (2020-12) of model and training configs.

    An editor that has it completes keys and marks wrong ones. VS Code with the YAML extension
    reads where it is from the first line of a config:

    # yaml-language-server: $schema=classy.schema.json
    """
    if output is None:
        print(_write_text(), end="")
        return
    from classy_vision.atomic import check_target, replacing

    check_target(output, force=force, option="--output")
    text = _write_text()
    with replacing(output) as beside:
        beside.write_text(text, encoding="utf-8")


def _write_text() -> str:
    return json.dumps(_make_schema(), indent=2) + "\n"


def _make_schema() -> dict[str, Any]:
    """Makes the schema of all configs, or without the packages for training, that of models."""
    from classy_vision.models.schema import config_schema, model_schema

    try:
        from classy_vision.train.config import TrainConfig
    except (ImportError, RuntimeError) as error:  # missing, or broken as a torchvision without its operators
        print(f"note: without training configs: {error}", file=sys.stderr)
        return model_schema()
    return config_schema(TrainConfig)
