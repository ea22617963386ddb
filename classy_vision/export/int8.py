"""Post-training static quantization: weights per channel, activations by ranges from the training data.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018, section 2. Each engine's own tool does it.

Weights have 7 bits. Processors without VNNI add two products in 16 bits, which two of 8 bits by 8
exceed: results would be less exact there than on the machine that checked the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.engines.onnxruntime import silence
from classy_vision.engines.openvino_package import no_telemetry
from classy_vision.export.formats import Int8, Request, Scores, check_packages
from classy_vision.export.metadata import INPUT

RANKED = 16
"""The calibration inputs by whose outputs NNCF ranks layers; it compiles the network again for each layer."""
MOST_RESTORED = 30
"""The layers that may return to float32. The model is measured after each."""


def quantize_openvino(model: Any, request: Request) -> Any:
    """Quantizes by NNCF, which takes seconds.

    If ``request.before`` has the scores that are to be kept, NNCF then returns layers to float32, those that
    change the outputs most first, until no head loses more than ``max_loss``. That takes minutes.

    Args:
        model: an ``openvino.Model`` in float32.
        request: has the inputs from which ranges are taken, and the measure.

    Raises:
        ConfigError: NNCF is missing.
    """
    check_packages("int8 for OpenVINO", "int8", "nncf")
    int8 = request.int8
    assert int8 is not None
    inputs = [images.numpy() for images in int8.calibration]
    with silence(), no_telemetry():
        import nncf

        transforms = any(isinstance(module, nn.LayerNorm) for module in request.model.modules())
        options: dict[str, Any] = {
            "subset_size": len(inputs),
            "model_type": nncf.ModelType.TRANSFORMER if transforms else None,
        }
        how = nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,  # 7 bits
            # SmoothQuant moves large activations into the weights. With 7 bits for these, outputs of vision
            # transformers differ by three times as much.
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
        )
        if request.before is None:
            return nncf.quantize(model, nncf.Dataset(inputs), **options, advanced_parameters=how)
        return nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=nncf.Dataset(inputs),
            validation_dataset=nncf.Dataset(inputs[:RANKED]),
            validation_fn=_Validation(int8, request.metadata.outputs, request.before),
            max_drop=int8.max_loss,
            drop_type=nncf.DropType.ABSOLUTE,
            **options,
            advanced_quantization_parameters=how,
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                max_num_iterations=MOST_RESTORED, ranking_subset_size=RANKED
            ),
        )


class _Validation:
    """Measures for NNCF: 100 for the first model, and less by the points that the worst head has lost since."""

    def __init__(self, int8: Int8, outputs: Sequence[str], before: Scores) -> None:
        self._measure = int8.measure
        self._outputs = outputs
        self._before = before
        # NNCF asks first what it is given, which is not a score for each input, so that it compares outputs
        # to rank layers. Then it asks for the first model.
        self._known: list[float | None] = [100.0, None]

    def __call__(self, compiled: Any, data: Any) -> tuple[float | None, None]:
        if self._known:
            return self._known.pop(), None

        def run(images: Tensor) -> dict[str, Tensor]:
            found = compiled(images.numpy())
            return {name: torch.from_numpy(found[i]) for i, name in enumerate(self._outputs)}

        scores = self._measure(run)
        return 100 + min(scores[head] - before for head, before in self._before.items()), None


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


def quantize_onnx(model: Any, request: Request) -> Any:
    """Quantizes by ONNX Runtime: pairs of QuantizeLinear and DequantizeLinear around convolutions and products.

    Args:
        model: of ``onnx``, in float32.
        request: has the inputs from which ranges are taken.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert request.int8 is not None
    inputs = ({INPUT: images.numpy()} for images in request.int8.calibration)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no annotations
        def get_next(self) -> dict[str, Any] | None:
            return next(inputs, None)

    with silence(), TemporaryDirectory() as folder:
        whole, ready, done = (f"{folder}/{name}.onnx" for name in ("whole", "ready", "done"))
        onnx.save(model, whole)
        quant_pre_process(whole, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            done,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add", "GlobalAveragePool", "MaxPool"],
            extra_options={"QuantizeBias": True},
        )
        return onnx.load(done)
