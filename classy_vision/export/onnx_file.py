"""ONNX files: torch writes them, and ONNX Runtime runs them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, first_line
from classy_vision.data.files import count_processors
from classy_vision.engines import onnxruntime
from classy_vision.export.formats import Loaded, Request, check_packages
from classy_vision.export.metadata import INPUT, KEY, parse_metadata

AXES = {4: ("batch", None, "height", "width"), 5: ("batch", None, "time", "height", "width")}
"""The names of free sizes."""


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

        model = quantize_onnx(model, request, path)
    _name_sizes(model, request)
    onnx.helper.set_model_props(model, {KEY: request.metadata.dump()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def load(path: Path, trust: bool) -> Loaded:
    """Opens a session on the CPU.

    Raises:
        ConfigError: ONNX Runtime is missing, or the file is damaged or from another tool.
    """
    check_packages("ONNX files", "onnx", "onnxruntime")
    try:
        compiled = onnxruntime.OnnxRuntime(path.read_bytes(), count_processors())
        text = compiled.session.get_modelmeta().custom_metadata_map.get(KEY)
    except Exception as error:  # of many kinds, which only the library defines
        if "external" in str(error).lower():
            raise ConfigError(f"{str(path)!r} keeps weights in other files: save it as one file") from None
        raise ConfigError(f"{str(path)!r} is damaged or not an ONNX file: {first_line(error)}") from None
    metadata = parse_metadata(text, str(path))
    outputs = [output.name for output in compiled.session.get_outputs()]
    if [entry.name for entry in compiled.session.get_inputs()] != [INPUT] or outputs != list(metadata.outputs):
        raise ConfigError(f"{str(path)!r} is damaged: its inputs and outputs are not those of its metadata")
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
    model = onnxruntime.convert(trace(request), input_names=[INPUT], output_names=outputs)
    _rename(model.graph, {**{head: f"{head}.inner" for head in heads}, **dict(zip(outputs, heads))})
    return model


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Renames values wherever they are written or read."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for entry in (*graph.initializer, *graph.value_info, *graph.output):
        entry.name = names.get(entry.name, entry.name)


def _name_sizes(model: Any, request: Request) -> None:
    """Names the free sizes "batch", "height" and "width", which torch only numbers."""
    (images,) = model.graph.input
    sizes = images.type.tensor_type.shape.dim
    names = AXES.get(len(sizes), ("batch",))
    new = {size.dim_param: name for size, name in zip(sizes, names) if size.dim_param and name}
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = new.get(size.dim_param, size.dim_param)
    del model.graph.value_info[:]  # in terms of the old symbols; readers infer them again
    for node in model.graph.node:
        del node.metadata_props[:]  # names and lines of our code
    del model.graph.metadata_props[:]
