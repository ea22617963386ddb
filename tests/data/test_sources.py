"""Records from folders and tables, and what is said where they cannot be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.data.config import ClipConfig, DigitsConfig, FolderConfig, TableConfig
from classy_vision.data.sources import Records, load_records, load_test_records


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def folder(root: Path, **options: Any) -> Records:
    return load_records(FolderConfig(source="folder", root=str(root), **options))


def table(path: Path, **options: Any) -> Records:
    return load_records(TableConfig(source="table", file=str(path), **options))


def csv_table(root: Path, text: str, images: int = 4) -> Path:
    for number in range(images):
        picture(root / f"{number}.png")
    (root / "table.csv").write_text(text)
    return root / "table.csv"


def test_digits() -> None:
    records = load_records(DigitsConfig(source="digits"))
    assert len(records.images) == 1797
    assert len(records.rows(held_out=True)) == 360
    loops = dict(zip(records.columns["digit"], records.columns["loop"]))
    assert [digit for digit, loop in sorted(loops.items()) if loop == "closed"] == ["0", "6", "8", "9"]
    again = load_records(DigitsConfig(source="digits"))
    assert again.held_out == records.held_out


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_a_folder_with_splits(val: str, tmp_path: Path) -> None:
    for path in ("train/cat/1.png", "train/cat/deep/2.JPG", "train/dog/3.png", f"{val}/cat/4.png"):
        picture(tmp_path / path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    records = folder(tmp_path)
    assert [records.columns["label"][row] for row in records.rows(False)] == ["cat", "cat", "dog"]
    assert [Path(str(records.images[row])).name for row in records.rows(True)] == ["4.png"]


def test_a_folder_of_classes_is_split_by_class(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / "many" / f"{number}.png")
    for number in range(2):
        picture(tmp_path / "few" / f"{number}.png")
    records = folder(tmp_path, val_fraction=0.3)
    held = [records.columns["label"][row] for row in records.rows(True)]
    assert sorted(held) == ["few"] + ["many"] * 3
    assert folder(tmp_path, val_fraction=0.3).held_out == records.held_out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no folders in it"),
        (["train/cat/1.png"], "has a folder 'train' but no other split"),
        (["cat/1.png", "dog/notes.txt"], "dog is the folder of a class, but there is no image in it"),
        (["cat/1.png"], "no image is in the validation split"),
        (["cat/1.png", "cat/2.mp4"], "2.mp4 is not an image, and a run is of images or videos: set data.clip"),
    ],
)
def test_folders_that_cannot_be_used(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        picture(tmp_path / name) if name.endswith("png") else touch(tmp_path / name)
        if name.endswith("txt"):
            (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=message):
        folder(tmp_path)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_folder_of_videos(tmp_path: Path) -> None:
    for name in (
        "train/run/1.mp4",
        "train/run/2.MKV",
        "train/sit/3.webm",
        "val/run/4.mov",
        "val/run/notes.txt",
    ):
        touch(tmp_path / name)
    records = folder(tmp_path, clip=ClipConfig(frames=8))
    assert [Path(str(path)).name for path in records.images] == ["1.mp4", "2.MKV", "3.webm", "4.mov"]
    assert list(records.held_out) == [False, False, False, True]
    touch(tmp_path / "val/run/cover.jpg")
    with pytest.raises(ConfigError, match="cover.jpg is not a video, .* leave data.clip out to train"):
        folder(tmp_path, clip=ClipConfig(frames=8))


def test_a_table_holds_images_or_videos(tmp_path: Path) -> None:
    path = csv_table(tmp_path, "path,x\n0.png,1\n1.png,2\nnumber,2\na.mp4,1\n")
    touch(tmp_path / "number")
    touch(tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match=r"a\.mp4 is not an image"):
        table(path)
    with pytest.raises(ConfigError, match=r"0\.png is not a video"):
        table(path, clip=ClipConfig(frames=8))
    path.write_text("path,x\nnumber,2\na.mp4,1\n")  # a suffix may be missing
    assert len(table(path, clip=ClipConfig(frames=8)).images) == 2


def test_a_test_folder_is_left_out_aloud(tmp_path: Path) -> None:
    for path in ("train/cat/1.png", "val/cat/2.png", "test/3.png"):
        picture(tmp_path / path)
    records = folder(tmp_path)
    assert [Path(str(path)).name for path in records.images] == ["1.png", "2.png"]
    assert records.note == f"{tmp_path / 'test'} is kept for testing"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: no such folder"):
        folder(tmp_path / "nowhere")


def test_a_csv_with_splits_and_missing_cells(tmp_path: Path) -> None:
    text = "\ufeffpath,split,kind\n0.png,train,a\n1.png,VAL,\n\n2.png,train,NA\n"
    records = table(csv_table(tmp_path, text))
    assert list(records.held_out) == [False, True, False]
    assert records.columns == {"kind": ["a", None, None]}
    assert records.images[0] == tmp_path / "0.png"


MISSING_CELLS = ["", "nan", "NaN", "NA", "N/A", "null", "NULL", "None"]


def test_cells_that_are_missing_in_pandas_are_missing_labels(tmp_path: Path) -> None:
    rows = "".join(f"0.png,{cell}, {cell} \n" for cell in [*MISSING_CELLS, "nano"])
    rows += '0.png,"a, ""b""",x\n'
    path = csv_table(tmp_path, "path,kind, other\n" + rows)
    found = table(path).columns
    assert list(found["kind"]) == [*[None] * 8, "nano", 'a, "b"']
    assert list(found["other"]) == [*[None] * 8, "nano", "x"]
    kept = table(path, missing=("nano",)).columns
    assert list(kept["kind"]) == [None, *MISSING_CELLS[1:], None, 'a, "b"']


def test_times_and_large_numbers_in_parquet(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    columns = {
        "path": pa.array(["0.png"] * 2),
        "split": pa.array(["train", "val"]),
        "ns": pa.array([1, 2], pa.timestamp("ns")),
        "us": pa.array([0, 1_500_000], pa.timestamp("us")),
        "late": pa.array([2**31 - 1, 0], pa.date32()),
        "time": pa.array([1, 2], pa.time64("ns")),
        "span": pa.array([1, 2], pa.duration("ns")),
        "id": pa.array([2**64 - 1, 2**63], pa.uint64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = table(tmp_path / "t.parquet").columns
    assert list(found["ns"]) == ["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002"]
    assert list(found["us"]) == ["1970-01-01 00:00:00.000000", "1970-01-01 00:00:01.500000"]
    assert list(found["id"]) == [2**64 - 1, 2**63]
    for name in ("time", "span"):
        assert all(isinstance(cell, str) for cell in found[name])
    with pytest.raises(ConfigError, match="column 'late' of type date32.* cannot be read"):
        list(found["late"])


def test_a_table_is_read_column_by_column(tmp_path: Path) -> None:
    """A column that nobody asks for cannot fail, and costs nothing."""
    picture(tmp_path / "0.png")
    wide = {f"c{n}": pa.array([1, 2], pa.timestamp("ns")) for n in range(1000)}
    names = {"path": ["0.png"] * 2, "split": ["train", "val"]}
    pq.write_table(pa.table({**names, **wide}), tmp_path / "t.parquet")
    records = table(tmp_path / "t.parquet")
    assert len(records.columns) == 1000
    assert records.columns._read == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("test", [None, "test", "exam"])
def test_rows_set_aside_for_testing(test: str | None, tmp_path: Path) -> None:
    text = f"path,split,x\n0.png,train,a\n1.png,val,b\n2.png,{test or 'test'},c\n9.png,{test or 'test'},c\n"
    path = csv_table(tmp_path, text, images=10)
    data = TableConfig(source="table", file=str(path), test=test)
    records = load_records(data)
    assert list(records.columns["x"]) == ["a", "b"]
    assert list(records.held_out) == [False, True]
    tested = load_test_records(data)
    assert [image.name for image in tested.images] == ["2.png", "9.png"]
    assert tested.columns == {"x": ["c", "c"]}
    assert tested.rows(held_out=True) == [0, 1]


def test_without_a_validation_split_test_validates(tmp_path: Path) -> None:
    path = csv_table(tmp_path, "path,split,x\n0.png,train,a\n1.png,test,b\n")
    assert list(table(path).held_out) == [False, True]
    with pytest.raises(ConfigError, match="the data have no test split: data.test sets one aside"):
        load_test_records(TableConfig(source="table", file=str(path)))
    with pytest.raises(ConfigError, match="data.test.*unknown split 'tset'; did you mean 'test'"):
        table(path, test="tset")


def test_a_fraction_set_aside_for_testing(tmp_path: Path) -> None:
    for number in range(10):
        for kind in ("cat", "dog"):
            picture(tmp_path / kind / f"{number}.png")
    data = FolderConfig(source="folder", root=str(tmp_path), test=0.2)
    records, tested = load_records(data), load_test_records(data)
    assert sorted(tested.columns["label"]) == ["cat"] * 2 + ["dog"] * 2
    assert len(records.rows(held_out=True)) == 4  # a fifth of the 8 that are left of each
    assert not set(records.images) & set(tested.images)
    assert len(records.images) + len(tested.images) == 20
    assert set(load_test_records(data).images) == set(tested.images)


def test_a_folder_set_aside_for_testing(tmp_path: Path) -> None:
    for path in ("train/cat/1.png", "train/cat/2.png", "exam/cat/3.png"):
        picture(tmp_path / path)
    data = FolderConfig(source="folder", root=str(tmp_path), test="exam")
    assert sorted(path.name for path in load_records(data).images) == ["1.png", "2.png"]
    assert [path.name for path in load_test_records(data).images] == ["3.png"]
    with pytest.raises(ConfigError, match="data.test.*unknown folder 'exams'; did you mean 'exam'"):
        folder(tmp_path, test="exams")


@pytest.mark.parametrize(
    ("files", "meant"),
    [
        (["flowers/train/daisy/1.png", "flowers/val/daisy/2.png", "flowers/README.md"], "flowers"),
        (["flowers/train/daisy/1.png", "other/1.png"], "flowers"),
        (["flowers/daisy/1.png", "flowers/tulip/2.png"], "flowers"),
        (["a/daisy/1.png", "a/tulip/2.png", "b/daisy/1.png"], "a"),
    ],
)
def test_a_root_that_is_a_level_too_high(files: list[str], meant: str, tmp_path: Path) -> None:
    for name in files:
        touch(tmp_path / name)
    with pytest.raises(ConfigError, match=f"data.root is probably '{tmp_path / meant}'"):
        folder(tmp_path)


def test_classes_may_have_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("daisy/monday/1.png", "daisy/tuesday/2.png", "tulip/friday/1.png", "tulip/friday/2.png"):
        picture(tmp_path / name)
    assert set(folder(tmp_path).columns["label"]) == {"daisy", "tulip"}


def test_arrays_bring_their_channels(tmp_path: Path) -> None:
    for name in ("train/a/1.npy", "train/b/2.npy", "val/a/3.npy"):
        (tmp_path / name).parent.mkdir(parents=True)
        np.save(tmp_path / name, np.zeros((4, 4, 6), np.uint8))
    assert folder(tmp_path).channels == 6


def test_a_table_without_splits_is_split_by_the_seed(tmp_path: Path) -> None:
    path = csv_table(tmp_path, "path,x\n" + "".join(f"{n}.png,{n}\n" for n in range(4)))
    splits = {tuple(table(path, split_seed=seed, val_fraction=0.5).held_out) for seed in range(20)}
    assert len(splits) > 1
    assert {sum(split) for split in splits} == {2}


def test_a_name_in_parquet_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": ["a.png"], "kind": ["a"]}), file, store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"kind", b"ki\xffd"))
    with pytest.raises(ConfigError, match=r"cannot read .*t\.parquet.*utf-8"):
        table(file)


def test_parquet_and_another_folder_of_images(tmp_path: Path) -> None:
    picture(tmp_path / "img" / "0.png")
    columns = {"path": ["0.png"] * 2, "split": ["train", "val"], "tags": [["a", "b"], None]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    records = table(tmp_path / "t.parquet", images=str(tmp_path / "img"))
    assert records.columns == {"tags": [["a", "b"], None]}
    assert records.images[0] == tmp_path / "img" / "0.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x\n0.png,1\n", "needs a column 'path': unknown column 'path'"),
        ("path,x\n0.png,1\n9.png,1\n", r"names 1 of 2 images that do not exist, the first is .*9\.png"),
        ("path,x\n0.png,1,2\n", "line 2: 3 cells under 2 headings"),
        ("path,x\n,1\n", "row 1: there is no path"),
        ("path,x, x\n0.png,1,2\n", "two columns are called 'x'"),
        ("path,split\n0.png,trian\n", "unknown split 'trian'; did you mean 'train'"),
        ("path,split\n0.png,train\n", "no image is in the validation split of 1"),
        ("", "unknown column 'path'"),
        ("path,x\n" + "n" * 300 + ".png,1\n", r"names 1 of 1 images that do not exist"),
        ("path,x\n\0.png,1\n", r"do not exist"),
        ("path," + "x" * 200_000 + "\n0.png,1\n", "cannot read"),
    ],
)
def test_tables_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        table(csv_table(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "message"),
    [("no.csv", "no such file"), ("t.xlsx", "an unknown format"), ("t.parquet", "cannot read")],
)
def test_files_that_are_no_tables(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    (tmp_path / "t.parquet").write_text("x")
    with pytest.raises(ConfigError, match=message):
        table(tmp_path / name)


@pytest.mark.parametrize("bad", ["error", "skip"])
def test_a_table_without_rows_to_test_has_no_test_split(bad: Any, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,label,split\na.png,x,train\na.png,x,val\n")
    with pytest.raises(ConfigError, match="no test split"):
        load_test_records(TableConfig(source="table", file=str(tmp_path / "t.csv"), on_bad_image=bad))
