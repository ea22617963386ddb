"""Where weights come from: a file, a run folder, a published name, or a hub repository."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.error import URLError

import torch

from classy_vision.config import ConfigError, first_line
from classy_vision.run_files import CLASSY_CHECKPOINT, WEIGHTS
from classy_vision.weights.catalogue import HUB, is_published, published

TORCHVISION = "https://download.pytorch.org/models"
HUB_FILES = (WEIGHTS, "pytorch_model.bin")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def find_file(source: str | Path) -> Path:
    """The file of weights that ``source`` means, downloaded to the usual cache where it must be.

    Args:
        source: a file, a run folder, the folder of a checkpoint, "timm/<architecture>.<tag>",
            "torchvision/<name>.<weights>", or "hf-hub:<owner>/<repository>[@<revision>]".

    Raises:
        ConfigError: there is no such thing, it cannot be had, or its checksum is another.
    """
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    name = str(source)
    if name.startswith(HUB):
        return _from_hub(name.removeprefix(HUB))
    if is_published(name):
        place = published(name).place
        return _from_hub(place) if "/" in place else _from_address(f"{TORCHVISION}/{place}")
    raise ConfigError(
        f"no such weights file: {name!r}; published ones are 'timm/resnet50.a1_in1k', "
        f"'torchvision/resnet50.IMAGENET1K_V2' or '{HUB}owner/repository'"
    )


def _in_folder(folder: Path) -> Path:
    for name in (WEIGHTS, CLASSY_CHECKPOINT):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{str(folder)!r} holds neither {WEIGHTS} nor {CLASSY_CHECKPOINT}")


def _from_hub(name: str) -> Path:
    """From the Hugging Face hub: its own library minds caches, mirrors, tokens and being offline."""
    if not _REPO.fullmatch(name) or ".." in name:
        raise ConfigError(f"{name!r} names no repository of the hub: owner/repository[@revision] does")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise ConfigError(f"{HUB}{name} needs: pip install 'classy-vision-models[hub]'") from None
    repository, _, revision = name.partition("@")
    for file in HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except RepositoryNotFoundError:
            raise ConfigError(f"the hub has no repository {repository!r}, or it is private") from None
        except RevisionNotFoundError:
            raise ConfigError(f"the repository {repository!r} has no revision {revision!r}") from None
        except LocalEntryNotFoundError as error:
            raise _unreachable(f"{HUB}{name}", error) from None
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _unreachable(f"{HUB}{name}", error) from None
    raise ConfigError(f"the repository {repository!r} has no file {' or '.join(HUB_FILES)}")


def _from_address(address: str) -> Path:
    """A file whose name ends in the first digits of its SHA-256, in torch's cache."""
    name = address.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{name}.{os.getpid()}.part")
        try:
            torch.hub.download_url_to_file(address, str(beside), progress=False)
            _check_sum(beside, name)
            os.replace(beside, path)
        except (URLError, OSError) as error:
            raise _unreachable(address, error) from None
        finally:
            beside.unlink(missing_ok=True)
    _check_sum(path, name)
    return path


def _check_sum(path: Path, name: str) -> None:
    expected = re.search(r"-([0-9a-f]{8,})\.", name)
    if expected is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    if not digest.hexdigest().startswith(expected[1]):
        found = digest.hexdigest()[: len(expected[1])]
        raise ConfigError(f"{str(path)!r} is damaged: its SHA-256 begins with {found}, not {expected[1]}")


def _unreachable(name: str, error: Exception) -> ConfigError:
    reason = first_line(error)
    return ConfigError(f"{name} cannot be downloaded, and is in no cache: {reason}")
