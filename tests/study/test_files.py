"""Tables of comparisons and folders of samples on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from classy_vision.config import ConfigError, read_config
from classy_vision.models import build_model
from classy_vision.study import Row, find_candidates, parse_region, sample, write_samples
from classy_vision.study.files import read_table, write_table

ROWS = [
    Row("a", "nets", (3, 8, 8), 10, 20, 30, 40, 1.5, 666.6, {"accuracy": 0.5, "loop": 0.25}),
    Row("b, with a comma", "nets", failure='it said "no"'),
]
REGION = parse_region({"family": "anynet", "width": [8, 64], "depth": [1, 3], "input_size": 32})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(path, ROWS, ROWS[:1])
    assert read_table(path) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_json_has_all_numbers(tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", ROWS, ROWS[:1])
    first, second = json.loads((tmp_path / "table.json").read_text())
    assert (first["macs"], first["input_shape"], first["front"]) == (20, [3, 8, 8], True)
    assert second["failure"] == 'it said "no"'


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "name,group,input_shape,failure,params\na,b,,,many\n"])
def test_a_table_of_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not the table of a comparison"):
        read_table(path)


# -- samples


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_samples(tmp_path / name, sample(REGION, 4, 7), REGION, "small", 7)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == ["index.json", *(f"small-s7-000{i}.yaml" for i in range(4))]


def test_every_file_is_a_model_and_the_index_knows_it(tmp_path: Path) -> None:
    samples = sample(REGION, 3)
    write_samples(tmp_path / "nets", samples, REGION, "small", 0)
    index = json.loads((tmp_path / "nets" / "index.json").read_text())
    assert (index["seed"], index["region"]["width"]) == (0, [8, 64])
    assert parse_region({k: v for k, v in index["region"].items() if k != "name"}) == REGION
    for entry, one in zip(index["models"], samples):
        config = read_config(tmp_path / "nets" / entry["file"])
        assert config == json.loads(json.dumps(one.config))
        built = build_model(config, num_classes=1000)
        assert sum(p.numel() for p in built.parameters()) == entry["params"]
    assert len(find_candidates([str(tmp_path / "nets")])) == 3


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "nets"
    write_samples(folder, sample(REGION, 3), REGION, "small", 0)
    before = contents(folder)
    with pytest.raises(ConfigError, match="exists: choose another --output, or replace it by --force"):
        write_samples(folder, sample(REGION, 2), REGION, "small", 0)
    assert contents(folder) == before
    write_samples(folder, sample(REGION, 2, 5), REGION, "small", 5, force=True)
    assert sorted(contents(folder)) == ["index.json", "small-s5-0000.yaml", "small-s5-0001.yaml"]
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds 'thesis.txt' besides samples"):
        write_samples(folder, sample(REGION, 2), REGION, "small", 0, force=True)
    with pytest.raises(ConfigError, match="exists and is not a folder of samples"):
        write_samples(tmp_path, sample(REGION, 2), REGION, "small", 0, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["nets"]


@pytest.mark.parametrize("text", ["name,group\na,b,c,d", "name\n" + "x" * 10, "a,b\n1,2"])
def test_damaged_tables(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match="is not the table of a comparison"):
        read_table(tmp_path / "t.csv")
