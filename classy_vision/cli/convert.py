"""``classy weights convert``: a file of weights in another layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from classy_vision.config import ConfigError, system_error, unknown

FORMATS = (".safetensors", ".npz")


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A file of weights, or a published name.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A .safetensors or .npz file to write.")],
    to: Annotated[
        str, typer.Option(metavar="LAYOUT", help="Whose names: native, classy_vision, timm, torchvision, …")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|CONFIG", help="The network; found from the names and shapes where it is left out."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write weights in the layout of another library, and check them by reading them back."""
    import torch

    from classy_vision.models import build_model, load_weights
    from classy_vision.trunk.loading import find_source
    from classy_vision.trunk.saving import check_layout, save_weights
    from classy_vision.weights.catalogue import is_published
    from classy_vision.weights.files import check_target, read_tensors

    target = Path(os.path.expanduser(target))
    check_target(target, FORMATS, force=force)
    _check_known(to)
    state = read_tensors(find_source(source))
    config = network_of(state, model or (source if is_published(source) else None))
    with torch.device("meta"):
        original, copy = build_model(config), build_model(config)
    check_layout(type(original), to)
    for network in (original, copy):
        network.to(_dtype(state))
    report = load_weights(original, state)
    beside = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        save_weights(original, beside, layout=to)
        load_weights(copy, beside, layout=to)
        _check_equal(original.state_dict(), copy.state_dict())
        os.replace(beside, target)
    except OSError as error:
        raise system_error(error, f"cannot write {str(target)!r}") from None
    finally:
        beside.unlink(missing_ok=True)
    print(f"{target}: {len(report.loaded)} tensors of {config['name']}, {report.layout} to {to}")
    for reason in dict.fromkeys(report.dropped.values()):
        left = [key for key, why in report.dropped.items() if why == reason]
        print(f"left out, {reason}: {', '.join(left)}")


def _check_known(layout: str) -> None:
    """Raises an UnknownNameError where no family is written so."""
    from classy_vision.models import MODELS
    from classy_vision.weights.layout import OURS

    known = dict.fromkeys([*OURS, *(name for entry in MODELS for name in entry.cls.layouts)])
    if layout not in known:
        raise unknown("layout", layout, known, "--to")


def network_of(state: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """The config of ``model``, with the file's heads where it has none; without it, that of the file.

    Raises:
        ConfigError: no such model, or nothing fits the file.
    """
    from classy_vision.cli.show import read_model
    from classy_vision.identify.identify import identify
    from classy_vision.weights.catalogue import is_published

    if model is None:
        return identify(state)
    config = {"name": model} if is_published(model) else read_model(model).config
    if is_published(model) or "heads" in config or "num_classes" in config:
        return config
    try:
        found = identify(state)
    except ConfigError:  # reading it into the model says what is wrong
        return config
    return {**config, **{key: found[key] for key in ("heads", "num_classes") if key in found}}


def _dtype(state: Mapping[str, Any]) -> Any:
    """The type of the file's numbers; of several, single precision."""
    import torch

    from classy_vision.weights.classy_vision import flatten

    tensors = [value for value in flatten(state).values() if isinstance(value, torch.Tensor)]
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 else torch.float32


def _check_equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    import torch

    odd = [key for key in ours if not torch.equal(ours[key], theirs[key]) and "num_batches" not in key]
    if odd:
        raise ConfigError(f"what was written does not read back as it was: {', '.join(odd[:3])}")
