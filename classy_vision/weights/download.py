"""Files from the Hugging Face hub and from plain addresses, and the errors if they cannot be downloaded."""

from __future__ import annotations

import hashlib
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from classy_vision.atomic import replacing
from classy_vision.config import ConfigError, first_line

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def import_hub() -> Any:
    """Imports the hub's own library, which handles caches, mirrors, tokens and being offline.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise ConfigError("the hub needs: pip install 'classy-vision-models[hub]'") from None
    return huggingface_hub


def download_file(name: str, file: str, **options: Any) -> Path | None:
    """Downloads a file of a repository to the hub's cache; None if the repository does not have it.

    Args:
        name: "owner/repository[@revision]".
        file: its name there.
        options: of ``huggingface_hub.hf_hub_download``.

    Raises:
        ConfigError: there is no such repository or revision, or it cannot be downloaded.
    """
    if not _REPOSITORY.fullmatch(name) or ".." in name:
        raise ConfigError(f"{name!r} is not the name of a repository of the hub: owner/repository[@revision]")
    hub = import_hub()
    repository, _, revision = name.partition("@")
    options = {**({"revision": revision} if revision else {}), **options}
    # The client of HTTP is another in each version of the hub's library, which has a subclass of its error.
    broken = hub.errors.HfHubHTTPError.__bases__
    try:
        return Path(hub.hf_hub_download(repository, file, **options))
    except hub.errors.GatedRepoError:
        raise ConfigError(
            f"the repository {repository!r} is gated: accept its license at "
            f"{hub.constants.ENDPOINT}/{repository}, and log in with that account: hf auth login, or HF_TOKEN"
        ) from None
    except hub.errors.RepositoryNotFoundError:
        raise ConfigError(
            f"the hub has no repository {repository!r}, or it is private: hf auth login, or HF_TOKEN, opens it"
        ) from None
    except hub.errors.RevisionNotFoundError:
        raise ConfigError(f"the repository {repository!r} has no revision {options['revision']!r}") from None
    except hub.errors.LocalEntryNotFoundError as error:
        raise _describe_failure(repr(name), error) from None
    except hub.errors.EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _describe_failure(repr(name), error) from None
    except broken as error:
        raise _describe_break(repr(name), first_line(error)) from None


def download_address(address: str) -> Path:
    """Downloads a file whose name ends in the first digits of its SHA-256 to torch's cache.

    Raises:
        ConfigError: it cannot be downloaded, or its checksum is another.
    """
    name = address.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            try:
                torch.hub.download_url_to_file(address, str(beside), progress=False)
            except (OSError, HTTPException) as error:
                raise _describe_failure(address, error) from None
            if found := _find_damage(beside, name):
                raise _describe_break(address, found)
    if found := _find_damage(path, name):
        raise ConfigError(f"{str(path)!r} is damaged: {found}; delete it, and it is downloaded again")
    return path


def _find_damage(path: Path, name: str) -> str:
    """Says how the SHA-256 of a file differs from the first digits in its name; nothing where it does not."""
    expected = re.search(r"-([0-9a-f]{8,})\.", name)
    if expected is None:
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    found = digest.hexdigest()[: len(expected[1])]
    return "" if found == expected[1] else f"its SHA-256 begins with {found}, not {expected[1]}"


def _describe_failure(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{name} cannot be downloaded and is not in the cache: {first_line(error)}")


def _describe_break(name: str, reason: str) -> ConfigError:
    return ConfigError(f"the download of {name} is incomplete and nothing of it was kept; try again ({reason})")
