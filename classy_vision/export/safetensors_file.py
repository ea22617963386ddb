"""Weights in a ``.safetensors`` file; its header has the config that builds the network."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from classy_vision.config import ConfigError
from classy_vision.engines.plain import Plain
from classy_vision.export.formats import Loaded, Request
from classy_vision.export.metadata import KEY, parse_metadata
from classy_vision.models.classy_model import build_model
from classy_vision.untrusted import check_values
from classy_vision.weights.files import write_tensors


def save(request: Request, path: Path) -> None:
    """Writes the weights, and the metadata with the network's config.

    Raises:
        ConfigError: the model has no config.
    """
    if request.metadata.model is None:
        raise ConfigError(
            f"{type(request.model).__name__} has no config to write with its weights; a model from "
            f"build_model has one"
        )
    header = {"format": "pt", KEY: request.metadata.dump()}
    write_tensors(path, request.model.state_dict(), header)


def load(path: Path, trust: bool) -> Loaded:
    """Builds the network again.

    Raises:
        ConfigError: the file is from another tool, or its config builds no model.
        SafetensorError: it is damaged.
    """
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(KEY)
    metadata = parse_metadata(text, str(path))
    if metadata.model is None:
        raise ConfigError(f"{str(path)!r} does not describe its network")
    check_values(metadata.model, str(path))
    model = build_model(metadata.model, weights={"source": path, "skip_heads": ()}).eval()
    return metadata, Plain(model)
