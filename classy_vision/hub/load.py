"""Models from folders, from the hub and by published names. No code of theirs runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, first_line, read_config
from classy_vision.hub.describe import CONFIG
from classy_vision.models.classy_model import ClassyModel, build_model
from classy_vision.run_files import RUN_CONFIG
from classy_vision.weights.catalogue import HUB, is_published
from classy_vision.weights.files import WEIGHTS

MAX_NUMBER = 200_000
"""The largest number and the longest list in a config: layers without weights take memory, too."""
OF_FILES = ("max_pixels", "value_range")
"""Keys of preprocessing whose numbers make nothing larger that a model holds."""
DEPTHS = {"depth": 2000, "depths": 2000, "num_blocks": 2000, "num_layers": 2000, "depth_coefficient": 100}
"""The largest sums of numbers that say how many layers are made."""


def from_pretrained(name: str | Path, **options: Any) -> ClassyModel:
    """The model of a folder, of a repository of the hub, or of published weights.

    Nothing is unpickled, and the config is held to sizes that models have. The hub's own library
    minds its cache, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE``.

    Args:
        name: a folder of ``save_pretrained``, a run folder, "owner/repository[@revision]", or
            published weights ("timm/resnet50.a1_in1k").
        options: what ``huggingface_hub.hf_hub_download`` takes: ``revision``, ``token``,
            ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        ConfigError: there is no such thing, it cannot be had, or it is damaged.
    """
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return _from_folder(folder)
    if folder.exists():
        raise ConfigError(f"{str(name)!r} is no folder: ClassyModel.from_checkpoint takes files")
    if is_published(str(name)):
        return build_model(str(name), weights=True)
    if str(name).removeprefix(HUB).partition("@")[0].count("/") != 1:
        raise ConfigError(f"{str(name)!r} is no folder, no repository 'owner/name' and no published weights")
    return _from_files(*_download(str(name).removeprefix(HUB), options))


def _from_folder(folder: Path) -> ClassyModel:
    if (folder / CONFIG).is_file():
        return _from_files(folder / CONFIG, folder / WEIGHTS)
    if (folder / RUN_CONFIG).is_file():
        return ClassyModel.from_checkpoint(folder)
    raise ConfigError(f"{str(folder)!r} holds neither {CONFIG} nor {RUN_CONFIG}")


def _from_files(config: Path, weights: Path) -> ClassyModel:
    if not weights.is_file():
        raise ConfigError(f"no such weights file: {str(weights)!r}")
    return build_model(check_config(config), weights={"source": weights, "skip_heads": ()})


def check_config(path: Path) -> dict[str, Any]:
    """The config in a file that may be anyone's.

    Raises:
        ConfigError: it is malformed, names files, or describes what no model is like.
    """
    config = read_config(path)
    check_values(config, str(path))
    return config


def check_values(config: Mapping[str, Any], where: str) -> None:
    """Raises unless anyone's config is of a size that models have, and names no files.

    Raises:
        ConfigError: what is wrong with it.
    """
    if not isinstance(config.get("name"), str) or "weights" in config:
        wrong = "has a key 'weights'" if "weights" in config else "does not name its model"
        raise ConfigError(f"{where!r} {wrong}: it is no config of ClassyModel.save_pretrained")
    seen = config.get("preprocessing")
    if isinstance(seen, dict):
        config = {**config, "preprocessing": {key: seen[key] for key in seen if key not in OF_FILES}}
    if _number(config) > MAX_NUMBER:
        raise ConfigError(f"{where!r} holds a number or a list beyond {MAX_NUMBER:,}")
    inner = config.get("model_params")
    for key, value in [*config.items(), *(inner.items() if isinstance(inner, dict) else ())]:
        if key in DEPTHS and _sum(value) > DEPTHS[key]:
            raise ConfigError(f"{where!r}: {key} is more than {DEPTHS[key]:,} in all")


def _number(value: Any) -> float:
    """The largest number or length in nested values."""
    if isinstance(value, (Mapping, list)):
        inner = value.values() if isinstance(value, Mapping) else value
        return max([len(value), *map(_number, inner)])
    return abs(value) if isinstance(value, (int, float)) else 0


def _sum(value: Any) -> float:
    values = value if isinstance(value, list) else [value]
    return sum(abs(v) for v in values if isinstance(v, (int, float)))


def _download(name: str, options: Mapping[str, Any]) -> tuple[Path, Path]:
    """Config and weights of a repository, in the hub's cache, of one revision."""
    hub = import_hub()
    repository, _, revision = name.partition("@")
    options = {**({"revision": revision} if revision else {}), **options}
    try:
        config = Path(hub.hf_hub_download(repository, CONFIG, **options))
        if os.path.basename(os.path.dirname(config.parent)) == "snapshots":  # its commit
            options = {**options, "revision": config.parent.name}
        return config, Path(hub.hf_hub_download(repository, WEIGHTS, **options))
    except hub.errors.RepositoryNotFoundError:
        raise ConfigError(f"the hub has no repository {repository!r}, or it is private") from None
    except hub.errors.RevisionNotFoundError:
        raise ConfigError(f"the repository {repository!r} has no revision {options['revision']!r}") from None
    except hub.errors.LocalEntryNotFoundError:
        raise ConfigError(f"{name!r} cannot be downloaded, and is in no cache") from None
    except hub.errors.EntryNotFoundError:
        raise ConfigError(
            f"the repository {repository!r} has not both {CONFIG} and {WEIGHTS}: "
            f"it is no model of push_to_hub; load_weights may know its weights"
        ) from None
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(f"{name!r} cannot be downloaded, and is in no cache: {reason}") from None


def import_hub() -> Any:
    """The hub's library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise ConfigError("the hub needs: pip install 'classy-vision-models[hub]'") from None
    return huggingface_hub


def read_json(path: Path) -> Any:
    """What a file of JSON holds; None where there is no such file, or it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
