"""OpenVINO: converted straight from torch's exported program, compiled for the batch size that is asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classy_vision.engines.compiled import Compiled, Files
from classy_vision.engines.openvino_package import find_core, load_openvino

if TYPE_CHECKING:
    from classy_vision.engines.program import Program

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
STATIC_SIZES = 4
"""The batch sizes that get a network of their own, which is up to 15 % faster than one for any size; compiling
one takes 0.1 to 0.6 seconds."""


class OpenVINO(Compiled):
    """A compiled program.

    Args:
        model: an ``openvino.Model`` with one input and any batch size.
        threads: of the processor, for one call.
        dtype: of the arithmetic; inputs and outputs are float32.
        cache_dir: a folder where OpenVINO keeps what it has compiled; None for none.
    """

    name = extra = "openvino"
    packages = ("openvino",)
    takes_export = True

    def __init__(
        self, model: Any, threads: int, dtype: str = "float32", cache_dir: str | Path | None = None
    ) -> None:
        self._model = model
        self._settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[dtype], "INFERENCE_NUM_THREADS": threads}
        if cache_dir is not None:
            self._settings["CACHE_DIR"] = str(cache_dir)
        self._networks: dict[tuple[str, tuple[int, ...]], _Network] = {}
        self._lock = threading.Lock()
        self.workers = threads

    @classmethod
    def compile(cls, program: Program) -> OpenVINO:
        """Converts a program; it is compiled for the sizes of each input that is new."""
        from classy_vision.engines.openvino_graph import convert

        model = convert(program.exported)
        reshape(model, (None, *program.example.shape[1:]))
        return cls(model, program.threads, program.dtype, program.cache_dir)

    @classmethod
    def load(cls, files: Files, **options: Any) -> OpenVINO:
        """Loads the files that ``save`` wrote."""
        return cls(read(str(files["xml"], "utf-8"), files["bin"]), **options)

    def save(self, path: Path) -> None:
        load_openvino().save_model(self._model, path.with_suffix(".xml"), compress_to_fp16=False)

    def run(self, images: Any) -> list[Any]:
        network = self._networks.get(("LATENCY", images.shape)) or self._find("LATENCY", images.shape)
        return network.run(images)

    def start(self, images: Any) -> Callable[[], list[Any]]:
        """Hands the batch to one of the streams that OpenVINO makes of all threads.

        The requests are not in an ``openvino.AsyncInferQueue``: outputs are waited for in the order of the
        batches, and each wait raises the error of its own batch.
        """
        return self._find("THROUGHPUT", images.shape).start(images)

    def _find(self, hint: str, shape: tuple[int, ...]) -> _Network:
        """Returns the network for a shape, or once there are several, the one for any shape."""
        with self._lock:
            shapes = [known for kind, known in self._networks if kind == hint and known]
            if shape not in shapes and len(shapes) >= STATIC_SIZES:
                shape = ()
            if (hint, shape) not in self._networks:
                model = self._model.clone()
                if shape:
                    reshape(model, shape)
                settings = {**self._settings, "PERFORMANCE_HINT": hint}
                settings |= {"NUM_STREAMS": 1} if hint == "LATENCY" else {}
                self._networks[hint, shape] = _Network(find_core().compile_model(model, "CPU", settings))
            return self._networks[hint, shape]


class _Network:
    """A network that OpenVINO has compiled, and its idle requests: each runs for one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: deque[Any] = deque()

    def run(self, images: Any) -> list[Any]:
        request = self._take()
        outputs = [*request.infer([images], share_inputs=True).values()]
        self._idle.append(request)
        return outputs

    def start(self, images: Any) -> Callable[[], list[Any]]:
        request = self._take()
        request.start_async([images], share_inputs=True)

        def wait() -> list[Any]:
            request.wait()
            outputs = [tensor.data.copy() for tensor in request.output_tensors]
            self._idle.append(request)
            return outputs

        return wait

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()


def reshape(model: Any, shape: Sequence[int | None]) -> None:
    """Fixes the sizes of the input of an ``openvino.Model``; those that are None stay free."""
    sizes = [-1 if size is None else size for size in shape]
    model.reshape({0: load_openvino().PartialShape(sizes)})


def read(graph: str, weights: memoryview) -> Any:
    """Reads an ``openvino.Model``, which computes on ``weights`` where they lie.

    OpenVINO is given no path, so that it follows none in the graph, and has no operators but its own.

    Raises:
        ValueError: the graph is damaged, or does not fit the weights.
    """
    values = np.frombuffer(weights, np.uint8)
    try:
        model = find_core().read_model(graph, load_openvino().Tensor(values, shared_memory=True))
    except Exception as error:  # of many kinds, which only the library's binary names
        raise ValueError(str(error).strip().splitlines()[-1]) from None  # where it was thrown comes first
    model.weights = values  # as long as the model is there; it does not hold them itself
    return model
