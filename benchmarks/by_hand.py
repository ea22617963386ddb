"""The engines by hand, as their documentation says: nothing of this library.

torch is imported where it is needed: a process that runs a file does without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Call = Callable[[], Any]
"""Returns arrays of numpy."""


def onnx_of(model: nn.Module, x: Tensor) -> bytes:
    """The model as torch exports it to ONNX."""
    import torch

    program = torch.onnx.export(torch.export.export(model, (x,)), (), dynamo=True, verbose=False)
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


def run_onnx(model: bytes | str, x: Any, threads: int) -> Call:
    """A call of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


def openvino_of(model: nn.Module, x: Tensor) -> Any:
    """The model as OpenVINO converts it."""
    import openvino as ov
    import torch

    converted = ov.convert_model(torch.export.export(model, (x,)))
    converted.reshape(list(x.shape))
    return converted


def run_openvino(model: Any, x: Any, threads: int, precision: str = "f32") -> Call:
    """A call of OpenVINO on a model or a file."""
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    settings |= {"INFERENCE_PRECISION_HINT": precision}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([x], share_inputs=True)


def by_hand(engine: str, model: nn.Module, x: Tensor) -> Call:
    """A call of an engine of ours, by hand."""
    import torch

    threads = torch.get_num_threads()
    if engine == "onnxruntime":
        return run_onnx(onnx_of(model, x), x.numpy(), threads)
    if engine == "openvino":
        return run_openvino(openvino_of(model, x), x.numpy(), threads)
    return lambda: model(x)
