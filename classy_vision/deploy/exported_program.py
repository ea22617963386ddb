"""Files of ``torch.export``.

torch's own reader unpickles, and evaluates expressions of the file. This one takes the archive for
what it is: a list of operators in JSON, and plain numbers.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classy_vision.config import ConfigError, first_line
from classy_vision.deploy.formats import Loaded, Request
from classy_vision.deploy.metadata import KEY, parse_metadata
from classy_vision.deploy.program import Program, UnreadableError, read_program

EXTRA = f"{KEY}.json"
SIZES_ARE_TIED = ("onstraint", "cannot be solved")
"""What torch, and sympy within it, say of operators that do not take any size."""


def trace(request: Request) -> torch.export.ExportedProgram:
    """The operators of a model, for the sizes that its metadata leave free.

    Raises:
        ConfigError: it cannot be traced.
    """
    batch = torch.export.Dim("batch", min=1, max=request.metadata.max_batch)
    free = [i for i, size in enumerate(request.metadata.input_shape) if size is None and i]
    sizes: dict[int, Any] = {0: batch, **dict.fromkeys(free, torch.export.Dim.DYNAMIC)}
    with torch.no_grad():
        try:
            program = torch.export.export(request.model, (request.example,), dynamic_shapes=(sizes,))
        except Exception as error:  # of many kinds, of torch's and of the model's
            if free and any(words in str(error) for words in SIZES_ARE_TIED):
                raise ConfigError(
                    "the model cannot be exported for any image size: its operators depend on it. Export "
                    "one size at a time, without the dynamic size, or give a larger example"
                ) from None
            raise
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # whoever reads the file need not know our paths
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)  # of a type that is converted: it was so when it was traced
    return program


def save(request: Request, path: Path) -> None:
    """Writes the operators, the weights and the metadata."""
    torch.export.save(trace(request), path, extra_files={EXTRA: request.metadata.dump()})


def load(path: Path, trust: bool) -> Loaded:
    """Reads what ``save`` wrote; with ``trust`` torch reads what is not read here.

    Raises:
        ConfigError: it is damaged, another tool's, or needs more than is safe.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = parse_metadata(_extra(archive), str(path))
            program: Program = read_program(archive)
    except UnreadableError as error:
        if not trust:
            raise ConfigError(f"{str(path)!r} {error}: torch itself would read it, with trust") from None
        return Loaded(metadata, _trusted(path), "torch")
    except ConfigError:
        raise
    except Exception as error:  # damage shows in many ways
        raise ConfigError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}") from None
    return Loaded(metadata, program, "torch")


def _trusted(path: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """What torch reads."""
    try:
        run = torch.export.load(path).module()
    except Exception as error:  # of many kinds, such as an operator of a package that is not imported
        reason = f"{type(error).__name__}: {first_line(error)[:300]}"
        raise ConfigError(f"{str(path)!r} is damaged, or for another torch: {reason}") from None

    @torch.inference_mode()
    def outputs(images: Tensor) -> Sequence[Tensor]:
        leaves: list[Tensor] = torch.utils._pytree.tree_leaves(run(images))
        return leaves

    return outputs


def _extra(archive: zipfile.ZipFile) -> str | None:
    names = [name for name in archive.namelist() if name.endswith(f"/extra/{EXTRA}")]
    with suppress(UnicodeDecodeError):
        return archive.read(names[0]).decode() if names else None
    return None
