"""Embedding a collection: every row once, whatever is damaged, gone or in the way."""

from __future__ import annotations

import csv
import errno
import json
import os
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from classy_vision import embed as embeddings
from classy_vision.config import ConfigError
from classy_vision.data import images as decoders
from classy_vision.data.images import ImageError
from classy_vision.embed import Progress, embed, load, work
from classy_vision.embed.sources import Part
from classy_vision.errors import OperationError
from classy_vision.predict import inputs
from tests.embed.conftest import write_image
from tests.embed.test_sources import make_tar
from tests.predict.test_predictor import small_model

Images = Callable[..., Path]


def run(model: Path, images: Path, output: Path, **options: Any) -> embeddings.Summary:
    return embed(model, images, output, **{"blocks": ["block1"], "shard_size": 4, "device": "cpu", **options})


def read(folder: Path) -> dict[str, Any]:
    """All that is in a folder of embeddings."""
    found = load(folder)
    return {
        **{name: value.tobytes() for name, value in found.items()},
        **{n: found.column(n) for n in found.columns},
    }


def test_public_names() -> None:
    types, functions = ["Embeddings", "Neighbours", "Progress", "Settings", "Summary"], ["embed", "load"]
    assert embeddings.__all__ == [*types, *functions, "neighbours", "write_neighbours"]
    assert all(hasattr(embeddings, name) for name in embeddings.__all__)


def test_rows_are_what_the_model_gives(model: Path, make_images: Images, tmp_path: Path) -> None:
    images, seen = make_images(10), list[Progress]()
    found = run(model, images, tmp_path / "out", heads=["species"], progress=seen.append)
    assert (found.rows, found.errors, found.new) == (10, 0, 10)
    assert seen[-1] == Progress(10, 0, 2, 3, 10)
    stored = load(found.folder)
    assert stored.ids == [f"{'cat' if n < 5 else 'dog'}/{n:05}.png" for n in range(10)]
    assert stored.column("label") == ["cat"] * 5 + ["dog"] * 5
    assert [*stored] == ["head/species", "block1/mean"]
    from classy_vision.predict import Predictor

    predictor = Predictor.of_model(small_model(), device="cpu")
    x = predictor.preprocess(images)
    wanted = small_model().features(x, ["block1"])["block1"].detach().mean((2, 3))
    np.testing.assert_allclose(stored["block1/mean"], wanted, atol=1e-6)
    np.testing.assert_allclose(stored["head/species"], small_model()(x)["species"].detach(), atol=1e-6)
    schema = parquet.read_schema(found.folder / "shard-000000.parquet")
    assert str(schema.field("block1/mean").type) == "fixed_size_list<element: float>[8]"
    assert sorted(os.listdir(found.folder)) == [
        *(".lock", "about.json", "errors.csv", "manifest.json"),
        *(f"shard-{n:06}.parquet" for n in range(3)),
    ]


def test_how_rows_were_computed(model: Path, make_images: Images, tmp_path: Path) -> None:
    """A run that is continued in another way is not refused, and says so."""
    images = make_images(10)
    first = run(model, images, tmp_path / "out", batch_size=2, threads=1)
    assert first.ways == ({"batch_size": 2, "threads": 1, "device": "cpu"},)
    assert run(model, images, tmp_path / "out", batch_size=5, resume=True).ways == first.ways  # nothing to do
    (first.folder / "shard-000001.parquet").unlink()
    second = run(model, images, tmp_path / "out", batch_size=3, threads=2, resume=True)
    assert second.ways == (*first.ways, {"batch_size": 3, "threads": 2, "device": "cpu"})
    for name in ("about.json", "manifest.json"):
        assert len(json.loads((first.folder / name).read_text())["computed"]) == 2
    about = first.folder / "about.json"
    said = json.loads(about.read_text())
    del said["computed"]  # as the version before has written it
    about.write_text(json.dumps(said))
    (first.folder / "shard-000001.parquet").unlink()
    assert len(run(model, images, tmp_path / "out", batch_size=3, threads=2, resume=True).ways) == 1


def test_the_end_of_the_trunk_is_the_default(model: Path, make_images: Images, tmp_path: Path) -> None:
    embed(model, make_images(2), tmp_path / "out", device="cpu")
    assert [*load(tmp_path / "out")] == ["trunk_output/mean"]


def test_float16(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(3)
    run(model, images, tmp_path / "half", dtype="float16")
    run(model, images, tmp_path / "full")
    half, full = load(tmp_path / "half")["block1/mean"], load(tmp_path / "full")["block1/mean"]
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))


def test_values_that_float16_does_not_hold(make_images: Images, tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
    with pytest.raises(OperationError, match="'block1/mean' has values up to .*, which float16 does not hold"):
        run(model, make_images(3), tmp_path / "out", dtype="float16")  # type: ignore[arg-type]  # models are taken
    assert not list((tmp_path / "out").glob("shard-*"))


def test_tar_files_and_a_model_in_memory(tmp_path: Path) -> None:
    for n in range(3):
        make_tar(tmp_path / "tars" / f"{n}.tar", 5, 5 * n)
    found = embed(small_model(), tmp_path / "tars", tmp_path / "out", blocks=["block1"], device="cpu")
    assert (found.rows, len(load(found.folder).manifest["shards"])) == (15, 3)
    assert load(found.folder).column("label") == [str(n % 2) for n in range(15)]


@pytest.mark.parametrize("side", [64, 1000])
def test_a_tar_file_gives_the_values_of_a_folder(model: Path, tmp_path: Path, side: int) -> None:
    """Wide images are decoded at reduced size in both."""
    pixels = np.random.default_rng(0).integers(0, 256, (side // 50, side // 40, 3), dtype=np.uint8)
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "a.jpg"
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(file)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(file, "a.jpg")
    found = []
    for source in (tmp_path / "folder", tmp_path / "a.tar"):
        run(model, source, tmp_path / f"{source.stem} out")
        found.append(load(tmp_path / f"{source.stem} out")["block1/mean"])
    np.testing.assert_array_equal(*found)


def test_shards_do_not_depend_on_their_size_but_for_rounding(
    model: Path, make_images: Images, tmp_path: Path
) -> None:
    images = make_images(10)
    run(model, images, tmp_path / "small", shard_size=3, batch_size=2)
    run(model, images, tmp_path / "large", shard_size=100)
    small, large = load(tmp_path / "small"), load(tmp_path / "large")
    assert small.ids == large.ids
    np.testing.assert_allclose(small["block1/mean"], large["block1/mean"], atol=1e-6)


# -- what is damaged


def test_damaged_samples_are_listed(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(10)
    whole = run(model, images, tmp_path / "whole")
    for n in (0, 1, 2, 3, 7):  # a whole shard, and one in the middle
        next(images.glob(f"*/{n:05}.png")).write_bytes(b"damaged")
    found = run(model, images, tmp_path / "out")
    assert (found.rows, found.errors) == (5, 5)
    with (found.folder / "errors.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["id"] for row in rows] == [f"{'cat' if n < 5 else 'dog'}/{n:05}.png" for n in (0, 1, 2, 3, 7)]
    assert all(row["error"].startswith("not an image") and row["path"].startswith(str(images)) for row in rows)
    values = load(whole.folder)["block1/mean"]
    np.testing.assert_allclose(load(found.folder)["block1/mean"], values[[4, 5, 6, 8, 9]], atol=1e-6)


def test_stopping_at_an_error_loses_nothing(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(10)
    data = (bad := images / "dog/00009.png").read_bytes()
    bad.write_bytes(b"damaged")
    with pytest.raises(OperationError, match="dog/00009.png: not an image"):
        run(model, images, tmp_path / "out", on_error="stop")
    with pytest.raises(ConfigError, match="out' is not complete: classy embed --resume continues it"):
        load(tmp_path / "out")
    bad.write_bytes(data)
    found = run(model, images, tmp_path / "out", on_error="stop", resume=True)
    assert (found.rows, found.new) == (10, 2)


def test_images_that_vanish(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(10)

    def vanish(now: Progress) -> None:
        (images / "dog/00009.png").unlink(missing_ok=True)

    found = run(model, images, tmp_path / "out", progress=vanish, batch_size=1, workers=1)
    assert (found.rows, found.errors) == (9, 1)
    assert "dog/00009.png,no such file" in (found.folder / "errors.csv").read_text().replace(f"{images}/", "")


def test_a_source_that_vanishes(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(30)

    def vanish(now: Progress) -> None:
        if images.exists():
            images.rename(tmp_path / "elsewhere")

    with pytest.raises(OperationError, match="images' is not there any more"):
        run(model, images, tmp_path / "out", progress=vanish, batch_size=1, workers=1)
    (tmp_path / "elsewhere").rename(images)
    assert run(model, images, tmp_path / "out", resume=True).rows == 30


def test_a_shard_that_was_damaged_is_made_again(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(10)
    run(model, images, tmp_path / "out")
    wanted = read(tmp_path / "out")
    shard = tmp_path / "out" / "shard-000001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    assert run(model, images, tmp_path / "out", resume=True).new == 4
    assert read(tmp_path / "out") == wanted


# -- what may be over


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Makes the sample of this name unreadable; None makes all readable."""
    found: list[str | None] = [None]
    read_input = inputs.read_input

    def fail(one: Any, *rest: Any) -> Any:
        if one.name == found[0]:
            raise ImageError(Path(one.name), "it is locked")
        return read_input(one, *rest)

    monkeypatch.setattr(work, "read_input", fail)
    return lambda name: found.__setitem__(0, name)


Lock = Callable[["str | None"], None]


def test_what_could_not_be_read_is_tried_again(
    model: Path, make_images: Images, tmp_path: Path, lock: Lock
) -> None:
    images, out = make_images(10), tmp_path / "out"
    run(model, images, tmp_path / "whole")
    lock("dog/00006.png")
    assert (first := run(model, images, out)).errors == 1
    shards = {file: file.read_bytes() for file in out.glob("shard*")}
    other = (out / "shard-000000.parquet").stat().st_mtime_ns
    again = run(model, images, out, resume=True)
    assert (again.rows, again.errors, again.new) == (first.rows, 1, 3)
    assert {file: file.read_bytes() for file in shards} == shards
    assert (out / "errors.csv").read_text().endswith("it is locked\n")
    lock(None)
    assert run(model, images, out, resume=True).new == 4
    assert read(out) == read(tmp_path / "whole")
    assert (out / "errors.csv").read_bytes() == (tmp_path / "whole" / "errors.csv").read_bytes()
    assert (out / "shard-000000.parquet").stat().st_mtime_ns == other
    assert run(model, images, out, resume=True).new == 0


def test_trying_again_can_be_interrupted(model: Path, make_images: Images, tmp_path: Path, lock: Lock) -> None:
    images, out = make_images(10), tmp_path / "out"
    lock("dog/00006.png")
    run(model, images, out)
    (out / "embeddings.lance").mkdir()

    def interrupt(now: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, images, out, resume=True, progress=interrupt)
    with pytest.raises(ConfigError, match="out' is not complete: classy embed --resume continues it"):
        load(out)
    assert not (out / "embeddings.lance").exists()  # it would lack rows
    lock(None)
    assert run(model, images, out, resume=True).new == 4
    run(model, images, tmp_path / "whole")
    assert read(out) == read(tmp_path / "whole")


def test_what_is_not_complete_gets_on_first(
    model: Path, make_images: Images, tmp_path: Path, lock: Lock
) -> None:
    """Where every shard has an error, embeddings that are killed now and then would never be complete."""
    images, out = make_images(10), tmp_path / "out"
    lock("cat/00001.png")

    def interrupt(now: Progress) -> None:
        if now.shards == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, images, out, progress=interrupt, batch_size=1)
    found = run(model, images, out, resume=True)
    assert (found.rows, found.errors, found.new) == (9, 1, 6)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_a_system_that_fails_ends_the_command(
    model: Path, make_images: Images, tmp_path: Path, number: int
) -> None:
    images, open_header = make_images(10), decoders.open_header

    def fail(source: Any, most: int) -> Any:
        if str(source).endswith("00006.png"):
            raise OSError(number, os.strerror(number))
        return open_header(source, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "open_header", fail)
        with pytest.raises(OperationError, match=r"cannot read 'dog/00006.png': .*; --resume continues"):
            run(model, images, tmp_path / "out")
    found = run(model, images, tmp_path / "out", resume=True)
    assert (found.rows, found.errors) == (10, 0)


def test_a_system_that_fails_at_a_member_of_a_tar_file(model: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", 3)

    def fail(part: Part) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Part, "read", fail)
        with pytest.raises(OperationError, match="Stale file handle; --resume continues"):
            run(model, tmp_path / "a.tar", tmp_path / "out")
    assert run(model, tmp_path / "a.tar", tmp_path / "out", resume=True).rows == 3


# -- what is in the way


def test_a_complete_folder(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(10)
    run(model, images, tmp_path / "out")
    with pytest.raises(ConfigError, match="out' holds embeddings already; --force replaces them"):
        run(model, images, tmp_path / "out")
    assert run(model, images, tmp_path / "out", resume=True).new == 0
    assert run(model, images, tmp_path / "out", force=True).new == 10


def test_resuming_with_something_else(model: Path, make_images: Images, tmp_path: Path) -> None:
    images, other = make_images(10), make_images(4, "others")
    run(model, images, tmp_path / "out")
    before = read(tmp_path / "out")
    changed = small_model()
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    changed.save_pretrained(tmp_path / "changed")
    for options, said in (
        ({"model": tmp_path / "changed"}, r"out' holds embeddings with model\.digest = '.*', and not '"),
        ({"images": other}, r"holds embeddings with source\.name = '.*images', and not '.*others'"),
        ({"blocks": ["stem"]}, r"model\.outputs = \['block1/mean'\], and not \['stem/mean'\]"),
        ({"pooling": "max"}, r"model\.outputs = "),
        ({"dtype": "float16"}, "dtype = 'float32', and not 'float16'"),
        ({"shard_size": 5}, "shard_size = 4, and not 5"),
        ({"trunk_norm": False}, r"model\.trunk_norm = True, and not False"),
    ):
        arguments: dict[str, Any] = {
            "model": model,
            "images": images,
            "output": tmp_path / "out",
            "resume": True,
        }
        with pytest.raises(ConfigError, match=said):
            run(**{**arguments, **options})
    write_image(images / "cat" / "new.png", 0)
    with pytest.raises(ConfigError, match="images' has changed since '.*out' was begun"):
        run(model, images, tmp_path / "out", resume=True)
    assert read(tmp_path / "out") == before
    (images / "cat" / "new.png").unlink()
    assert run(model, images, tmp_path / "out", resume=True).new == 0


def test_a_folder_of_something_else(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    for options in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(ConfigError, match="out' holds something else than embeddings"):
            run(model, images, tmp_path / "out", **options)
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]
    with pytest.raises(ConfigError, match="cannot resume '.*none': no such folder"):
        run(model, images, tmp_path / "none", resume=True)
    with pytest.raises(ConfigError, match="choose one"):
        run(model, images, tmp_path / "none", resume=True, force=True)


def test_what_is_wrong_is_said_before_anything_is_replaced(
    model: Path, make_images: Images, tmp_path: Path
) -> None:
    images = make_images(4)
    run(model, images, tmp_path / "out")
    before = read(tmp_path / "out")
    table = tmp_path / "table.csv"
    table.write_text("path,block1/mean\nimages/cat/00000.png,1\n")
    (tmp_path / "empty").mkdir()
    for wrong, said in (
        ({"blocks": ["blok1"]}, "did you mean 'block1'"),
        ({"dtype": "float8"}, "embed.*dtype"),
        ({"images": tmp_path / "empty"}, "there is no image in the folder"),
        ({"images": table}, "the source has a column 'block1/mean', which is the name of a feature"),
        ({"batch_size": 0}, "embed.*batch_size"),
        ({"on_error": "ignore"}, "embed.*on_error"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(**{"model": model, "images": images, "output": tmp_path / "out", "force": True, **wrong})
    assert read(tmp_path / "out") == before


def test_another_command_in_the_folder(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(4)

    def another(now: Progress) -> None:
        with pytest.raises(ConfigError, match="another command writes to '.*out'"):
            run(model, images, tmp_path / "out", resume=True)

    run(model, images, tmp_path / "out", progress=another)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_no_permission(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(4)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot write to '.*out': Permission denied"):
            run(model, images, tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_place_of_the_folder(model: Path, make_images: Images, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ConfigError, match="out' is not a folder"):
        run(model, make_images(2), tmp_path / "out")
    with pytest.raises(ConfigError, match="cannot write to '.*out/inside': Not a directory"):
        run(model, make_images(2), tmp_path / "out" / "inside")


def test_a_full_disk(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(now: Progress) -> None:
        if now.rows > 9:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))

    try:
        with pytest.raises(OperationError, match=r"cannot write '.*shard-000002.parquet': File too large"):
            run(model, images, tmp_path / "out", progress=fill, batch_size=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(file.name for file in (tmp_path / "out").glob("*shard*")) == [
        *("shard-000000.parquet", "shard-000001.parquet"),
    ]
    assert run(model, images, tmp_path / "out", resume=True).new == 12


def test_a_manifest_that_is_damaged(model: Path, make_images: Images, tmp_path: Path) -> None:
    run(model, make_images(2), tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    said = json.loads(manifest.read_text())
    for text, message in (("{", "cannot read"), (json.dumps({**said, "version": 2}), "is not of version 1")):
        manifest.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load(tmp_path / "out")
    with pytest.raises(ConfigError, match="is not a folder of embeddings: it has no manifest.json"):
        load(tmp_path)
