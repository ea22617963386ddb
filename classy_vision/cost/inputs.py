"""What a model is counted with: classes that its config leaves open, and another image size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from classy_vision.config import ConfigError


def with_classes(config: Mapping[str, Any], classes: int | None) -> dict[str, Any]:
    """``config`` with ``classes`` in the heads that do not give their number, or in the default head.

    Args:
        config: of a model; it is not changed.
        classes: None or 0 leaves it as it is.
    """
    if not classes:
        return dict(config)
    heads = config.get("heads")
    if not isinstance(heads, (list, tuple)) or not heads:
        return {"num_classes": classes, **config}
    full = [{"num_classes": classes, **head} if isinstance(head, Mapping) else head for head in heads]
    return {**config, "heads": full}


def parse_size(given: str | None) -> tuple[int, int] | None:
    """Height and width from "256" or "256x192".

    Raises:
        ConfigError: it is neither.
    """
    if given is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", given)
    if not match:
        raise ConfigError(f"image size {given!r}: give a height and a width, such as 256 or 256x192")
    return int(match[1]), int(match[2] or match[1])
