"""OpenVINO's IR: a graph in an ``.xml`` file, and the weights in a ``.bin`` file beside it."""

from __future__ import annotations

import re
from pathlib import Path

from classy_vision.config import ConfigError
from classy_vision.data.files import count_processors, hash_file
from classy_vision.engines import openvino
from classy_vision.engines.archive import map_file
from classy_vision.engines.openvino_package import load_openvino
from classy_vision.export.formats import Loaded, Request, check_packages
from classy_vision.export.metadata import INPUT, KEY, parse_metadata

WEIGHTS = f"{KEY}_weights"
"""Under which the digest of the weights stands in the graph: a graph fits its own weights alone."""
UNKNOWN = "0" * 64
"""Stands for the digest until the weights are written."""


def save(request: Request, path: Path) -> None:
    """Writes both files.

    Raises:
        ConfigError: OpenVINO is missing, or has no operator for a step of the model.
    """
    check_packages("OpenVINO's files", "openvino", "openvino")
    ov = load_openvino()
    from classy_vision.engines.openvino_graph import convert
    from classy_vision.export.exported_program import trace

    model = convert(trace(request))
    openvino.reshape(model, request.metadata.input_shape)
    model.inputs[0].get_tensor().set_names({INPUT})
    for name, output in zip(request.metadata.outputs, model.outputs, strict=True):
        output.get_tensor().set_names({name})
    if request.int8 is not None:
        from classy_vision.export.int8 import quantize_openvino

        model = quantize_openvino(model, request)
    model.set_rt_info(request.metadata.dump(), [KEY])
    model.set_rt_info(UNKNOWN, [WEIGHTS])
    ov.save_model(model, path, compress_to_fp16=request.metadata.precision == "float16")
    digest = hash_file(path.with_suffix(".bin"))
    path.write_text(path.read_text().replace(UNKNOWN, digest, 1))


def load(path: Path, trust: bool) -> Loaded:
    """Reads the graph and its weights.

    Raises:
        ConfigError: OpenVINO is missing, the weights are missing or others, or another tool wrote it.
        ValueError: a file is damaged.
    """
    check_packages("OpenVINO's files", "openvino", "openvino")
    _check_weights(path)
    model = openvino.read(path.read_text("utf-8"), map_file(path.with_suffix(".bin")))
    text = str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None
    metadata = parse_metadata(text, str(path))
    inputs, outputs = ([value.get_names() for value in values] for values in (model.inputs, model.outputs))
    fits = len(outputs) == len(metadata.outputs) and all(map(set.__contains__, outputs, metadata.outputs))
    if not fits or inputs != [{INPUT}]:
        raise ValueError("its inputs and outputs are not those of its metadata")
    dtype = metadata.precision if metadata.precision in openvino.PRECISIONS else "float32"
    return metadata, openvino.OpenVINO(model, count_processors(), dtype)


def _check_weights(path: Path) -> None:
    """Checks that the weights are those of the graph, before OpenVINO parses either.

    Raises:
        ConfigError: the graph does not name its weights, or they are missing or others.
    """
    weights = path.with_suffix(".bin")
    found = re.search(rb'<%s value="([0-9a-f]{64})"' % WEIGHTS.encode(), path.read_bytes())
    if not found:
        raise ConfigError(f"{str(path)!r} has no metadata of classy export: another tool wrote it")
    if not weights.is_file():
        raise ConfigError(f"{str(path)!r} has no weights: {weights.name!r} is missing beside it")
    if hash_file(weights) != found.group(1).decode():
        raise ConfigError(f"{str(path)!r} is damaged: the weights beside it are not its own")
