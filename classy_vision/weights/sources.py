"""Where weights come from: a file, a run folder, a published name, or a hub repository."""

from __future__ import annotations

import os
from pathlib import Path

from classy_vision.config import ConfigError
from classy_vision.run_files import CLASSY_CHECKPOINT, WEIGHTS
from classy_vision.weights.catalogue import HUB, is_published, published
from classy_vision.weights.download import download_address, download_file

HUB_FILES = (WEIGHTS, "pytorch_model.bin")


def find_file(source: str | Path) -> Path:
    """The file of weights that ``source`` means, downloaded to the usual cache if need be.

    Args:
        source: a file, a run folder, the folder of a checkpoint, "timm/<architecture>.<tag>",
            "torchvision/<name>.<weights>", or "hf-hub:<owner>/<repository>[@<revision>]".

    Raises:
        ConfigError: there is no such source, it cannot be downloaded, or its checksum is another.
    """
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return path
    if path.is_dir():
        return _find_in_folder(path)
    name = str(source)
    if name.startswith(HUB):
        return _download(name.removeprefix(HUB))
    if is_published(name):
        entry = published(name)
        return _download(entry.place) if "/" in entry.place else download_address(entry.address)
    raise ConfigError(
        f"no such weights file: {name!r}; published ones are 'timm/resnet50.a1_in1k', "
        f"'torchvision/resnet50.IMAGENET1K_V2' or '{HUB}owner/repository'"
    )


def _find_in_folder(folder: Path) -> Path:
    for name in (WEIGHTS, CLASSY_CHECKPOINT):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{str(folder)!r} holds neither {WEIGHTS} nor {CLASSY_CHECKPOINT}")


def _download(name: str) -> Path:
    for file in HUB_FILES:
        if path := download_file(name, file):
            return path
    raise ConfigError(f"the repository {name.partition('@')[0]!r} has no file {' or '.join(HUB_FILES)}")
