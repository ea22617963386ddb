"""What the original had and this library does without: using it says what to write instead."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

T = TypeVar("T")

ATTRIBUTES = {
    "execute_heads": "call the model: model(x) gives the heads' outputs",
    "head_outputs": "nothing is kept between calls; use what model(x) returns",
    "get_block_outputs": "nothing is kept between calls; use model.features(x, blocks)",
    "attachable_block_names": "use model.block_names",
    "wrapper_cls": "models are not wrapped; override forward in a subclass",
    "_heads": "use model.get_heads()",
    "initial_block": "use model.stem",
    "conv_stem": "use model.stem",
    "conv_head": "use model.tail",
    "encoder": "use model.blocks, a ModuleDict by block name",
    "trunk_output": "use model.blocks, a ModuleDict by block name, or model.features(x, ['block1'])",
}
"""Attributes of the original's models."""

NAMES = {
    "ClassyBlock": "blocks are plain modules; read one with model.features(x, [name])",
    "ClassyModelWrapper": "models are not wrapped; override forward in a subclass of ClassyModel",
    "ClassyModelHeadExecutorWrapper": "models are not wrapped; model(x) runs the heads itself",
    "_ClassyModelAdapter": "use ClassyModel.from_model(module, blocks=[...])",
    "ResStemCifar": "use build_model({'name': 'anynet', 'stem_type': 'res_stem_cifar', ...})",
    "ResStemIN": "use build_model({'name': 'anynet', 'stem_type': 'res_stem_in', ...})",
    "SimpleStemIN": "use build_model({'name': 'anynet', 'stem_type': 'simple_stem_in', ...})",
    "VanillaBlock": "use build_model({'name': 'anynet', 'block_type': 'vanilla_block', ...})",
    "ResBasicBlock": "use build_model({'name': 'anynet', 'block_type': 'res_basic_block', ...})",
    "ResBottleneckBlock": "use build_model({'name': 'anynet', 'block_type': 'res_bottleneck_block', ...})",
    "ResBottleneckLinearBlock": (
        "use build_model({'name': 'anynet', 'block_type': 'res_bottleneck_linear_block', ...})"
    ),
    "BasicLayer": "use build_model({'name': 'resnext', 'basic_layer': True, ...})",
    "BottleneckLayer": "use build_model({'name': 'resnext', ...})",
    "MODEL_REGISTRY": "use classy_vision.models.MODELS, or classy list",
    "HEAD_REGISTRY": "use classy_vision.heads.HEADS",
    "AnyStage": "stages are names: model.features(x, ['block2']) gives the end of stage 2",
    "ClassyHubInterface": (
        "call the model itself: model(images) predicts, model.extract_features(images) gives features; "
        "ClassyModel.from_model(module) makes a model of any module"
    ),
    "compute_flops": "use classy_vision.cost.count(model, input_shape).macs, of one sample",
    "compute_activations": "use classy_vision.cost.count(model, input_shape).activations, of one sample",
    "count_params": "use classy_vision.cost.count(model).params, or sum(p.numel() for p in model.parameters())",
    "compute_complexity": "use classy_vision.cost.count(model, input_shape), which has a row per block",
    "profile": "use classy_vision.cost.measure(model) for times, or torch.profiler",
    "summarize_profiler_info": "use classy_vision.cost.measure(model), which has a row per block",
    "ComplexityComputer": "use classy_vision.cost.count(model), which names what it cannot count",
    "ClassyProfilerError": "classy_vision.cost.count raises ConfigError",
    "ClassyProfilerNotImplementedError": "count(model).uncounted names the operators that are not known",
    "get_torch_version": "use torch.__version__",
    "load_checkpoint": "ClassyModel.from_checkpoint takes a file or folder, load_weights(model, path) as well",
    "update_classy_model": "use load_weights(model, state, skip_heads=True), or model.load_trunk_state(state)",
    "get_model_dummy_input": "use torch.zeros(1, *model.input_shape)",
    "import_all_modules": "import the modules; register_model and register_head run then",
}


def explain_removed(module: str, presets: Iterable[str] = ()) -> Callable[[str], NoReturn]:
    """A module's ``__getattr__``: for a name of the original, what to write instead.

    Args:
        module: the module's name.
        presets: registered names, which in the original were classes (``RegNetY4gf``).
    """
    classes = {preset.replace("_", ""): preset for preset in presets}

    def explain(name: str) -> NoReturn:
        plain = re.sub(r"(\d)_(\d)", r"\1.\2", name).replace("_", "").lower()
        preset = classes.get(plain) or next((p for c, p in classes.items() if c.startswith(plain)), None)
        if name in NAMES:
            raise ImportError(f"{module}.{name} was removed: {NAMES[name]}")
        if preset and name[:1].isupper():
            raise ImportError(f"{module}.{name} was removed: presets are data; use build_model({preset!r})")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return explain


def take_renamed(old: str, old_value: T | None, new: str, new_value: T | None) -> T | None:
    """The value of a keyword argument that has a new name; the old one gives a DeprecationWarning."""
    if old_value is None:
        return new_value
    text = f"the argument {old} is now {new}; the old name will be removed in the next version"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return old_value if new_value is None else new_value
