"""Files of ``torch.export``. Reading one unpickles parts of it and runs any operator that it names."""

from __future__ import annotations

from pathlib import Path

import torch

from classy_vision.config import ConfigError
from classy_vision.engines import program
from classy_vision.engines.archive import map_file
from classy_vision.engines.plain import Plain
from classy_vision.export.formats import Loaded, Request, check_trust, read_archived
from classy_vision.export.metadata import KEY, MAX_METADATA, parse_metadata

EXTRA = f"{KEY}.json"
SIZES_ARE_TIED = ("onstraint", "cannot be solved")
"""Words of torch and sympy about operators that do not take any size."""


def trace(request: Request) -> torch.export.ExportedProgram:
    """Traces the operators of a model, for the sizes that its metadata leave free.

    Raises:
        ConfigError: it cannot be traced.
    """
    free = [i for i, size in enumerate(request.metadata.input_shape) if size is None and i]
    try:
        traced = program.trace(request.model, request.example, free, request.metadata.max_batch)
    except Exception as error:  # torch and the model raise many kinds
        if free and any(words in str(error) for words in SIZES_ARE_TIED):
            raise ConfigError(
                "the model cannot be exported for any image size: its operators depend on it. Export "
                "one size at a time, without the dynamic size, or give a larger example"
            ) from None
        raise
    for part in traced.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine do not belong in the file
    for node in list(traced.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            traced.graph.erase_node(node)  # of a conversion, and true when it was traced
    return traced


def save(request: Request, path: Path) -> None:
    """Writes the operators, the weights and the metadata."""
    torch.export.save(trace(request), path, extra_files={EXTRA: request.metadata.dump()})


def load(path: Path, trust: bool) -> Loaded:
    """Reads the file that ``save`` wrote.

    Raises:
        ConfigError: it is not trusted, or is from another tool.
    """
    metadata = parse_metadata(read_archived(path, f"/extra/{EXTRA}", MAX_METADATA), str(path))
    check_trust(path, trust, "is an exported program, and reading it unpickles and runs what it names")
    return metadata, Plain.load({"pt2": map_file(path)})
