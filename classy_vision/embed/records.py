"""The data of a training config, of a word: the same files, labels and split as ``classy train`` has."""

from __future__ import annotations

import os

from classy_vision.config import ConfigError, shown
from classy_vision.data.config import SOURCES, DataConfig
from classy_vision.data.files import TABLES

BUILT_IN = ("digits", "scenes")


def read_data(word: str, seen: DataConfig) -> DataConfig:
    """Reads a word that means labelled data.

    Args:
        word: "digits", "scenes", a folder of classes or a table.
        seen: what the model sees of a file.

    Raises:
        ConfigError: it is none of these.
    """
    common = seen.model_dump(include={*DataConfig.model_fields}, exclude_none=True) | {"on_bad_image": "skip"}
    path = os.path.expanduser(word)
    if word in BUILT_IN and not os.path.exists(path):
        return SOURCES[word].parse({**common, "source": word}, "data")
    if os.path.isdir(path):
        return SOURCES["folder"].parse({**common, "source": "folder", "root": path}, "data")
    if path.lower().endswith(TABLES) and os.path.isfile(path):
        return SOURCES["table"].parse({**common, "source": "table", "file": path}, "data")
    raise ConfigError(
        f"{shown(word)} is not data with labels: a folder with one folder per class, a table "
        f"({', '.join(TABLES)}), 'digits' or 'scenes' is needed"
    )
