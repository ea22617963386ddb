"""Post-training static quantization: weights per channel, activations by ranges from the training data.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018, section 2. Each engine's own tool does it.

Weights have 7 bits. Processors without VNNI add two products in 16 bits, which two of 8 bits by 8
exceed: results would be less exact there than on the machine that checked the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.engines.onnxruntime import silence
from classy_vision.engines.openvino_package import no_telemetry
from classy_vision.export.formats import Int8, Request, Scores, check_packages
from classy_vision.export.metadata import INPUT


def quantize_openvino(model: Any, request: Request) -> Any:
    """Quantizes by NNCF, which returns layers to float32 until no head loses more than ``max_loss``.

    Args:
        model: an ``openvino.Model`` in float32.
        request: has the inputs from which ranges are taken, and the measure.

    Raises:
        ConfigError: NNCF is missing.
    """
    check_packages("int8 for OpenVINO", "int8", "nncf")
    int8 = request.int8
    assert int8 is not None
    with silence(), no_telemetry():
        import nncf

        transforms = any(isinstance(module, nn.LayerNorm) for module in request.model.modules())
        return nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=nncf.Dataset([images.numpy() for images in int8.calibration]),
            validation_dataset=nncf.Dataset([None]),  # the measure has its own
            validation_fn=_Validation(int8, request.metadata.outputs),
            max_drop=int8.max_loss,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=len(int8.calibration),
            model_type=nncf.ModelType.TRANSFORMER if transforms else None,
            advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,  # 7 bits
                # SmoothQuant moves large activations into the weights. With 7 bits for these, outputs of vision
                # transformers differ by three times as much.
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            ),
        )


class _Validation:
    """Measures for NNCF: 100 for the first model, and less by the points that the worst head has lost since."""

    def __init__(self, int8: Int8, outputs: Sequence[str]) -> None:
        self._measure = int8.measure
        self._outputs = outputs
        self._before: Scores = {}

    def __call__(self, compiled: Any, data: Any) -> tuple[float, None]:
        def run(images: Tensor) -> dict[str, Tensor]:
            found = compiled(images.numpy())
            return {name: torch.from_numpy(found[i]) for i, name in enumerate(self._outputs)}

        scores = self._measure(run)
        self._before = self._before or scores
        return 100 + min(
            scores[head] - before for head, before in self._before.items()
        ), None  # NNCF divides by it


def quantize_program(program: torch.export.ExportedProgram, request: Request) -> torch.export.ExportedProgram:
    """Quantizes by torchao's PT2E for x86: convolutions and linear layers that inductor gives to oneDNN.

    Raises:
        ConfigError: torchao is missing.
    """
    check_packages("int8 in AOTInductor packages", "int8", "torchao")
    int8 = request.int8
    assert int8 is not None
    with silence(), torch.no_grad():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        from classy_vision.export.exported_program import trace

        recipe = x86.get_default_x86_inductor_quantization_config()
        recipe = replace(recipe, weight=replace(recipe.weight, quant_min=-64, quant_max=63))  # 7 bits
        quantizer = x86.X86InductorQuantizer().set_global(recipe)
        for name, layer in request.model.named_modules():
            # torch 2.13 compiles these wrongly where the batch is free.
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and layer.in_channels == 1:
                quantizer.set_module_name_qconfig(name, None)
        prepared = prepare_pt2e(program.module(), quantizer)
        for images in int8.calibration:
            prepared(images)
        return trace(replace(request, model=convert_pt2e(prepared)))


def quantize_onnx(model: Any, request: Request, path: Path) -> Any:
    """Quantizes by ONNX Runtime: pairs of QuantizeLinear and DequantizeLinear around convolutions and products.

    Args:
        model: of ``onnx``, in float32.
        request: has the inputs from which ranges are taken.
        path: temporary files are written next to it, and removed.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert request.int8 is not None
    whole, ready, done = (path.with_name(f"{part}.onnx") for part in ("whole", "ready", "done"))
    whole.write_bytes(model.SerializeToString())
    with silence():
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(done),
            _Reader(request.int8.calibration),
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
