"""Metadata of exported files: inputs, heads, class names, and how images are preprocessed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import field_validator

from classy_vision import __version__
from classy_vision.config import (
    MAX_SHOWN,
    Config,
    ConfigError,
    PositiveInt,
    check_nesting,
    first_line,
    parse_json,
    shown,
)
from classy_vision.train.config import DENSE, Kind

KEY = "classy_vision"
"""The key of the metadata in a file."""
INPUT = "images"
"""The name of the input, in formats that name it."""
MAX_METADATA = 1 << 22
"""Characters of metadata; names of 20,000 classes are a tenth of that."""
MAX_HEADS = 1000
MAX_SIZE = 1 << 20
"""The largest size of one axis of an input: vectors can be long."""
MAX_VALUES = 1 << 27
"""The largest input without the batch, half a gigabyte: a clip of 128 frames of 590 by 590 pixels."""


class Head(Config):
    """The meaning of a head's outputs.

    Attributes:
        kind: "classification" (softmax returns probabilities), "multilabel" (sigmoid does) or "regression"
            (a number); "segmentation" and "dense_regression" for maps (n, k, h, w); None if unknown.
        classes: the names of the classes, in the order of the outputs.
    """

    kind: Kind | None = None
    classes: tuple[str, ...] = ()

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name, times in Counter(classes).items() if times > 1]:
            raise ValueError(f"{shown(twice[0])} is listed twice")
        return classes

    def check_output(self, name: str, shape: tuple[int, ...]) -> None:
        """Checks that an output of ``shape`` can have this meaning.

        Raises:
            ConfigError: ``kind`` needs one output per class, or their number is not that of ``classes``.
        """
        axes = 4 if self.kind in DENSE else 2
        if self.kind not in ("regression", None) and len(shape) != axes:
            wanted = "(n, k, h, w)" if self.kind in DENSE else "(n, classes)"
            raise ConfigError(f"head {name!r} has outputs {shape}: {self.kind} needs {wanted}")
        if self.classes and (len(shape) != axes or shape[1] != len(self.classes)):
            raise ConfigError(f"head {name!r} has outputs {shape}, but {len(self.classes)} classes are named")


class Metadata(Config):
    """The metadata of an exported file; each format stores them as JSON.

    Attributes:
        schema_version: the version of these keys.
        library: the version of the library that wrote the file.
        format: a key of ``FORMATS``.
        precision: of weights and arithmetic, "float32", "bfloat16", "float16" or "int8"; safetensors
            files always compute in float32.
        input_shape: (n, c, h, w) or (n, c, t, h, w); None for dynamic sizes.
        max_batch: the largest n.
        outputs: the heads in the order of the outputs, which have no names in some formats.
        heads: the meaning of the outputs, by head.
        preprocessing: keys of ``data`` in a training config: image_size, resize, interpolation,
            mean, std, clip. None if unknown.
        model: the config of the network; None if it has none.
    """

    schema_version: Literal[1] = 1
    library: str = __version__
    format: str
    precision: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    input_shape: tuple[int | None, ...]
    max_batch: PositiveInt
    outputs: tuple[str, ...]
    heads: dict[str, Head]
    preprocessing: dict[str, Any] | None = None
    model: dict[str, Any] | None = None

    def dump(self) -> str:
        """Returns the metadata as JSON."""
        return json.dumps(self.model_dump(mode="json"))

    def check_input(self, shape: Sequence[int]) -> None:
        """Checks that the model takes inputs of ``shape``.

        Raises:
            ConfigError: it does not; the message names the shapes that it takes.
        """
        wanted = (None, *self.input_shape[1:])
        fits = len(shape) == len(wanted) and all(w in (None, s) for w, s in zip(wanted, shape))
        if fits and 0 < shape[0] <= self.max_batch:
            return
        words = ["n", *("any" if size is None else str(size) for size in wanted[1:])]
        raise ConfigError(
            f"an input of shape {tuple(shape)}: this exported model takes ({', '.join(words)}), "
            f"n from 1 to {self.max_batch}"
        )


def parse_metadata(text: str | bytes | None, where: str) -> Metadata:
    """Parses the metadata of a file.

    Raises:
        ConfigError: the file has no metadata, or they are damaged or written by another tool.
    """
    if not text or len(text) > MAX_METADATA:
        raise ConfigError(f"{where!r} has no metadata of classy export: another tool wrote it")
    try:
        found = parse_json(text)
        check_nesting(found, "the metadata")
        _check_outline(found)
        heads = {name: Head.parse(head, f"{where}: head {name!r}") for name, head in found["heads"].items()}
        metadata = Metadata.parse({**found, "heads": heads}, where)
        if sorted(metadata.outputs) != sorted(heads):
            raise ConfigError(f"outputs {list(metadata.outputs)} are not the heads {list(heads)}")
        # These two stay as they are in the JSON.
        return metadata.model_copy(update={key: found.get(key) for key in ("model", "preprocessing")})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where!r}: its metadata are damaged: {first_line(error)[:MAX_SHOWN]}") from None


def _check_outline(found: Any) -> None:
    """Checks the number of heads and the size of the input before each head is parsed.

    Raises:
        ConfigError: one of them is larger than that of any model.
    """
    if len(found["heads"]) > MAX_HEADS:
        raise ConfigError(f"{len(found['heads']):,} heads: a model has at most {MAX_HEADS}")
    shape = found["input_shape"]
    if not isinstance(shape, list) or not 2 <= len(shape) <= 5:
        raise ConfigError(f"input_shape = {shown(shape)}: (n, c, h, w), (n, c, t, h, w) or (n, c) is needed")
    if any(isinstance(size, int) and not 0 < size <= MAX_SIZE for size in shape):
        raise ConfigError(f"input_shape = {shown(shape)}: sizes are from 1 to {MAX_SIZE:,}")
    if math.prod(size for size in shape[1:] if isinstance(size, int)) > MAX_VALUES:
        raise ConfigError(f"input_shape = {shown(shape)}: an input has at most {MAX_VALUES:,} values")
