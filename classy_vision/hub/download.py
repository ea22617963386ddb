"""Where the folder of a model is: on this machine, or in a repository of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.hub.folder import CONFIG
from classy_vision.run_files import RUN_CONFIG, WEIGHTS
from classy_vision.weights.catalogue import HUB
from classy_vision.weights.download import download_file


def find_folder(name: str | Path, options: Mapping[str, Any]) -> Path:
    """A folder with ``config.json`` or ``config.yaml``, downloaded to the hub's cache if need be.

    Args:
        name: a folder, or "owner/repository[@revision]".
        options: of ``huggingface_hub.hf_hub_download``.

    Raises:
        ConfigError: there is no such folder or repository, or it cannot be downloaded.
    """
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        if not any((folder / config).is_file() for config in (CONFIG, RUN_CONFIG)):
            raise ConfigError(f"{str(folder)!r} holds neither {CONFIG} nor {RUN_CONFIG}")
        return folder
    if folder.exists():
        raise ConfigError(f"{str(name)!r} is not a folder: ClassyModel.from_checkpoint takes files")
    repository = str(name).removeprefix(HUB)
    if repository.partition("@")[0].count("/") != 1:
        raise ConfigError(
            f"{str(name)!r} is not a folder, a repository 'owner/name' or the name of published weights"
        )
    return _download(repository, options)


def _download(name: str, options: Mapping[str, Any]) -> Path:
    """Config and weights of one revision of a repository."""
    config = download_file(name, CONFIG, **options)
    if config is not None and config.parent.parent.name == "snapshots":  # the folder is named by its commit
        name, options = name.partition("@")[0], {**options, "revision": config.parent.name}
    if config is None or download_file(name, WEIGHTS, **options) is None:
        raise ConfigError(
            f"the repository {name.partition('@')[0]!r} does not have both {CONFIG} and {WEIGHTS}: "
            f"push_to_hub did not write it; load_weights may know its weights"
        )
    return config.parent
