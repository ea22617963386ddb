"""ONNX files: torch writes them, and ONNX Runtime runs them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.data.files import count_processors
from classy_vision.engines import onnxruntime
from classy_vision.export.formats import Loaded, Request, check_packages
from classy_vision.export.metadata import INPUT, KEY, parse_metadata

AXES = ("batch", "height", "width")
"""The names of the sizes that can be free."""


def save(request: Request, path: Path) -> None:
    """Writes the model with its metadata, and checks the file.

    Raises:
        ConfigError: a package is missing, the weights are too large for one file, the model
            cannot be traced, or has an operator that ONNX lacks.
    """
    check_packages("ONNX files", "onnx", *onnxruntime.OnnxRuntime.packages)
    import onnx

    onnxruntime.check_bytes(request.model)
    model = _translate(request)
    if request.int8 is not None:
        from classy_vision.export.int8 import quantize_onnx

        model = quantize_onnx(model, request)
    for part in (model.graph, *model.graph.node):
        del part.metadata_props[:]  # names and lines of our code
    onnx.helper.set_model_props(model, {KEY: request.metadata.dump()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def load(path: Path, trust: bool) -> Loaded:
    """Opens a session on the CPU.

    Raises:
        ConfigError: ONNX Runtime is missing, or the file is from another tool.
        Exception: it is damaged.
    """
    check_packages("ONNX files", "onnx", "onnxruntime")
    try:
        compiled = onnxruntime.OnnxRuntime(path.read_bytes(), count_processors())
    except Exception as error:  # of many kinds, which only the library defines
        if "external" not in str(error).lower():
            raise
        raise ConfigError(f"{str(path)!r} keeps weights in other files: save it as one file") from None
    session = compiled.session
    metadata = parse_metadata(session.get_modelmeta().custom_metadata_map.get(KEY), str(path))
    names = [[value.name for value in values] for values in (session.get_inputs(), session.get_outputs())]
    if names != [[INPUT], [*metadata.outputs]]:
        raise ValueError("its inputs and outputs are not those of its metadata")
    return metadata, compiled


def _translate(request: Request) -> Any:
    """Converts the model to ONNX."""
    from classy_vision.export.exported_program import trace

    heads = list(request.metadata.outputs)
    if INPUT in heads:
        raise ConfigError(
            f"a head is called {INPUT!r}, which is the name of the input in ONNX files: rename the head"
        )
    outputs = [f"classy_vision.head.{i}" for i in range(len(heads))]  # a head may have an inner value's name
    shape = request.metadata.input_shape
    sizes = dict(zip((0, len(shape) - 2, len(shape) - 1), AXES)) if len(shape) > 3 else {0: AXES[0]}
    free = {axis: name for axis, name in sizes.items() if shape[axis] is None}
    model = onnxruntime.convert(
        trace(request), input_names=[INPUT], output_names=outputs, dynamic_shapes=(free,)
    )
    _rename(model.graph, {**{head: f"{head}.inner" for head in heads}, **dict(zip(outputs, heads))})
    return model


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Renames values wherever they are written or read."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for entry in (*graph.initializer, *graph.value_info, *graph.output):
        entry.name = names.get(entry.name, entry.name)
