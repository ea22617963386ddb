"""ONNX Runtime: the program as an ONNX graph, run by its kernels for processors."""

from __future__ import annotations

import io
import logging
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classy_vision.config import ConfigError
from classy_vision.engines.onnx_message import names_files

if TYPE_CHECKING:
    import torch
    from torch import nn

    from classy_vision.engines.program import Program

NAME = "onnxruntime"
EXTRA = "onnx"
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
DEVICES = ("cpu",)
NEEDS_TRUST = False
MAX_BYTES = 2**31 - 2**20
"""Of weights: a message of protobuf is shorter than 2 GB."""
OPSET = 18

Array = Any
"""Of numpy."""


def compile(program: Program) -> OnnxRuntime:
    """Converts a program and opens a session.

    Raises:
        ConfigError: the dtype is not float32, or the weights do not fit into one file.
    """
    import torch

    if program.dtype != "float32":
        raise ConfigError(f"ONNX Runtime has no convolutions in {program.dtype} for processors")
    check_bytes(program.module)
    larger = torch.cat([program.example, program.example[:1]])
    # Tracing sees neither branches that depend on data nor sizes of the batch that a model keeps: the export
    # refuses those, and a larger batch shows these.
    exported = program.exported
    with (
        quiet(),
        redirect_stdout(io.StringIO()),
        torch.no_grad(),
        suppress(Exception),
    ):  # whatever the deprecated converter stumbles over
        traced = OnnxRuntime(convert_trace(program), program.threads)
        if all(len(output) == len(larger) for output in traced(larger.numpy())):
            return traced
    return OnnxRuntime(convert(exported).SerializeToString(), program.threads)


def convert_trace(program: Program) -> bytes:
    """Returns the program as an ONNX file for any batch size, by torch.jit.trace.

    This converter is deprecated in favour of ``convert``. It is four to ten times as fast, and what it
    gives runs equally fast.
    """
    import torch

    file: Any = io.BytesIO()  # torch's annotation has paths alone
    options: dict[str, Any] = {"input_names": ["images"], "opset_version": OPSET, "dynamo": False}
    options |= {"dynamic_axes": {"images": {0: "batch"}}, "do_constant_folding": False}
    torch.onnx.export(program.module, (program.example,), file, **options)
    found: bytes = file.getvalue()
    return found


def convert(exported: torch.export.ExportedProgram, **names: Any) -> Any:
    """Returns an exported program as an ``onnx.ModelProto``.

    Args:
        exported: the program.
        **names: "input_names" and "output_names".
    """
    import torch

    with quiet(), torch.no_grad():
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


def load(folder: Path, stem: str, threads: int) -> OnnxRuntime:
    """Reads the file that ``OnnxRuntime.save`` wrote."""
    return OnnxRuntime((folder / f"{stem}.onnx").read_bytes(), threads)


class OnnxRuntime:
    """A compiled program.

    Args:
        model: an ONNX file.
        threads: of the processor, for one call.

    Raises:
        ConfigError: the file names other files, which ONNX Runtime would look for in the working directory.
    """

    takes: Literal["numpy"] = "numpy"

    def __init__(self, model: bytes, threads: int) -> None:
        if names_files(model):
            raise ConfigError("it keeps weights in other files: save it as one file")
        self._model = model
        self._threads = threads
        self.session = open_session(model, threads)
        self._input = self.session.get_inputs()[0].name

    def __call__(self, images: Array) -> list[Array]:
        found: list[Array] = self.session.run(None, {self._input: np.ascontiguousarray(images, np.float32)})
        return found

    def stream(self, batches: Iterable[Array]) -> Iterator[list[Array]]:
        started: deque[Future[list[Array]]] = deque()
        single = self._single
        with ThreadPoolExecutor(self._threads) as pool:
            for images in batches:
                while len(started) > self._threads:
                    yield started.popleft().result()
                started.append(pool.submit(single.run, None, {self._input: np.asarray(images, np.float32)}))
            while started:
                yield started.popleft().result()

    def save(self, folder: Path, stem: str) -> None:
        (folder / f"{stem}.onnx").write_bytes(self._model)

    @cached_property
    def _single(self) -> Any:
        """A session of one thread: many samples are done faster side by side than each by all threads."""
        return self.session if self._threads == 1 else open_session(self._model, 1)


def open_session(model: bytes, threads: int) -> Any:
    """Returns a session on the processor, which has no operators but ONNX Runtime's own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it would print, it raises too
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def emulates(dtype: str) -> bool:
    """Whether the processor has no arithmetic in ``dtype``; other dtypes than float32 are refused anyway."""
    return False


@contextmanager
def quiet() -> Iterator[None]:
    """Hides what exporters and quantisers log and warn about packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
