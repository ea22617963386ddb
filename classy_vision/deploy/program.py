"""A reader and interpreter for the archives of ``torch.export``, which runs operators on tensors only.

The archive (its schema is torch's ``_export/serde/schema.py``) holds a graph in JSON and weights as
plain numbers. An argument is a mapping of one kind, such as ``as_ints``, to its value. Only
operators of ``aten`` that make tensors of tensors are run, and arithmetic on sizes.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCHEMA = 8
"""The major version that torch 2.10 to 2.13 write."""
KEYWORD = 2
"""The kind of an argument that is given by its name."""
ATEN = "torch.ops.aten."
SIZES: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem")
}
"""Arithmetic on sizes."""
FACTORIES = frozenset(("arange", "empty", "full", "ones", "scalar_tensor", "zeros"))
"""Operators that take no tensor."""
PLAIN = frozenset(("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_strings"))
# The schema's own numbers.
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format,
}  # fmt: skip
Values = dict[str, Any]
Argument = Callable[[Values], Any]


class UnreadableError(ValueError):
    """What a program needs that is not run here."""


@dataclass(frozen=True)
class Step:
    """A call of an operator.

    Attributes:
        call: the operator.
        arguments, keywords: read from the values there are.
        outputs: names of what comes out; those of several tensors in a list.
        done: names that nothing behind this step reads.
    """

    call: Callable[..., Any]
    arguments: Sequence[Argument]
    keywords: Mapping[str, Argument]
    outputs: Sequence[str | list[str]]
    done: Sequence[str] = ()

    def run(self, values: Values) -> None:
        """Adds the outputs to ``values``, and takes away what is done with."""
        found = self.call(
            *[a(values) for a in self.arguments], **{k: a(values) for k, a in self.keywords.items()}
        )
        for name, value in zip(self.outputs, found if len(self.outputs) > 1 else [found]):
            values.update(zip(name, value) if isinstance(name, list) else [(name, value)])
        for name in self.done:
            del values[name]


@dataclass(frozen=True)
class Program:
    """A graph with its weights; called with an input, it gives the outputs in order."""

    steps: Sequence[Step]
    weights: Mapping[str, Tensor]
    input: str
    outputs: Sequence[str]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        values: Values = {**self.weights, self.input: images}
        for step in self.steps:
            step.run(values)
        return [values[name] for name in self.outputs]


def read_program(archive: zipfile.ZipFile) -> Program:
    """The program of an archive.

    Raises:
        UnreadableError: it is of another version, or needs more than operators on tensors.
        ValueError, LookupError, TypeError, AttributeError: it is damaged.
    """
    model = json.loads(archive.read(_member(archive, "models/model.json")))
    if model["schema_version"]["major"] != SCHEMA:
        raise UnreadableError(f"is of version {model['schema_version']['major']}, not {SCHEMA}")
    graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
    steps = [_step(node) for node in graph["nodes"]]
    outputs = [_name(spec["user_output"]["arg"]) for spec in signature["output_specs"]]
    sources, given = {}, []
    for spec in signature["input_specs"]:
        ((kind, entry),) = spec.items()
        if kind == "user_input":
            given.append(_name(entry["arg"]))
        elif kind in _SOURCES:
            sources[entry["arg"]["name"]] = (_SOURCES[kind], entry[f"{kind}_name"])
        else:
            raise UnreadableError(f"takes an input of the kind {kind!r}")
    (images,) = given
    weights = {name: _read(archive, folder, key) for name, (folder, key) in _tables(archive, sources).items()}
    return Program(_freeing(steps, graph["nodes"], {*weights, *outputs}), weights, images, outputs)


# -- weights

_SOURCES = {"parameter": "weights", "buffer": "weights", "tensor_constant": "constants"}


def _tables(
    archive: zipfile.ZipFile, sources: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """By name in the graph the folder of a tensor, and what is written of it."""
    tables = {
        folder: json.loads(archive.read(_member(archive, f"data/{folder}/model_{folder}_config.json")))[
            "config"
        ]
        for folder in {folder for folder, _ in sources.values()}
    }
    return {name: (folder, tables[folder][key]) for name, (folder, key) in sources.items()}


def _read(archive: zipfile.ZipFile, folder: str, entry: Mapping[str, Any]) -> Tensor:
    """A tensor of plain numbers."""
    if entry["use_pickle"] or entry["tensor_meta"]["device"]["type"] != "cpu":
        raise UnreadableError("holds pickles, or tensors of another device than the CPU")
    meta = entry["tensor_meta"]
    sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
    data = bytearray(archive.read(_member(archive, f"data/{folder}/{entry['path_name']}")))
    dtype = _dtype(meta["dtype"])
    if not math.prod(sizes):
        return torch.empty(sizes, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype)
    return flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])  # checks the bounds


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    found = [info for info in archive.infolist() if info.filename.partition("/")[2] == name]
    if len(found) != 1:
        raise LookupError(f"it has {len(found)} parts {name}")
    if found[0].compress_type != zipfile.ZIP_STORED:  # torch compresses nothing, bombs are compressed
        raise ValueError(f"its part {name} is compressed")
    return found[0]


# -- steps


def _step(node: Mapping[str, Any]) -> Step:
    given = [(entry["name"], entry.get("kind"), _argument(entry["arg"])) for entry in node["inputs"]]
    return Step(
        _call(node["target"]),
        [argument for _, kind, argument in given if kind != KEYWORD],
        {name: argument for name, kind, argument in given if kind == KEYWORD},
        [_outputs(output) for output in node["outputs"]],
    )


def _call(target: str) -> Callable[..., Any]:
    if target in SIZES:
        return SIZES[target]
    name, _, overload = target.removeprefix(ATEN).partition(".")
    if not target.startswith(ATEN) or not (name + overload).isidentifier():
        raise UnreadableError(f"calls {target!r}, which is no operator of aten")
    call = getattr(getattr(torch.ops.aten, name), overload)
    takes = [str(argument.type) for argument in call._schema.arguments]
    gives = [str(value.type) for value in call._schema.returns]
    of_tensors = name in FACTORIES or any("Tensor" in kind for kind in takes)
    to_tensors = name == "sym_size" or all("Tensor" in kind for kind in gives)
    if not (of_tensors and to_tensors and gives):
        raise UnreadableError(f"calls {target!r}, which does not make tensors of tensors")
    return call


def _argument(arg: Mapping[str, Any]) -> Argument:
    ((kind, value),) = arg.items()
    if kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        return _size(value)
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints"):
        parts = [_size(part) for part in value]
        return lambda values: [part(values) for part in parts]
    constant = _constant(kind, value)
    return lambda values: constant


def _size(value: Mapping[str, Any]) -> Argument:
    """A tensor or a size by name, or a number."""
    if "as_none" in value:
        return lambda values: None
    if "as_tensor" in value:
        value = value["as_tensor"]
    if "as_int" in value:
        return lambda values: value["as_int"]
    name = value["as_name"] if "as_name" in value else value["name"]
    return lambda values: values[name]


def _constant(kind: str, value: Any) -> Any:
    if kind in PLAIN:
        return value
    if kind == "as_none":
        return None
    if kind == "as_float":
        return float(value)  # what is not finite is a string
    if kind == "as_floats":
        return [float(number) for number in value]
    if kind == "as_scalar_type":
        return _dtype(value)
    if kind == "as_memory_format":
        return MEMORY_FORMATS[value]
    if kind == "as_device" and value["type"] == "cpu":
        return torch.device("cpu")
    if kind == "as_layout" and value == 7:
        return torch.strided
    raise UnreadableError(f"has an argument of the kind {kind!r}")


def _dtype(number: int) -> torch.dtype:
    if number not in DTYPES:
        raise UnreadableError(f"has numbers of a type that is not read here, {number} in torch's schema")
    return DTYPES[number]


def _outputs(output: Mapping[str, Any]) -> str | list[str]:
    if "as_tensors" in output:
        return [part["name"] for part in output["as_tensors"]]
    return _name(output)


def _name(arg: Mapping[str, Any]) -> str:
    ((kind, value),) = arg.items()
    if kind not in ("as_tensor", "as_sym_int", "as_sym_bool"):
        raise UnreadableError(f"has an output of the kind {kind!r}")
    return str(value["name"] if kind == "as_tensor" else value["as_name"])


def _freeing(steps: Sequence[Step], nodes: Sequence[Mapping[str, Any]], kept: set[str]) -> list[Step]:
    """The steps, each with the names that are read last in it."""
    freed, seen = [], set(kept)
    for step, node in zip(reversed(steps), reversed(nodes)):
        text = {name for entry in node["inputs"] for name in _reads(entry["arg"])}
        made = {n for output in step.outputs for n in (output if isinstance(output, list) else [output])}
        done = sorted((text | made) - seen)
        seen |= text | made
        freed.append(Step(step.call, step.arguments, step.keywords, step.outputs, done))
    return freed[::-1]


def _reads(arg: Any) -> list[str]:
    """Names of values in an argument."""
    if isinstance(arg, list):
        return [name for part in arg for name in _reads(part)]
    if not isinstance(arg, Mapping):
        return []
    own = [arg[key] for key in ("name", "as_name") if isinstance(arg.get(key), str)]
    return own + [name for part in arg.values() for name in _reads(part)]
