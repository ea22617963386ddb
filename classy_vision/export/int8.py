"""Post-training static quantisation: weights per channel, activations by ranges of the training data.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018, section 2.

Weights have 7 bits. Processors without VNNI add two products in 16 bits, which two of 8 bits by 8
exceed: a file would be less exact where it runs than where it was checked.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.export.formats import Request
from classy_vision.export.metadata import INPUT


def quantize_program(program: torch.export.ExportedProgram, request: Request) -> torch.export.ExportedProgram:
    """By PT2E for x86: convolutions and linear layers in int8, which inductor gives to oneDNN.

    Raises:
        ConfigError: torchao is missing.
    """
    if find_spec("torchao") is None:
        raise ConfigError(
            "int8 in AOTInductor packages needs torchao: pip install 'classy-vision-models[int8]'"
        )
    with _quiet(), torch.no_grad():
        from classy_vision.export.int8_program import quantize

        return quantize(program, request)


def quantize_onnx(model: Any, request: Request, path: Path) -> Any:
    """By ONNX Runtime: pairs of QuantizeLinear and DequantizeLinear around convolutions and products.

    Args:
        model: of ``onnx``, in float32.
        request: with the inputs to take ranges from.
        path: beside which it writes files of its own, which are gone after it.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole, ready, done = (path.with_name(f"{part}.onnx") for part in ("whole", "ready", "done"))
    whole.write_bytes(model.SerializeToString())
    with _quiet():
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(done),
            _Reader(request.calibration or ()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add", "GlobalAveragePool", "MaxPool"],
            extra_options={"QuantizeBias": True},
        )
    quantised = onnx.load(str(done))
    for part in (whole, ready, done):
        part.unlink(missing_ok=True)
    return quantised


class _Reader:
    """What ONNX Runtime asks for inputs."""

    def __init__(self, calibration: Sequence[Tensor]) -> None:
        self._rest = iter(calibration)

    def get_next(self) -> dict[str, Any] | None:
        """The next input, and None behind the last."""
        images = next(self._rest, None)
        return None if images is None else {INPUT: images.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the packages say of kernels for other machines, and of each other's versions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
