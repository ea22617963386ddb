"""Low-rank adapters on the linear and attention layers of a trunk (Hu et al., "LoRA", 2021), by peft.

An adapter adds ``alpha / rank * B @ A`` to a weight that stays as it is; A and B learn. Meanwhile the layer
``fc1`` is ``fc1.base_layer``; once the adapters are merged, all keys are the usual ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from classy_vision.config import ConfigError, first_line
from classy_vision.models import ClassyModel
from classy_vision.train.config import LoraConfig
from classy_vision.trunk.twin import outline_of
from classy_vision.weights.state import head_of

INSTALL = "pip install 'classy-vision-models[lora]'"


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
