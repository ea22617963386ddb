"""Cosines of the gradients of heads, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.train import TrainConfig
from classy_vision.train.head_gradients import HeadGradients, analyse_heads, group_by_block
from classy_vision.train.job import prepare
from classy_vision.train.model import build_initial
from tests.train.command import digits_job, head, job, write
from tests.train.test_checkup import run_command

TWICE = {"a": {"target": "digit"}, "b": {"target": "digit"}, "c": {"target": "loop"}}


def settings(*heads: dict[str, Any], **schedule: Any) -> TrainConfig:
    tasks = {one["unique_id"]: TWICE[one["unique_id"]] for one in heads}
    return TrainConfig.parse(job({"source": "digits"}, *heads, tasks=tasks, schedule=schedule))


def test_cosines_are_those_of_the_gradients() -> None:
    wanted = settings(head("a"), head("c", "block1"), batch_size=1437)
    found = analyse_heads(wanted)
    assert found.blocks == ("stem", "block1-0", "block2-0")
    ready = prepare(wanted)
    model = build_initial(ready.settings, ready.tasks).train()
    rows = ready.records.rows(held_out=False)
    samples = ready.samples()
    outputs = model(torch.stack([samples[0, row].views[0] for row in rows]))
    losses = [ready.tasks[name].losses(outputs[name], ready.targets[name][rows]).mean() for name in "ac"]
    for block, parameters in list(group_by_block(model).items())[:2]:
        ours, theirs = (
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
            for loss in losses
        )
        cosine = float(torch.cosine_similarity(ours, theirs, dim=0))
        row = found.cosines["a", "c"]
        assert row[found.blocks.index(block)] == pytest.approx(cosine, abs=1e-3)
    assert found.cosines["a", "c"][2] is None  # which c does not read


def test_heads_part_before_the_first_conflict() -> None:
    pair = ("a", "b")
    blocks = ("stem", "one", "two", "three")
    for row, last, said in (
        ((0.5, 0.1, -0.2, None), "one", "part after one: a head that reads one"),
        ((0.5, 0.1, -0.2, 0.3), "one", "part after one"),
        ((-0.5, 0.1, 0.2, 0.3), None, "part from the first block on"),
        ((0.5, 0.1, 0.2, None), "two", "agree in all blocks"),
        ((None, None, None, None), None, "share no block"),
    ):
        found = HeadGradients(blocks, {pair: row})
        assert found.parting(pair) == last
        assert said in list(found.lines())[-1]


@pytest.mark.parametrize(
    ("heads", "schedule", "said"),
    [
        ((head("a"),), {}, "there is one: 'a'"),
        ((head("a"), head("c")), {"freeze_trunk": True}, "whole trunk is frozen"),
    ],
)
def test_what_cannot_be_compared(heads: Any, schedule: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        analyse_heads(settings(*heads, **schedule))


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "job.json", digits_job())
    code, out, err = run_command(capsys, monkeypatch, config, "--analyse-heads", "--plot", "heads.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["block", "digit,", "loop"]
    assert [line.split()[0] for line in lines[1:4]] == ["stem", "block1-0", "block2-0"]
    assert lines[-1] == "drawn: heads.png"
    with Image.open(tmp_path / "heads.png") as image:
        assert image.size[0] > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.png", "job.json"]
