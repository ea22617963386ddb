"""Data parallel and sharded training, in real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.models.small import CASES


@pytest.mark.parametrize(("what", "processes"), [("data_parallel", 2), ("frozen", 2), ("sharded", 2)])
def test_distributed(what: str, processes: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "tests.models.distributed_worker", what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert f"{what}: {len(CASES)} cases agree" in done.stdout, done.stderr[-3000:]
