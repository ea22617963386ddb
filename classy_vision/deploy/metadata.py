"""What an artefact says of itself: inputs, heads, labels, and how images become its input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from classy_vision import __version__
from classy_vision.config import Config, ConfigError, PositiveInt, first_line

KEY = "classy_vision"
"""Under which the metadata stand in a file."""
INPUT = "images"
"""The name of the input, where a format names it."""
MAX_METADATA = 1 << 24
"""Bytes of metadata; names of 20,000 classes are a fortieth of that."""


class Head(Config):
    """What a head's numbers mean.

    Attributes:
        kind: "classification" (softmax gives probabilities), "multilabel" (sigmoid does) or
            "regression" (a number); None where nobody said.
        classes: their names, in the order of the outputs.
    """

    kind: Literal["classification", "multilabel", "regression"] | None = None
    classes: tuple[str, ...] = ()

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
        found = json.loads(text)
        heads = {name: Head.parse(head, f"{where}: head {name!r}") for name, head in found["heads"].items()}
        metadata = Metadata.parse({**found, "heads": heads}, where)
        if sorted(metadata.outputs) != sorted(heads):
            raise ConfigError(f"outputs {list(metadata.outputs)} are not the heads {list(heads)}")
        # As they stand there, of JSON's own types.
        return metadata.model_copy(update={key: found.get(key) for key in ("model", "preprocessing")})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where!r}: its metadata are damaged: {first_line(error)}") from None
