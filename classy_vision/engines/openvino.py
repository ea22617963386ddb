"""OpenVINO: converted straight from torch's exported program, compiled for the batch size that is asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.engines.program import Program

NAME = "openvino"
EXTRA = "openvino"
PACKAGES = ("openvino",)
DEVICES = ("cpu",)
NEEDS_TRUST = False
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
STATIC_SIZES = 4
"""The batch sizes that get a network of their own, which is up to 15 % faster than one for any size; compiling
one takes 0.1 to 0.6 seconds."""

Array = Any
"""Of numpy."""


def compile(program: Program) -> OpenVINO:
    """Converts and compiles a program."""
    from classy_vision.engines.openvino_graph import convert

    model = convert(program.exported)
    reshape(model, (None, *program.example.shape[1:]))
    compiled = OpenVINO(model, program.dtype, program.threads)
    compiled.prepare(len(program.example))
    return compiled


def reshape(model: Any, shape: Sequence[int | None]) -> None:
    """Fixes the sizes of the input of an ``openvino.Model``; those that are None stay free."""
    import openvino as ov

    model.reshape({0: ov.PartialShape([-1 if size is None else size for size in shape])})


def load(folder: Path, stem: str, threads: int) -> OpenVINO:
    """Reads the files that ``OpenVINO.save`` wrote."""
    dtype, batch = (folder / f"{stem}.txt").read_text().split()
    compiled = OpenVINO(read(folder / f"{stem}.xml"), dtype, threads)
    compiled.prepare(int(batch))
    return compiled


def read(path: Path) -> Any:
    """Reads an ``openvino.Model`` from a file of IR and the file of weights beside it.

    OpenVINO is given what is in the two files, so that no path in them is followed, and has no operators but
    its own.

    Raises:
        ConfigError: the file of weights is missing.
    """
    import openvino as ov

    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ConfigError(f"{str(path)!r} has no weights: {weights.name!r} is missing beside it")
    return ov.Core().read_model(path.read_bytes(), weights.read_bytes())


class OpenVINO:
    """A compiled program.

    Args:
        model: an ``openvino.Model`` with one input and any batch size.
        dtype: of the arithmetic; inputs and outputs are float32.
        threads: of the processor, for one call.
    """

    takes: Literal["numpy"] = "numpy"

    def __init__(self, model: Any, dtype: str, threads: int) -> None:
        self._model = model
        self._dtype = dtype
        self._threads = threads
        self._networks: dict[tuple[str, tuple[int, ...]], _Network] = {}
        self._lock = threading.Lock()

    def prepare(self, batch: int) -> None:
        """Compiles the network for a batch size, where all other sizes are known."""
        shape = self._model.inputs[0].partial_shape
        self._network("LATENCY", (batch, *(size.get_length() for size in list(shape)[1:])))

    def __call__(self, images: Array) -> list[Array]:
        network = self._networks.get(("LATENCY", images.shape)) or self._network("LATENCY", images.shape)
        return network.finish(network.start(images))

    def stream(self, batches: Iterable[Array]) -> Iterator[list[Array]]:
        started: deque[tuple[_Network, _Call]] = deque()
        for images in batches:
            network = self._network("THROUGHPUT", images.shape)
            while len(started) >= network.slots:
                first, call = started.popleft()
                yield first.finish(call)
            started.append((network, network.start(images)))
        while started:
            first, call = started.popleft()
            yield first.finish(call)

    def save(self, folder: Path, stem: str) -> None:
        import openvino as ov

        ov.save_model(self._model, folder / f"{stem}.xml", compress_to_fp16=False)
        batch = next((shape[0] for hint, shape in self._networks if hint == "LATENCY" and shape), 1)
        (folder / f"{stem}.txt").write_text(f"{self._dtype} {batch}")

    def _network(self, hint: str, shape: tuple[int, ...]) -> _Network:
        """The network for a shape, or once there are several, the one for any shape."""
        with self._lock:
            shapes = [known for kind, known in self._networks if kind == hint and known]
            if shape not in shapes and len(shapes) >= STATIC_SIZES:
                shape = ()
            if (hint, shape) not in self._networks:
                self._networks[hint, shape] = self._compile(hint, shape)
            return self._networks[hint, shape]

    def _compile(self, hint: str, shape: tuple[int, ...]) -> _Network:
        import openvino as ov

        model = self._model.clone()
        if shape:
            reshape(model, shape)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_PRECISION_HINT": PRECISIONS[self._dtype],
            "INFERENCE_NUM_THREADS": self._threads,
        }
        if hint == "LATENCY":
            settings["NUM_STREAMS"] = 1
        return _Network(ov.Core().compile_model(model, "CPU", settings))


class _Call(NamedTuple):
    """A call that runs; it keeps its input alive."""

    request: Any
    outputs: list[Array | None]
    images: Array


class _Network:
    """A network that OpenVINO has compiled, and its idle requests."""

    def __init__(self, compiled: Any) -> None:
        import openvino as ov

        self._tensor = ov.Tensor
        self._compiled = compiled
        self._idle: deque[Any] = deque()
        self._outputs = [
            (tuple(output.shape), output.element_type.to_dtype()) if output.partial_shape.is_static else None
            for output in compiled.outputs
        ]
        self.slots: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def start(self, images: Array) -> _Call:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        images = np.ascontiguousarray(images, np.float32)
        request.set_input_tensor(self._tensor(images, shared_memory=True))
        outputs: list[Array | None] = []
        for i, known in enumerate(self._outputs):
            # OpenVINO writes to the memory that the caller gets: nothing is copied. It is told anew in each
            # call, since it would go on writing to the memory of the last one.
            array = np.empty(*known) if known else None
            if array is not None:
                request.set_output_tensor(i, self._tensor(array, shared_memory=True))
            outputs.append(array)
        request.start_async()
        return _Call(request, outputs, images)

    def finish(self, call: _Call) -> list[Array]:
        call.request.wait()
        found = [
            call.request.get_output_tensor(i).data.copy() if array is None else array
            for i, array in enumerate(call.outputs)
        ]
        self._idle.append(call.request)
        return found


def emulates(dtype: str) -> bool:
    """Whether the processor has no arithmetic in ``dtype``."""
    import openvino as ov

    wanted = CAPABILITIES.get(dtype)
    return wanted is not None and wanted not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
