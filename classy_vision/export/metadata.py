"""What an artefact says of itself: inputs, heads, labels, and how images become its input."""

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

KEY = "classy_vision"
"""Under which the metadata stand in a file."""
INPUT = "images"
"""The name of the input, where a format names it."""
MAX_METADATA = 1 << 22
"""Characters of metadata; names of 20,000 classes are a tenth of that."""
MAX_HEADS = 1000
MAX_SIZE = 1 << 20
"""Of one axis of an input; vectors are long, images are not."""
MAX_VALUES = 1 << 27
"""In an input without the batch, half a gigabyte: a clip of 128 frames of 590 by 590 pixels."""


class Head(Config):
    """What a head's numbers mean.

    Attributes:
        kind: "classification" (softmax gives probabilities), "multilabel" (sigmoid does) or
            "regression" (a number); None where nobody said.
        classes: their names, in the order of the outputs.
    """

    kind: Literal["classification", "multilabel", "regression"] | None = None
    classes: tuple[str, ...] = ()

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name, times in Counter(classes).items() if times > 1]:
            raise ValueError(f"{shown(twice[0])} is there twice")
        return classes

    def check_output(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises where an output of ``shape`` does not mean this.

        Raises:
            ConfigError: ``kind`` takes numbers by class, or there are not as many as ``classes``.
        """
        if self.kind in ("classification", "multilabel") and len(shape) != 2:
            raise ConfigError(f"head {name!r} gives {shape}: {self.kind} takes (n, classes)")
        if self.classes and (len(shape) != 2 or shape[1] != len(self.classes)):
            raise ConfigError(f"head {name!r} gives {shape}, and has {len(self.classes)} classes")


class Metadata(Config):
    """All that an artefact says of itself, as JSON in each format.

    Attributes:
        schema_version: of these keys.
        library: the version that wrote it.
        format: a key of ``FORMATS``.
        precision: of weights, "float32", "bfloat16" or "int8"; also of the arithmetic, but in safetensors.
        input_shape: (n, c, h, w) or (n, c, t, h, w); None where any size will do.
        max_batch: the largest n.
        outputs: the heads in the order of the outputs, where a format gives them without names.
        heads: what outputs mean, by head.
        preprocessing: keys of ``data`` of a training config: image_size, resize, interpolation,
            mean, std, clip. None where nobody said.
        model: the config of the network, where it has one.
    """

    schema_version: Literal[1] = 1
    library: str = __version__
    format: str
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    input_shape: tuple[int | None, ...]
    max_batch: PositiveInt
    outputs: tuple[str, ...]
    heads: dict[str, Head]
    preprocessing: dict[str, Any] | None = None
    model: dict[str, Any] | None = None

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(self.model_dump(mode="json"))

    def check_input(self, shape: Sequence[int]) -> None:
        """Raises where the model was not made for inputs of ``shape``.

        Raises:
            ConfigError: says what it was made for.
        """
        wanted = (None, *self.input_shape[1:])
        fits = len(shape) == len(wanted) and all(w in (None, s) for w, s in zip(wanted, shape))
        if fits and 0 < shape[0] <= self.max_batch:
            return
        words = ["n", *("any" if size is None else str(size) for size in wanted[1:])]
        raise ConfigError(
            f"an input of shape {tuple(shape)}: this artefact takes ({', '.join(words)}), "
            f"n from 1 to {self.max_batch}"
        )


def parse_metadata(text: str | None, where: str) -> Metadata:
    """Metadata from what stands in a file.

    Raises:
        ConfigError: there are none, or they are none of ours.
    """
    if not text or len(text) > MAX_METADATA:
        raise ConfigError(f"{where!r} has no metadata of classy export: it is another tool's file")
    try:
        found = parse_json(text)
        check_nesting(found, "what they hold")
        _check_outline(found)
        heads = {name: Head.parse(head, f"{where}: head {name!r}") for name, head in found["heads"].items()}
        metadata = Metadata.parse({**found, "heads": heads}, where)
        if sorted(metadata.outputs) != sorted(heads):
            raise ConfigError(f"outputs {list(metadata.outputs)} are not the heads {list(heads)}")
        # As they stand there, of JSON's own types.
        return metadata.model_copy(update={key: found.get(key) for key in ("model", "preprocessing")})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where!r}: its metadata are damaged: {first_line(error)[:MAX_SHOWN]}") from None


def _check_outline(found: Any) -> None:
    """Raises where inputs and heads are not those of any model, before each of them is looked at.

    Raises:
        ConfigError: what is wrong.
    """
    if len(found["heads"]) > MAX_HEADS:
        raise ConfigError(f"{len(found['heads']):,} heads, of at most {MAX_HEADS}")
    shape = found["input_shape"]
    if not isinstance(shape, list) or not 2 <= len(shape) <= 5:
        raise ConfigError(f"input_shape = {shown(shape)}: (n, c, h, w), (n, c, t, h, w) or (n, c) is needed")
    if any(isinstance(size, int) and not 0 < size <= MAX_SIZE for size in shape):
        raise ConfigError(f"input_shape = {shown(shape)}: sizes are from 1 to {MAX_SIZE:,}")
    if math.prod(size for size in shape[1:] if isinstance(size, int)) > MAX_VALUES:
        raise ConfigError(f"input_shape = {shown(shape)}: an input has at most {MAX_VALUES:,} values")
