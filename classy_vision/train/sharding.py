"""FSDP2: processes share one copy of the parameters, their gradients, and what the optimizer keeps of them.

accelerate's configuration asks for it, as it does for a number of processes: neither changes what a run gives,
so neither is part of a job, and a run can be resumed with others. The trunk of named blocks says what is
gathered at a time: a block, or a head. torch's own ``fully_shard`` does it, because accelerate's preparation
needs GPUs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel
from classy_vision.train.config import ScheduleConfig
from classy_vision.train.model import find_heads
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.shards import is_shared, split_state

SWITCH = "ACCELERATE_USE_FSDP"
"""What accelerate launch sets for --use_fsdp, or its configuration's distributed_type: FSDP."""
NEEDED: dict[str, tuple[str, ...]] = {
    "FSDP_VERSION": ("2",),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "full_shard"),
    "FSDP_OFFLOAD_PARAMS": ("false",),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false",),
}
"""The values of accelerate's options that can be met, the first of which is the default."""
REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("compile", True, "set it to false"),
    ("mixed_precision", "fp16", "use 'bf16'"),
    ("optimizer", "lamb", "use 'adamw'"),
    ("cache_features", True, "use 'auto', with which the frozen trunk runs in every epoch"),
)
"""Values of the schedule that do not go with it, and what does."""


def wants_sharding() -> bool:
    """Whether accelerate's configuration asks for FSDP2.

    Raises:
        ConfigError: it asks for another kind of FSDP.
    """
    if os.environ.get(SWITCH, "false").lower() not in ("true", "1"):
        return False
    for name, values in NEEDED.items():
        given = os.environ.get(name, values[0])
        if given.lower() not in values:
            raise ConfigError(
                f"accelerate's configuration sets {name.lower()} to {given!r}, and training in shards needs "
                f"{values[0]!r}: accelerate launch --{name.lower()} {values[0]}, or {name}={values[0]}"
            )
    return True


def check_sharding(schedule: ScheduleConfig) -> None:
    """Raises where a schedule does not go with shared parameters.

    Raises:
        ConfigError: names both options.
    """
    for name, value, advice in REFUSED:
        if getattr(schedule, name) == value:
            raise ConfigError(
                f"schedule.{name} = {value!r} does not work with FSDP2, which accelerate's configuration asks "
                f"for ({SWITCH}): {advice}, or train without FSDP2"
            )


@contextmanager
def hiding_fsdp() -> Iterator[None]:
    """Lets accelerate join the processes as for DDP; else it would prepare models itself on GPUs."""
    before = os.environ.pop(SWITCH, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[SWITCH] = before


def check_parameters(model: ClassyModel, processes: int) -> None:
    """Raises where processes are to share parameters that FSDP2 cannot divide among them.

    Args:
        model: with its heads.
        processes: how many.

    Raises:
        ConfigError: a parameter is a single number, or belongs to several blocks or heads.
    """
    if processes == 1 or not wants_sharding():
        return
    names, owners = [*_name_parts(model)], dict[int, str]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = next((part for part in names if name.startswith(f"{part}.")), "")
        wrong = "" if parameter.dim() else "is a single number, as in the pooling 'gem'"
        if owners.setdefault(id(parameter), owner) != owner:
            wrong = "belongs to several blocks or heads"
        if wrong:
            raise ConfigError(
                f"the parameter {name!r} {wrong}, and FSDP2, which accelerate's configuration asks for "
                f"({SWITCH}), cannot share it: change the model, or train without FSDP2"
            )


def shard_model(model: ClassyModel, device: torch.device) -> None:
    """Leaves each process a part of every parameter, in place, and moves that to its device.

    A whole block or head is there only while it runs.

    Args:
        model: the same in all processes.
        device: of this process.
    """
    from torch.distributed.device_mesh import init_device_mesh  # here, as importing them takes a second
    from torch.distributed.fsdp import fully_shard

    # About heads whose outputs are views: nothing that reads them writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in (*_name_parts(model).values(), model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def _name_parts(model: ClassyModel) -> dict[str, nn.Module]:
    """The blocks and heads by name; a trunk with a forward of its own has no blocks to gather by themselves."""
    blocks = model._modules.get("blocks")
    found = blocks.values() if isinstance(blocks, nn.ModuleDict) else ()
    parts = {id(part) for part in (*found, *find_heads(model).values())}
    return {name: part for name, part in model.named_modules() if id(part) in parts}


def gather_state(state: Mapping[str, Tensor], first: bool) -> dict[str, Tensor]:
    """Collects a state dict from all processes.

    Args:
        state: of a sharded model.
        first: whether this is the process that takes it.

    Returns:
        All of it on the CPU, and nothing in the other processes.
    """
    whole = {}
    for key, value in state.items():
        tensor = value.detach()
        tensor = tensor.full_tensor() if is_shared(tensor) else tensor
        if first:
            whole[key] = tensor.cpu()
    return whole


def write_shards(state: Mapping[str, Any], folder: RunFolder, accelerator: Accelerator) -> dict[str, Any]:
    """Writes the rows of each process beside the checkpoint, and gives what the checkpoint itself holds."""
    plain, rows = split_state(state)
    number = max(gather_object([folder.last_shards()])) + 1
    digest = folder.write_shard(number, accelerator.process_index, rows)
    return {**plain, "shards": {"number": number, "digests": gather_object([digest])}}
