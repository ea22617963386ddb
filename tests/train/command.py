"""The command line as a person runs it: real processes, and jobs small enough for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SMALL_TRUNK = {
    "name": "anynet",
    "stem_type": "res_stem_cifar",
    "stem_width": 8,
    "block_type": "res_basic_block",
    "depths": [1, 1],
    "widths": [8, 16],
    "strides": [2, 2],
    "group_widths": [8, 16],
    "bottleneck_multipliers": [1.0, 1.0],
}
SMALL_CLIP_TRUNK = {
    "name": "resnext3d",
    "residual_transformation_type": "basic_transformation",
    "skip_transformation_type": "postactivated_shortcut",
    "num_blocks": [1, 1],
    "stem_planes": 8,
    "stem_spatial_kernel": 3,
    "stage_planes": 16,
    "frames_per_clip": 8,
    "clip_crop_size": 32,
}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
FSDP = {"ACCELERATE_USE_FSDP": "true"}
"""The environment in which processes share parameters."""


def head(name: str, block: str = "trunk_output", **options: Any) -> dict[str, Any]:
    return {"name": "fully_connected", "unique_id": name, "fork_block": block, **options}


def job(data: Mapping[str, Any], *heads: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """A job of two epochs of a small trunk."""
    schedule = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "workers": 0}
    schedule |= sections.pop("schedule", {})
    return {
        "model": {**SMALL_TRUNK, "heads": list(heads)},
        "data": {"image_size": 8, **data},
        "schedule": schedule,
        **sections,
    }


def digits_job(**sections: Any) -> dict[str, Any]:
    """The digits with two heads at two depths."""
    schedule = {"epochs": 3, "batch_size": 128, **sections.pop("schedule", {})}
    heads = head("digit", "trunk_output"), head("loop", "block1")
    return job({"source": "digits"}, *heads, schedule=schedule, **sections)


def clips_job(root: Path, **sections: Any) -> dict[str, Any]:
    """Directions of what moves in the videos of a folder."""
    data = {"image_size": 24, "clip": {"frames": 8}, **sections.pop("data", {})}
    config = job({"source": "folder", "root": str(root), **data}, head("direction"), **sections)
    config["model"] = {**SMALL_CLIP_TRUNK, "heads": config["model"]["heads"]}
    return config


def write(path: Path, config: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path


def start(
    *arguments: object,
    processes: int = 1,
    module: str = "classy_vision.cli",
    environment: Mapping[str, str] = {},
    **options: Any,
) -> subprocess.Popen[str]:
    launcher = [*TORCHRUN[:-1], str(processes)] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", module, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def classy(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def stop_when(
    ready: Callable[[], bool], process: subprocess.Popen[str], number: signal.Signals
) -> tuple[str, str]:
    """Sends a signal as soon as ``ready``, and gives what the process had printed."""
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, "it ended before it was stopped: " + process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=60)
