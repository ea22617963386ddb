"""Collections: which samples, in which order and shard, whatever happens meanwhile."""

from __future__ import annotations

import csv
import errno
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from classy_vision.config import ConfigError
from classy_vision.data.images import ImageError
from classy_vision.embed import sources
from classy_vision.embed.sources import Part, Sample, Source, find_kind, list_folder, open_source, write_listing
from classy_vision.errors import OperationError
from tests.embed.conftest import write_image

Images = Callable[..., Path]


def samples(source: Source) -> list[Sample]:
    return [sample for shard in range(source.shards) for sample in source.read(shard)]


def cells(sample: Sample) -> dict[str, object]:
    assert sample.cells is not None
    return {name: column[0] for name, column in sample.cells.to_pydict().items()}


def test_a_folder(make_images: Images, tmp_path: Path) -> None:
    source = open_source(str(make_images(10)), "image", tmp_path / "listing", 4)
    found = samples(source)
    assert (source.shards, source.rows) == (3, 10)
    assert [sample.shard for sample in found] == [0] * 4 + [1] * 4 + [2] * 2
    assert found[0].name == "cat/00000.png"
    assert found[0].path == str(tmp_path / "images/cat/00000.png") == str(found[0].source)
    assert [cells(sample) for sample in found] == [{"label": "cat"}] * 5 + [{"label": "dog"}] * 5


def test_folders_of_splits(tmp_path: Path) -> None:
    for n, name in enumerate(("train/cat/0.png", "val/dog/a/0.png", "0.png")):
        write_image(tmp_path / "images" / name, n)
    source = open_source(str(tmp_path / "images"), "image", tmp_path / "listing", 4)
    assert {sample.name: cells(sample) for sample in samples(source)} == {
        "0.png": {"split": None, "label": None},
        "train/cat/0.png": {"split": "train", "label": "cat"},
        "val/dog/a/0.png": {"split": "val", "label": "dog"},
    }


def test_a_flat_folder_has_no_columns(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "0.png", 0)
    source = open_source(str(tmp_path / "images"), "image", tmp_path / "listing", 4)
    assert source.columns.names == []
    assert [sample.name for sample in samples(source)] == ["0.png"]


def test_a_name_that_no_encoding_has(tmp_path: Path) -> None:
    file = write_image(tmp_path / "images" / "0.png", 0)
    odd = os.fsdecode(os.fsencode(file.parent) + b"/\xff.png")
    os.rename(file, odd)
    (sample,) = samples(open_source(str(tmp_path / "images"), "image", tmp_path / "listing", 4))
    assert sample.name == "\\udcff.png"
    assert sample.source.is_file()


def test_resuming_reads_the_listing_that_is_there(make_images: Images, tmp_path: Path) -> None:
    images = make_images(6)
    before = open_source(str(images), "image", tmp_path / "listing", 4)
    names = [sample.name for sample in samples(before)]
    (images / "cat/00000.png").unlink()
    write_image(images / "ape/0.png", 9)
    again = open_source(str(images), "image", tmp_path / "listing", 4, resume=True)
    assert [sample.name for sample in samples(again)] == names
    assert again.fingerprint == before.fingerprint
    anew = open_source(str(images), "image", tmp_path / "listing", 4)
    assert [sample.name for sample in samples(anew)] == ["ape/0.png", *names[1:]]
    assert anew.fingerprint != before.fingerprint


def test_the_fingerprint_sees_a_file_that_was_replaced(make_images: Images, tmp_path: Path) -> None:
    images = make_images(3)
    first = open_source(str(images), "image", tmp_path / "listing", 4).fingerprint
    assert open_source(str(images), "image", tmp_path / "listing", 2).fingerprint == first
    write_image(images / "cat/00000.png", 99)
    assert open_source(str(images), "image", tmp_path / "listing", 4).fingerprint != first


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table(make_images: Images, tmp_path: Path, suffix: str) -> None:
    make_images(5)
    rows = {
        "path": [f"images/{'cat' if n < 3 else 'dog'}/{n:05}.png" for n in range(5)],
        "weight": ["1.5", None, "3", "4", "5"],
    }
    file = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        with file.open("w") as target:
            csv.writer(target).writerows([rows, *zip(*rows.values())])
    else:
        parquet.write_table(pyarrow.table(rows), file, row_group_size=2)
    source = open_source(str(file), "image", tmp_path / "listing", 2)
    found = samples(source)
    assert [sample.shard for sample in found] == [0, 0, 1, 1, 2]
    assert [sample.name for sample in found] == rows["path"]
    assert [cells(sample)["weight"] for sample in found] == rows["weight"]
    assert all(sample.source.is_file() for sample in found)


def test_a_table_with_ids_and_types(tmp_path: Path) -> None:
    table = pyarrow.table({"id": [7, 8], "path": ["a.png", "b.png"], "n": [1, None], "tags": [["x"], []]})
    parquet.write_table(table, tmp_path / "table.parquet")
    source = open_source(str(tmp_path / "table.parquet"), "image", tmp_path / "listing", 2)
    assert [sample.name for sample in samples(source)] == ["7", "8"]
    assert [cells(sample) for sample in samples(source)] == [{"n": 1, "tags": ["x"]}, {"n": None, "tags": []}]
    assert source.columns.field("n").type == pyarrow.int64()


# -- tar files


def write_tar(file: Path, members: Mapping[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def make_tar(file: Path, count: int, start: int = 0) -> Path:
    members: dict[str, bytes] = {}
    for n in range(start, start + count):
        members[f"{n:04}.png"] = write_image(file.parent / "image.png", n).read_bytes()
        members[f"{n:04}.cls"] = str(n % 2).encode()
    (file.parent / "image.png").unlink()
    return write_tar(file, members)


def test_tar_files(tmp_path: Path) -> None:
    for n in range(3):
        make_tar(tmp_path / "tars" / f"part-{n:03}.tar", 2, 2 * n)
    word = str(tmp_path / "tars")
    assert find_kind(word) == find_kind(f"{word}/part-{{000..002}}.tar") == find_kind(f"{word}/*.tar") == "tar"
    source = open_source(word, "image", tmp_path / "listing", 4)
    found = samples(source)
    assert [(sample.name, sample.shard) for sample in found] == [(f"{n:04}", n // 2) for n in range(6)]
    assert [cells(sample) for sample in found] == [{"label": str(n % 2)} for n in range(6)]
    assert found[3].path == f"{word}/part-001.tar/0003.png"
    assert found[3].source.read()[:4] == b"\x89PNG"
    assert open_source(f"{word}/part-{{000..001}}.tar", "image", tmp_path / "listing", 4).shards == 2


def test_members_of_a_sample_are_grouped_by_the_name_before_the_first_dot(tmp_path: Path) -> None:
    names = ("a/1.seg.png", "a/1.jpg", "a/1.txt", "b/1.jpg", "b/2.json")
    write_tar(tmp_path / "a.tar", {name: name.encode() for name in names})
    source = open_source(str(tmp_path / "a.tar"), "image", tmp_path / "listing", 4)
    first, second, third = samples(source)
    assert [sample.name for sample in (first, second, third)] == ["a/1", "b/1", "b/2"]
    assert first.source.read() == b"a/1.jpg"
    assert cells(first) == {"text": "a/1.txt", "json": None}
    assert isinstance(third.source, ImageError)
    assert third.source.reason == "the sample has no image"


@pytest.mark.parametrize("part", [0.3, 0.5, 0.71, 0.99])
def test_a_tar_file_that_is_cut_short(tmp_path: Path, part: float) -> None:
    whole = make_tar(tmp_path / "whole.tar", 8)
    wanted = {
        sample.name: sample.source.read()
        for sample in samples(open_source(str(whole), "image", tmp_path / "listing", 4))
    }
    cut = tmp_path / "cut.tar"
    data = whole.read_bytes()[: 512 * 32]  # without the padding at its end
    cut.write_bytes(data[: int(len(data) * part)])
    *found, last = samples(open_source(str(cut), "image", tmp_path / "listing", 4))
    assert isinstance(last.source, ImageError)
    assert "cut short" in last.source.reason
    read = {}
    for sample in found:
        if isinstance(sample.source, Part):
            try:
                read[sample.name] = sample.source.read()
            except OSError as error:
                assert str(error) == "the tar file is cut short"  # noqa: PT017 (others are whole)
    assert read.items() <= wanted.items()
    assert len(read) >= int(8 * part) - 1


def test_labels_that_the_first_sample_does_not_have(tmp_path: Path) -> None:
    members = {"0.png": b"0", "1.png": b"1", "1.cls": b"7"}
    write_tar(tmp_path / "tars" / "0.tar", members)
    write_tar(tmp_path / "tars" / "1.tar", {"2.png": b"2", "2.txt": b"two"})
    source = open_source(str(tmp_path / "tars"), "image", tmp_path / "listing", 4)
    assert [cells(sample) for sample in samples(source)] == [{"label": label} for label in (None, "7", None)]


@pytest.mark.parametrize("content", [b"", b"no tar file" * 100])
def test_a_first_file_that_is_no_tar_file(tmp_path: Path, content: bytes) -> None:
    make_tar(tmp_path / "tars" / "1.tar", 2)
    (tmp_path / "tars" / "0.tar").write_bytes(content)
    first, *others = samples(open_source(str(tmp_path / "tars"), "image", tmp_path / "listing", 4))
    assert isinstance(first.source, ImageError)
    assert "0.tar: it is damaged or cut short" in str(first.source)
    assert [cells(sample) for sample in (first, *others)] == [{"label": label} for label in (None, "0", "1")]


def test_members_that_belong_to_no_sample(tmp_path: Path) -> None:
    names = ("README", "a/.DS_Store", "a/0.png", "a/._0.png", "a/0.cls")
    write_tar(tmp_path / "a.tar", dict.fromkeys(names, b"0"))
    (found,) = samples(open_source(str(tmp_path / "a.tar"), "image", tmp_path / "listing", 4))
    assert (found.name, cells(found)) == ("a/0", {"label": "0"})


def test_a_tar_file_at_which_the_system_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(make_tar(tmp_path / "a.tar", 2)), "image", tmp_path / "listing", 4)
    assert source.columns.names == ["label"]

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tarfile, "open", fail)
    with pytest.raises(OperationError, match=r"a.tar': Input/output error; --resume continues"):
        samples(source)
    with pytest.raises(OperationError, match=r"a.tar': Input/output error"):
        _ = open_source(str(tmp_path / "a.tar"), "image", tmp_path / "listing", 4).columns


# -- what is wrong


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("none", "there is no file and no folder 'none'"),
        ("none.tar", "there is no tar file 'none.tar'"),
        ("a.png", "'a.png' is not a collection: a folder, a table"),
        ("empty", "there is no image in the folder 'empty'"),
        ("empty.csv", "empty.csv' needs a column|empty.csv needs a column 'path'"),
        ("rows.csv", "the collection is empty: there is nothing to embed"),
        ("names.csv", "unknown column 'path'; did you mean|needs a column 'path'"),
        ("blank.csv", "blank.csv, row 2: there is no path"),
        ("ids.csv", "ids.csv, row 2: the id is missing"),
        ("broken.parquet", "cannot read 'broken.parquet'"),
    ],
)
def test_wrong_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name, text in {
        "a.png": "x",
        "empty.csv": "",
        "rows.csv": "path,label\n",
        "names.csv": "file\na.png\n",
        "blank.csv": "path,label\na.png,x\n,y\n",
        "ids.csv": "id,path\n1,a.png\n,b.png\n",
        "broken.parquet": "PAR1",
    }.items():
        Path(name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        open_source(word, "image", tmp_path / "listing", 4)
    assert not (tmp_path / "listing").exists()


def test_a_folder_that_vanishes(make_images: Images, tmp_path: Path) -> None:
    images = make_images(2)
    source = open_source(str(images), "image", tmp_path / "listing", 4)
    source.check()
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(OperationError, match="images' is not there any more"):
        source.check()


def test_datasets_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match="'hf:beans' needs the package datasets: pip install datasets"):
        open_source("hf:beans", "image", tmp_path / "listing", 4)


def test_a_hugging_face_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(write_image(tmp_path / f"{n}.png", n)) for n in range(5)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "n": datasets.Value("int32"),
        }
    )
    data = datasets.Dataset.from_dict({"image": files, "kind": [0, 1, 0, 1, 0], "n": [*range(5)]}, features)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "saved")
    source = open_source(f"hf:{tmp_path / 'saved'}:test", "image", tmp_path / "listing", 2)
    found = samples(source)
    assert [(sample.name, sample.shard) for sample in found] == [(str(n), n // 2) for n in range(5)]
    assert [cells(sample) for sample in found] == [{"kind": ("cat", "dog")[n % 2], "n": n} for n in range(5)]
    assert bytes(found[3].source) == Path(files[3]).read_bytes()
    with pytest.raises(ConfigError, match="has no split 'val'"):
        open_source(f"hf:{tmp_path / 'saved'}:val", "image", tmp_path / "listing", 2)


class Dataset:
    """A dataset that is not one of the library."""

    _fingerprint = "0"

    def __init__(self, rows: dict[str, list[Any]]) -> None:
        self.table, self.asked = pyarrow.table(rows), list[int]()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def with_format(self, kind: str) -> Dataset:
        return self

    def __getitem__(self, part: slice) -> pyarrow.Table:
        found = self.table.slice(part.start or 0, part.stop - (part.start or 0))
        self.asked.append(found.num_rows)
        return found


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    """Lets "hf:DATASET" mean a dataset with given columns."""

    def give(**rows: list[Any]) -> Dataset:
        data = Dataset(rows)
        monkeypatch.setattr(sources, "_load_dataset", lambda word: (data, "image", {}))
        return data

    return give


def test_a_dataset_with_ids_and_paths(load: Callable[..., Dataset], tmp_path: Path) -> None:
    images = [{"bytes": b"x", "path": "a.png"}, {"bytes": b"y", "path": None}]
    load(image=images, id=[7, 8], path=["somewhere/a.png", None], n=[1, 2])
    found = samples(open_source("hf:any", "image", tmp_path / "listing", 4))
    assert [(sample.name, sample.path) for sample in found] == [("7", "somewhere/a.png"), ("8", "")]
    assert [cells(sample) for sample in found] == [{"n": 1}, {"n": 2}]
    load(image=images, id=["a", None])
    with pytest.raises(ConfigError, match="hf:any, row 2: the id is missing"):
        samples(open_source("hf:any", "image", tmp_path / "listing", 4))


def test_a_dataset_is_read_a_few_rows_at_a_time(load: Callable[..., Dataset], tmp_path: Path) -> None:
    data = load(image=[{"bytes": b"x", "path": None}] * 300, n=[*range(300)])
    found = samples(open_source("hf:any", "image", tmp_path / "listing", 200))
    assert [cells(sample)["n"] for sample in found] == [*range(300)]
    assert [sample.name for sample in found] == [str(n) for n in range(300)]
    assert [sample.shard for sample in found] == [0] * 200 + [1] * 100
    assert max(data.asked) == 64


def test_datasets_that_are_refused(load: Callable[..., Dataset], tmp_path: Path) -> None:
    load(image=[])
    with pytest.raises(ConfigError, match="the collection is empty: there is nothing to embed"):
        open_source("hf:any", "image", tmp_path / "listing", 4)
    with pytest.raises(
        ConfigError, match="'hf:any': videos are read from folders and tables, not from Hugging"
    ):
        open_source("hf:any", "video", tmp_path / "listing", 4)


# -- memory


def measure_listing(folder: Path, count: int) -> int:
    """The most memory that listing ``count`` empty files in folders of 500 takes, in bytes."""
    for n in range(count):
        if n % 500 == 0:
            (folder / f"{n // 500:05}").mkdir(parents=True)
        (folder / f"{n // 500:05}" / f"{n:06}.png").touch()
    tracemalloc.start()
    write_listing(list_folder(str(folder), "image"), folder.parent / "listing.parquet", 512)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_listing_takes_no_memory_for_more_files(tmp_path: Path) -> None:
    measure_listing(tmp_path / "warm-up", 1000)
    few, many = measure_listing(tmp_path / "few" / "a", 1000), measure_listing(tmp_path / "many" / "a", 5000)
    assert many < few * 3 + 2**21
