"""Which rows are held out: the same part of every class, whatever the seed of a run is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from PIL import Image

from classy_vision.data.split import hold_out
from classy_vision.train import TrainConfig
from classy_vision.train.job import find_strata, prepare
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.tasks import KINDS
from tests.train.command import head, job


def split(cells: list[Any], kind: str, fraction: float = 0.2, seed: int = 0) -> list[bool]:
    return hold_out(find_strata({"x": cells}, {"x": KINDS[kind]}, fraction), fraction, seed)


def held(cells: list[Any], rows: list[bool]) -> list[Any]:
    return [cell for cell, is_held in zip(cells, rows) if is_held]


def test_of_every_class_the_same_part_is_held_out() -> None:
    cells = Random(1).sample(["a"] * 100 + ["b"] * 15 + ["c"] * 2 + ["d"] + [None] * 30, 148)
    found = Counter(held(cells, split(cells, "classification")))
    assert found == {"a": 20, "b": 3, "c": 1, None: 6}
    assert split(cells, "classification", seed=1) != split(cells, "classification")


def test_of_every_label_about_the_same_part_is_held_out() -> None:
    rng = Random(1)
    cells = [";".join(label for label in "abcd" if rng.random() < 0.3) for _ in range(400)]
    rows = split(cells, "multilabel")
    assert sum(rows) == pytest.approx(80, abs=8)
    for label in "abcd":
        count = sum(label in cell for cell in cells)
        assert sum(label in cell for cell in held(cells, rows)) == pytest.approx(0.2 * count, abs=2)


def test_numbers_are_held_out_along_their_range() -> None:
    cells = [str(10**5 + number) for number in range(100)]
    tenths = Counter(int(cell) % 100 // 10 for cell in held(cells, split(cells, "regression")))
    assert tenths == dict.fromkeys(range(10), 2)
    assert sum(split(["1", "2", "x", None, "3"], "regression")) == 1


def test_several_columns_are_balanced_at_once() -> None:
    columns = {"x": ["a", "b"] * 50, "y": [*"ccccd"] * 20}
    kinds = dict.fromkeys(columns, KINDS["classification"])
    rows = hold_out(find_strata(columns, kinds, 0.2), 0.2, 0)
    for cells, expected in zip(columns.values(), ({"a": 10, "b": 10}, {"c": 16, "d": 4})):
        assert Counter(held(cells, rows)) == expected


def test_no_label_is_without_a_row_to_train_on() -> None:
    rng = Random(1)
    cells = [";".join({str(rng.randrange(40)) for _ in range(3)}) for _ in range(60)]
    for seed in range(5):
        trained = [cell for cell, is_held in zip(cells, split(cells, "multilabel", 0.5, seed)) if not is_held]
        assert {x for cell in trained for x in cell.split(";")} == {
            x for cell in cells for x in cell.split(";")
        }


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Images without a split."""
    for number in range(60):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{'rare' if number % 10 == 0 else 'usual'}" for number in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["path,kind", *rows]) + "\n")
    return tmp_path / "table.csv"


def config(source: dict[str, Any], seed: int) -> TrainConfig:
    return TrainConfig.parse(job(source, head("kind"), schedule={"seed": seed}))


def test_the_seed_of_a_run_does_not_move_its_split(table: Path) -> None:
    tabled = {"source": "table", "file": str(table)}
    splits = [prepare(config(tabled, seed)).records.held_out for seed in (0, 1)]
    assert splits[0] == splits[1]
    assert sum(splits[0]) == 12
    assert sum(splits[0][::10]) == 1  # of the rare ones
    other = prepare(config({**tabled, "split_seed": 1}, 0)).records.held_out
    assert other != splits[0]
    for name in ("a", "b"):
        (table.parent / "classes" / name).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (8, 8)).save(table.parent / "classes" / name / f"{number}.png")
    folder = {"source": "folder", "root": str(table.parent / "classes")}
    splits = [prepare(config(folder, seed)).records.held_out for seed in (0, 1)]
    assert splits[0] == splits[1]


@pytest.mark.parametrize("source", ["table", "folder"])
def test_a_run_whose_seed_drew_its_split_keeps_it(source: str, table: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(30):
            (tmp_path / "classes" / name / f"{number}.png").touch()
    data = {"source": "table", "file": str(table)}
    if source == "folder":
        data = {"source": "folder", "root": str(tmp_path / "classes")}
    written = prepare(config(data, 3)).settings.model_dump(mode="json")
    assert written["data"].pop("split_seed") == 0
    written["data"].pop("stratify", None)  # as before there was a seed of the split
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    records = prepare(RunFolder(tmp_path).settings()).records
    groups = [range(60)] if source == "table" else [range(30), range(30, 60)]
    sampled = [rows[i] for rows in groups for i in Random(3).sample(range(len(rows)), len(rows) // 5)]
    assert records.rows(held_out=True) == sorted(sampled)
