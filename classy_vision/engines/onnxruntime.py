"""ONNX Runtime: the program as an ONNX graph, run by its kernels for processors."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classy_vision.config import ConfigError
from classy_vision.engines.compiled import Compiled, Files

if TYPE_CHECKING:
    import torch
    from torch import nn

    from classy_vision.engines.program import Program

Weights = Mapping[str, Any]
"""Arrays of numpy by name."""
MAX_BYTES = 2**31 - 2**20
"""Of weights: a message of protobuf is shorter than 2 GB."""
OPSET = 18
DTYPES = {"F32": np.float32, "I64": np.int64}
"""By their names in safetensors: of weights in float32."""


class OnnxRuntime(Compiled):
    """A session of ONNX Runtime.

    Args:
        model: an ONNX file.
        threads: of the processor, for one call.
        weights: the initializers by name that the file names as external data.
    """

    name = "onnxruntime"
    extra = "onnx"
    packages = ("onnxruntime", "onnx", "onnxscript")
    takes_export = True

    def __init__(self, model: bytes, threads: int, weights: Weights | None = None) -> None:
        self._model, self._weights = model, weights or {}
        self.workers = threads
        self.session = open_session(model, threads, self._weights)
        self._input = self.session.get_inputs()[0].name

    @classmethod
    def compile(cls, program: Program) -> OnnxRuntime:
        """Converts a program and opens a session.

        Raises:
            ConfigError: the dtype is not float32, or the weights do not fit into one file.
        """
        import torch

        if program.dtype != "float32":
            raise ConfigError(f"ONNX Runtime has no convolutions in {program.dtype} for processors")
        check_bytes(program.module)
        larger = torch.cat([program.example, program.example[:1]])
        # Tracing sees neither branches that depend on data nor sizes of the batch that a model keeps: the
        # export refuses those, and a larger batch shows these.
        exported = program.exported
        with suppress(Exception):  # whatever the deprecated converter stumbles over
            traced = cls(*convert_trace(program))
            if all(len(output) == len(larger) for output in traced.run(larger.numpy(force=True))):
                return traced
        return cls(convert(exported).SerializeToString(), program.threads)

    @classmethod
    def load(cls, files: Files, **options: Any) -> OnnxRuntime:
        """Loads the files that ``save`` wrote; weights stay where they are."""
        weights = read_weights(files["safetensors"]) if "safetensors" in files else None
        return cls(bytes(files["onnx"]), options["threads"], weights)

    def run(self, images: Any) -> list[Any]:
        outputs: list[Any] = self.session.run(None, {self._input: images})
        return outputs

    def start(self, images: Any) -> Callable[[], list[Any]]:
        session, pool = self._single
        return pool.submit(session.run, None, {self._input: images}).result

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        path.with_suffix(".onnx").write_bytes(self._model)
        if self._weights:
            save_file({**self._weights}, path.with_suffix(".safetensors"))

    @cached_property
    def _single(self) -> tuple[Any, ThreadPoolExecutor]:
        """A session of one thread, and threads that call it: many samples are done faster side by side."""
        session = self.session if self.workers == 1 else open_session(self._model, 1, self._weights)
        return session, ThreadPoolExecutor(self.workers)


def open_session(model: bytes, threads: int, weights: Weights) -> Any:
    """Returns a session on the processor, which has no operators but ONNX Runtime's own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it would print, it raises too
    # Weights in other files would be looked for in the working directory. No file is within this one.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", f"{os.devnull}/external"
    )
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
    options.add_external_initializers([*weights], values)
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def convert_trace(program: Program) -> tuple[bytes, int, Weights]:
    """Returns what ``OnnxRuntime`` takes for a program with any batch size, by torch.jit.trace.

    This converter is deprecated in favour of ``convert``. It is four to ten times as fast, and what it
    gives runs equally fast. The weights stay out of the file: no step copies them.
    """
    import onnx
    import torch

    file: Any = io.BytesIO()  # torch's annotation has paths alone
    options: dict[str, Any] = {"input_names": ["images"], "opset_version": OPSET, "dynamo": False}
    options |= {"dynamic_axes": {"images": {0: "batch"}}, "do_constant_folding": False, "export_params": False}
    with silence(), torch.no_grad():
        torch.onnx.export(program.module, (program.example,), file, **options)
    model = onnx.load_from_string(file.getvalue())
    graph, tensors = model.graph, program.module.state_dict()
    weights = {value.name: tensors[value.name].numpy() for value in graph.input[1:]}
    for value in graph.input[1:]:
        tensor = graph.initializer.add(name=value.name, data_type=value.type.tensor_type.elem_type)
        tensor.dims[:] = weights[value.name].shape
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
    del graph.input[1:]
    return model.SerializeToString(), program.threads, weights


def read_weights(file: memoryview) -> Weights:
    """Returns the arrays of a safetensors file, in the memory of the file: its package copies them."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(bytes(file[8:start]))
    header.pop("__metadata__", None)
    return {name: _find_weight(file[start:], **entry) for name, entry in header.items()}


def _find_weight(data: memoryview, dtype: str, shape: Sequence[int], data_offsets: tuple[int, int]) -> Any:
    start, end = data_offsets
    return np.frombuffer(data[start:end], DTYPES[dtype]).reshape(shape)


def convert(exported: torch.export.ExportedProgram, **names: Any) -> Any:
    """Returns an exported program as an ``onnx.ModelProto``; ``names`` are "input_names" and "output_names"."""
    import torch

    with silence(), torch.no_grad():
        written = torch.onnx.export(exported, (), dynamo=True, verbose=False, **names)
    assert written is not None
    return written.model_proto


def check_bytes(module: nn.Module) -> None:
    """Raises where the weights of ``module`` do not fit into one ONNX file.

    Raises:
        ConfigError: they do not.
    """
    if sum(t.nbytes for t in module.state_dict().values()) > MAX_BYTES:
        raise ConfigError("weights of more than 2 GB do not fit into an ONNX file: choose another format")


@contextmanager
def silence() -> Iterator[None]:
    """Hides what exporters and quantizers print, log and warn about packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
