"""Low-rank adapters on the linear and attention layers of a trunk (Hu et al., "LoRA", 2021), by peft.

An adapter adds ``alpha / rank * B @ A`` to a weight that stays as it is; A and B learn. Meanwhile the layer
``fc1`` is ``fc1.base_layer``; once the adapters are merged, all keys are the usual ones.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from classy_vision.atomic import replacing
from classy_vision.config import ConfigError, first_line, read_config
from classy_vision.models import ClassyModel
from classy_vision.train.config import LoraConfig
from classy_vision.train.run_folder import writing
from classy_vision.trunk.twin import outline_of
from classy_vision.weights.files import read_tensors, write_tensors
from classy_vision.weights.state import head_of

INSTALL = "pip install 'classy-vision-models[lora]'"
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The files of peft."""
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""How its keys begin, and how those of the two matrices end."""


OTHER_SUMS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""Options of peft, unset in a run, with which something else is added to the weights."""


def add_adapters(model: ClassyModel, lora: LoraConfig, shape: Sequence[int]) -> None:
    """Puts an adapter on each linear and attention layer of the trunk that a head depends on.

    The rest of the trunk does not learn any more; heads learn whole. What the model gives is the same at first.

    Args:
        model: with its heads, and with the weights that stay.
        lora: rank, alpha and dropout.
        shape: of an input, (c, h, w) or (c, t, h, w).

    Raises:
        ConfigError: peft cannot be imported, there are no such layers, or the rank is above the size of one.
    """
    names = find_layers(model, shape)
    _check_rank(model, names, lora)
    try:
        import peft  # an extra

        from classy_vision.train.attention_adapter import AttentionAdapter
    except (ImportError, RuntimeError) as error:  # as of a transformers that does not fit
        raise ConfigError(f"schedule.lora needs: {INSTALL} ({first_line(error)})") from None
    learning = [p for name, p in model.named_parameters() if head_of(name) and p.requires_grad]
    pattern = "|".join(map(re.escape, names))  # whole names: peft takes those of a list for ends of names
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=pattern
    )
    config._register_custom_module({nn.MultiheadAttention: AttentionAdapter})
    peft.inject_adapter_in_model(config, model)  # which takes the gradients from all but adapters
    for parameter in learning:
        parameter.requires_grad_(True)
    for name in names:
        _swap_hooks(model.get_submodule(name))
    for part in model.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0  # or torch's kernel for evaluation reads the weights by itself


def find_layers(model: ClassyModel, shape: Sequence[int]) -> list[str]:
    """The names of the layers that adapters can be put on: those of the trunk that are called for its heads.

    What is not called has no use for an adapter, as the output layer of ``nn.MultiheadAttention``, whose
    weights are read by the attention. Layers that share weights with others are left out.

    Raises:
        ConfigError: there are none.
    """
    outline, called = outline_of(model).eval(), set[str]()
    for name, part in outline.named_modules():
        if isinstance(part, (nn.Linear, nn.MultiheadAttention)) and not head_of(name):
            part.register_forward_pre_hook(partial(_note, called, name))
    with torch.no_grad():
        outline(torch.empty(2, *shape, device="meta"))
    times = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found = [
        name
        for name, part in model.named_modules()
        if name in called
        and all(times[id(p)] == 1 for p in part.parameters())
        and getattr(part, "_qkv_same_embed_dim", True)  # without which peft has no adapter
    ]
    if not found:
        name = model.config.name if hasattr(model.config, "name") else type(model).__name__
        raise ConfigError(
            f"schedule.lora: the trunk {name} has no linear or attention layers to adapt: use "
            f"schedule.freeze.until or schedule.layer_decay to keep most of it"
        )
    return found


def _note(called: set[str], name: str, *_: Any) -> None:
    called.add(name)


def _check_rank(model: nn.Module, names: Sequence[str], lora: LoraConfig) -> None:
    for name in names:
        layer: Any = model.get_submodule(name)
        shape = (layer.weight if isinstance(layer, nn.Linear) else layer.in_proj_weight).shape
        if lora.rank > min(shape):
            raise ConfigError(
                f"schedule.lora.rank = {lora.rank} is above the size of layer {name!r}, "
                f"{shape[1]} to {shape[0]}: give at most {min(shape)}"
            )


def _swap_hooks(adapter: Any) -> None:
    """Exchanges the hooks of an adapter and its layer, so that a block that is a layer gives what both do."""
    layer = adapter.base_layer
    for kind in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        mine, theirs = getattr(adapter, kind), getattr(layer, kind)
        setattr(adapter, kind, theirs)
        setattr(layer, kind, mine)


def keep_norms(model: nn.Module) -> None:
    """Puts the batch norms of the trunk into evaluation, as it does not learn."""
    for name, part in model.named_modules():
        if isinstance(part, _NormBase) and not head_of(name):
            part.eval()


# -- once they have learned


def merge_adapters(model: nn.Module) -> None:
    """Adds what the adapters have learned to the weights, and removes them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = {name: part for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)}
    outer = [name for name in adapters if not any(name.startswith(f"{other}.") for other in adapters)]
    for name in outer:
        adapter: Any = adapters[name]
        _swap_hooks(adapter)
        if isinstance(adapter.base_layer, nn.MultiheadAttention):
            layer = adapter.unload_and_optionally_merge_module(True, safe_merge=False, adapter_names=None)
        else:
            adapter.merge()
            layer = adapter.base_layer
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
    if outer:
        del model.peft_config


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model that ``merge_adapters`` would make of ``model``, which stays as it is."""
    copy = deepcopy(model)
    merge_adapters(copy)
    return copy.state_dict()


# -- alone, as peft writes them


def write_adapter(folder: Path, model: nn.Module) -> None:
    """Writes what the adapters have learned, and the heads, as ``peft.PeftModel.from_pretrained`` reads it.

    Args:
        folder: of the files, in that of the run.
        model: with its adapters.
    """
    import peft

    config: Any = deepcopy(model.peft_config)["default"]  # type: ignore[index]  # which peft puts there
    config.inference_mode = True
    config.modules_to_save = sorted({name for key in model.state_dict() if (name := head_of(key))})
    tensors = {PREFIX + name: x for name, x in peft.get_peft_model_state_dict(model).items()}
    with writing(folder):
        folder.mkdir(exist_ok=True)
        write_tensors(folder / TENSORS, {**tensors, **_name_heads(model)}, {"format": "pt"})
        with replacing(folder / CONFIG) as beside:
            beside.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True, default=list) + "\n")


def write_adapter_heads(folder: Path, model: nn.Module) -> None:
    """Replaces the heads in the files of ``write_adapter``, which a run of an earlier version does not have."""
    if (folder / TENSORS).is_file():
        with writing(folder):
            write_tensors(
                folder / TENSORS, {**read_tensors(folder / TENSORS), **_name_heads(model)}, {"format": "pt"}
            )


def load_adapter(model: nn.Module, folder: str | Path) -> None:
    """Adds the adapters of a run to the weights of a model, and takes over the heads; peft is not needed.

    Args:
        model: with the heads of the run, and with the trunk's weights from before it.
        folder: ``adapter`` in that of the run.

    Raises:
        ConfigError: a file is missing or damaged, the model does not have such a layer or head, or an option
            of peft was used that a run does not use.
    """
    state, (sums, heads) = model.state_dict(), _read_adapter(Path(folder))
    attention = {layer: f"{layer}.in_proj_weight" for layer in sums}
    keys = {layer: key if key in state else f"{layer}.weight" for layer, key in attention.items()}
    for key, x in [*((keys[layer], x) for layer, x in sums.items()), *heads.items()]:
        if key not in state or state[key].shape != x.shape:
            raise ConfigError(f"{str(folder)!r} is of another model: it has {key!r}, {tuple(x.shape)}")
    merged = {keys[layer]: state[keys[layer]] + x.to(state[keys[layer]]) for layer, x in sums.items()}
    model.load_state_dict({**state, **merged, **heads})


def _read_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reads what is added to the weights, by layer, and the weights of heads, by key."""
    config, tensors = read_config(folder / CONFIG), read_tensors(folder / TENSORS)
    if given := [key for key in OTHER_SUMS if config.get(key)]:
        raise ConfigError(
            f"{str(folder)!r} is not an adapter of a run: {given[0]} = {config[given[0]]!r}; "
            f"peft.PeftModel.from_pretrained reads it"
        )
    named = {key.removeprefix(PREFIX).replace(".base_layer.", "."): x for key, x in tensors.items()}
    heads = {key: x for key, x in named.items() if head_of(key)}
    layers = [key.removesuffix(DOWN) for key in named if key.endswith(DOWN)]
    if odd := named.keys() - heads.keys() - {layer + end for layer in layers for end in (DOWN, UP)}:
        raise ConfigError(f"{str(folder)!r} is not an adapter of a run: it has {min(odd)!r}")
    try:
        scale = config["lora_alpha"] / config["r"]
        sums = {layer: scale * named[layer + UP] @ named[layer + DOWN] for layer in layers}
    except (ArithmeticError, KeyError, RuntimeError, TypeError) as error:
        raise ConfigError(f"{str(folder)!r} is not an adapter of a run: {first_line(error)}") from None
    return sums, heads


def _name_heads(model: nn.Module) -> dict[str, Tensor]:
    return {PREFIX + name: x for name, x in model.state_dict().items() if head_of(name)}
