"""A folder of networks that were drawn: a config for each, and an index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from classy_vision.atomic import replacing_folder
from classy_vision.config import ConfigError
from classy_vision.study.candidates import INDEX
from classy_vision.study.draw import Sample, describe
from classy_vision.study.region import Region


def write_samples(
    folder: str | Path,
    samples: Sequence[Sample],
    region: Region,
    name: str,
    seed: int,
    force: bool = False,
) -> None:
    """Writes a YAML file per network, and ``index.json`` with the region and what each one costs.

    Files are named after the region, the seed and the number of the draw. The folder is made beside
    its place and renamed.

    Args:
        folder: to write.
        samples: from ``sample``.
        region: of the samples.
        name: of the region.
        seed: of the draws.
        force: replace an existing folder of samples.

    Raises:
        ConfigError: the folder exists, or it cannot be written.
    """
    folder = Path(folder)
    check_free(folder, force)
    stems = [f"{name}-s{seed}-{number:04d}" for number in range(len(samples))]
    models = [{"file": f"{stem}.yaml", **asdict(one.costs)} for stem, one in zip(stems, samples)]
    index = {"region": {"name": name, **region.model_dump(mode="json")}, "seed": seed, "models": models}
    files = {INDEX: json.dumps(index, indent=2) + "\n"}
    for stem, one in zip(stems, samples):
        text = yaml.safe_dump(dict(one.config), sort_keys=False, default_flow_style=None)
        files[f"{stem}.yaml"] = f"# {stem}: {', '.join(describe(one.costs))}\n{text}"
    with replacing_folder(folder) as new:
        for file, text in files.items():
            (new / file).write_text(text, encoding="utf-8")


def check_free(folder: Path, force: bool) -> None:
    """Raises a ConfigError if ``folder`` holds anything but samples, or holds samples without ``force``."""
    if not folder.exists():
        return
    index = read_index(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if index is None:
        raise ConfigError(f"{str(folder)!r} exists and is not a folder of samples: choose another --output")
    ours = {INDEX, *(model["file"] for model in index["models"])}
    if others := sorted(path.name for path in folder.iterdir() if path.name not in ours):
        raise ConfigError(f"{str(folder)!r} exists, and holds {others[0]!r} besides samples: choose another")
    if not force:
        raise ConfigError(f"{str(folder)!r} exists: choose another --output, or replace it by --force")


def read_index(folder: Path) -> Mapping[str, Any] | None:
    """Reads the index of a folder of samples; None if it is not one."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(index, dict) and {"region", "seed", "models"} <= index.keys()
    return index if ours else None
