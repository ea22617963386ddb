"""Post-training static quantization: weights per channel, activations by ranges from the training data.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018, section 2.

Weights have 7 bits. Processors without VNNI add two products in 16 bits, which two of 8 bits by 8
exceed: results would be less exact there than on the machine that checked the file.
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
    """Quantizes convolutions and linear layers by PT2E for x86; inductor runs them by oneDNN.

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
    """Quantizes by ONNX Runtime, with QuantizeLinear and DequantizeLinear around convolutions and products.

    Args:
        model: of ``onnx``, in float32.
        request: has the inputs from which ranges are taken.
        path: temporary files are written next to it, and removed.
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
    quantized = onnx.load(str(done))
    for part in (whole, ready, done):
        part.unlink(missing_ok=True)
    return quantized


class _Reader:
    """Hands the calibration inputs to ONNX Runtime."""

    def __init__(self, calibration: Sequence[Tensor]) -> None:
        self._rest = iter(calibration)

    def get_next(self) -> dict[str, Any] | None:
        """Returns the next input, and None after the last."""
        images = next(self._rest, None)
        return None if images is None else {INPUT: images.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the packages on kernels for other machines and on each other's versions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
