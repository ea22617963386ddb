"""Post-training static quantisation: weights per channel, activations by ranges of the training data.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018, section 2.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.deploy.exported_program import trace
from classy_vision.deploy.formats import Request
from classy_vision.deploy.metadata import INPUT


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
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        for name in _miscompiled(request.model):
            quantizer.set_module_name_qconfig(name, None)
        prepared = prepare_pt2e(program.module(), quantizer)
        for images in request.calibration or ():
            prepared(images)
        return trace(replace(request, model=convert_pt2e(prepared)))


def _miscompiled(model: nn.Module) -> list[str]:
    """Convolutions of grey images: of one input channel torch 2.13 packs int8 weights in a wrong order."""
    return [
        name for name, part in model.named_modules() if isinstance(part, nn.Conv2d) and part.in_channels == 1
    ]


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
