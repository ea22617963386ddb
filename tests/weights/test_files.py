"""Files that are damaged or meant to harm, and files that survive a crash."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel, build_model, load_weights, save_weights
from classy_vision.weights.files import read_tensors, write_tensors

SMALL = {"name": "resnet", "num_blocks": [1], "init_planes": 8, "num_classes": 2}
STATE = {"a": torch.arange(1000.0), "b": torch.ones(2, 3)}
HUGE = 2**40
MARK = "where the storage goes"


class Code:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch executed",))


# -- files, each made by a function of its path


def torch_file(data: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(data, path, **options)


def legacy(data: Any) -> Callable[[Path], None]:
    return torch_file(data, _use_new_zipfile_serialization=False)


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def cut(make: Callable[[Path], None], size: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[:-size])

    return write


def header(entries: Any, data: bytes = b"", length: int | None = None) -> Callable[[Path], None]:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return raw(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def good(path: Path) -> None:
    save_file(STATE, path)


def rezipped(
    compression: int = zipfile.ZIP_STORED, pickled: bytes | None = None, data: Any = STATE
) -> Callable[[Path], None]:
    """A torch file whose parts are packed anew, with other contents for the pickle."""

    def write(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(data, buffer)
        with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", compression) as new:
            for name in old.namelist():
                new.writestr(name, pickled if pickled and name.endswith("data.pkl") else old.read(name))

    return write


def view(size: int, stride: int, offset: int = 0, numel: int = 4) -> Callable[[Path], None]:
    """A torch file of one tensor that claims what it likes of a storage of four numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if value is MARK else None

    class Claim:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (MARK, offset, (size,), (stride,), False, {})

    text = io.BytesIO()
    Pickler(text, 2).dump({"a": Claim()})
    return rezipped(pickled=text.getvalue(), data={"a": torch.ones(4)})


def sparse() -> Tensor:
    places = torch.tensor([[0, 99_999_999]])
    return torch.sparse_coo_tensor(places, torch.ones(2), (3,), check_invariants=False)


def npz(content: bytes, name: str = "a.npy") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    return write


def array(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(16)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def loop(path: Path) -> None:
    path.symlink_to(path.with_name("loop2"))
    path.with_name("loop2").symlink_to(path)


def cycle() -> dict[str, Any]:
    heads: dict[str, Any] = {}
    heads["block0"] = heads
    return {"trunk": {"a": torch.ones(1)}, "heads": heads}


def repeats() -> dict[str, Any]:
    """A tree of three billion leaves, of a kilobyte."""
    tree: dict[str, Any] = {"leaf": 1}
    for _ in range(20):
        tree = {"a": tree, "b": tree, "c": tree}
    return tree


DEEP = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 100_000 + b"K\x01" + b"s" * 100_000 + b"."
"""A pickle of dictionaries in each other."""


def holds_itself() -> dict[str, Any]:
    state: dict[str, Any] = {"a": torch.empty(HUGE, device="meta")}
    state["self"] = state
    return state


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    # what would run code
    "code.pt": (torch_file({"a": Code()}), "could run code \\(it names posix.system\\)"),
    "code_legacy.pt": (legacy({"a": Code()}), "could run code"),
    "code.pkl": (raw(pickle.dumps(Code())), "could run code"),
    "code.npz": (lambda path: np.savez(path, a=np.array([Code()], dtype=object)), "'a.npy' holds Python obj"),
    "code.safetensors": (raw(pickle.dumps(Code())), "header"),
    # what would fill the memory
    "bomb.pt": (rezipped(zipfile.ZIP_DEFLATED, data={"a": torch.zeros(1 << 22)}), "parts are compressed"),
    "bomb.npz": (lambda path: np.savez_compressed(path, a=np.zeros(1 << 22)), "would unpack to 33,554"),
    "expanded.pt": (torch_file({"x": [torch.ones(1).expand(HUGE)]}), "has fewer numbers than that"),
    "expanded_legacy.pt": (legacy({"a": torch.ones(1).expand(HUGE)}), "has fewer numbers than that"),
    "meta.pt": (torch_file({"a": torch.empty(HUGE, device="meta")}), "a meta tensor; plain ones"),
    "itself.pt": (torch_file(holds_itself()), "a meta tensor; plain ones"),
    "shape.npz": (npz(array((HUGE,))), "shorter than its shape"),
    "shape.safetensors": (header({"a": entry([HUGE], [0, 4])}, bytes(4)), "invalid shape"),
    "overflow.safetensors": (header({"a": entry([2**33, 2**31], [0, 0])}), "overflow"),
    "length.safetensors": (header({"a": entry([1], [0, 4])}, bytes(4), 2**63), "header too large"),
    "longer.safetensors": (header({"a": entry([1], [0, 4])}, bytes(4), 90_000_000), "header length"),
    "deep.safetensors": (header(b'{"a":' + b"[" * 100_000), "recursion"),
    "view_size.pt": (view(HUGE, 1), "damaged"),
    "view_stride.pt": (view(HUGE, 0), "has fewer numbers than that"),
    "view_backwards.pt": (view(4, -1), "damaged"),
    "view_offset.pt": (view(4, 1, offset=2**50), "damaged"),
    "view_before.pt": (view(4, 1, offset=-2), "damaged"),
    "view_storage.pt": (view(2**33, 1, numel=2**33), "damaged"),
    "cycle.pt": (torch_file(cycle()), "holds itself, or is nested too deeply"),
    "deep.pt": (rezipped(pickled=DEEP), "holds itself, or is nested too deeply"),
    "repeats.pt": (torch_file(repeats()), "over and over"),
    # what is damaged
    "cut.safetensors": (cut(good, 100), "not fully covered"),
    "cut_header.safetensors": (lambda path: path.write_bytes(b"1234"), "header too small"),
    "longer_by_one.safetensors": (cut(header({"a": entry([1], [0, 4])}, bytes(8)), 3), "not fully covered"),
    "backwards.safetensors": (header({"a": entry([1], [4, 0])}, bytes(4)), "invalid offset"),
    "negative.safetensors": (header({"a": entry([-1], [0, 4])}, bytes(4)), "integer `-1`"),
    "overlap.safetensors": (header(dict.fromkeys("ab", entry([1], [0, 4])), bytes(4)), "invalid offset"),
    "type.safetensors": (header({"a": entry([1], [0, 4], "X9")}, bytes(4)), "unknown variant `X9`"),
    "text.safetensors": (raw(b"no weights at all"), "header"),
    "cut.pt": (cut(torch_file(STATE), 200), "damaged"),
    "cut_legacy.pt": (cut(legacy(STATE), 20), "unexpected EOF"),
    "text.pt": (raw(b"no weights at all"), "torch.save did not write it"),
    "text.npz": (raw(b"no weights at all"), "not a zip file"),
    "text_inside.npz": (npz(b"no array", "readme.txt"), "magic string"),
    "negative.npz": (npz(array((-1, 4))), "negative"),
    "dates.npz": (lambda path: np.savez(path, a=np.zeros(3, "datetime64[s]")), "datetime64"),
    "sparse.pt": (torch_file({"a": sparse()}), "a torch.sparse_coo tensor; plain ones"),
    "empty.pt": (raw(b""), "damaged"),
    "empty.safetensors": (raw(b""), "header too small"),
    "empty.npz": (raw(b""), "not a zip file"),
    "tar.pt": (tar, "a tar archive"),
    # what is no state dict, or no file
    "numbers.pt": (torch_file({"a": torch.ones(2), 3: torch.ones(2)}), "3 stands where the name"),
    "tuples.pt": (torch_file({("a",): torch.ones(2)}), "stands where the name"),
    "list.pt": (torch_file([1, 2]), "holds a list, not a checkpoint"),
    "none.pt": (lambda path: None, "no such weights file"),
    "folder.pt": (Path.mkdir, "no such weights file"),
    "loop.pt": (loop, "no such weights file"),
    "pipe.pt": (os.mkfifo, "no such weights file"),
    "device.pt": (lambda path: path.symlink_to("/dev/zero"), "no such weights file"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in HOSTILE.items():
        make(folder / name)
    return folder


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_one_line(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = Path(name).read_bytes() if Path(name).is_file() else b""
    with pytest.raises(ConfigError, match=HOSTILE[name][1]) as error:
        read_tensors(name)
    text = str(error.value)
    assert repr(name) in text
    assert "\n" not in text
    assert len(text) < 260
    assert "weights_only" not in text
    assert "allow_pickle" not in text
    assert not Path("executed").exists()
    assert (Path(name).read_bytes() if Path(name).is_file() else b"") == before
    with pytest.raises(ConfigError):
        ClassyModel.from_checkpoint(name)


MEASURE = """
import resource, sys
from classy_vision.config import ConfigError, OperationError
from classy_vision.weights.files import read_tensors
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
def refused(name):
    try:
        read_tensors(name)
    except ConfigError:
        return True
    return False
refused("cut.pt")
before = peak()
assert all(refused(name) for name in sys.argv[1:])
print(peak() - before)
"""


def test_nothing_is_allocated(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *HOSTILE], cwd=folder, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16  # MiB; the smallest bomb would take 32


@pytest.mark.parametrize("kind", ["safetensors", "zip.pt", "legacy.pt"])
def test_flipped_bits(kind: str, tmp_path: Path) -> None:
    """Some cannot be seen, since numbers have no checksum; none does anything else than fail."""
    path = tmp_path / f"flipped.{kind}"
    {"safetensors": good, "zip.pt": torch_file(STATE), "legacy.pt": legacy(STATE)}[kind](path)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[draw.randrange(min(len(whole), 400))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            read = read_tensors(path)
        except ConfigError:
            refused += 1
            continue
        assert all(v.nbytes <= len(whole) for v in read.values() if isinstance(v, Tensor))
    assert refused > 60


# -- what is read


@pytest.mark.parametrize("make", [torch_file, legacy])
def test_torch_files(make: Any, tmp_path: Path) -> None:
    make({**STATE, "nested": [{"epoch": 3}, None, "x"], "tied": STATE["a"]})(tmp_path / "weights.pt")
    read = read_tensors(tmp_path / "weights.pt")
    assert torch.equal(read["a"], STATE["a"])
    assert read["nested"] == [{"epoch": 3}, None, "x"]
    assert read["tied"].data_ptr() == read["a"].data_ptr()


def test_safetensors_by_another_name(tmp_path: Path) -> None:
    good(tmp_path / "weights.pt")
    torch.testing.assert_close(read_tensors(tmp_path / "weights.pt"), STATE)


def test_arrays(tmp_path: Path) -> None:
    written = {"block/kernel": np.arange(6, dtype=">f4").reshape(2, 3), "count": np.array(3)}
    np.savez(tmp_path / "weights.npz", **written)
    read = read_tensors(tmp_path / "weights.npz")
    assert read["block.kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["block.kernel"].dtype == torch.float32
    assert read["count"].item() == 3
    write_tensors(tmp_path / "again.npz", read, {})
    torch.testing.assert_close(read_tensors(tmp_path / "again.npz"), read)


# -- what is written


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_crash_leaves_the_old_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"weights.{suffix}"
    write_tensors(path, STATE, {})
    before = path.read_bytes()

    def crash(*args: Any, **more: Any) -> None:
        next(tmp_path.glob(".*.part"), tmp_path / ".new.part").write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr("classy_vision.weights.files.save_file", crash)
    monkeypatch.setattr("classy_vision.weights.files.np.savez", crash)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_training_never_writes_to_the_mapped_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    model = build_model(SMALL)
    save_file(model.state_dict(), path) if suffix == "safetensors" else torch.save(model.state_dict(), path)
    before = hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns

    model = build_model(SMALL, weights=path)
    model.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    assert (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) == before


def test_a_mapped_file_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(build_model(SMALL), path)
    model = build_model(SMALL, weights=path)
    with torch.no_grad():
        model.stem.conv.weight.fill_(2)
    save_weights(model, path)
    assert torch.equal(load_file(path)["stem.conv.weight"], model.stem.conv.weight)


# -- what cannot be written


LIMITED = """
import resource, sys
import torch
from pathlib import Path
from classy_vision.config import OperationError
from classy_vision.atomic import replacing
from classy_vision.weights.files import write_tensors
tensors = {"a": torch.zeros(100_000)}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def save(path):
    with replacing(path) as beside, beside.open("wb") as file:
        torch.save(tensors, file)
for name, write in {
    "a.safetensors": lambda path: write_tensors(path, tensors, {}),
    "a.npz": lambda path: write_tensors(path, tensors, {}),
    "a.pt": save,
}.items():
    try:
        write(Path(sys.argv[1], name))
    except OperationError as error:
        print(error)
"""


def test_writers_on_a_disk_that_is_full(tmp_path: Path) -> None:
    """The limit on the size of files stands in for the disk's."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("File too large") == 3, done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
def test_there_are_only_so_many_tensors(name: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / name, {f"w{i}": torch.zeros(1) for i in range(20_001)}, {})
    with pytest.raises(ConfigError, match="20,001 parts, and no checkpoint has more than 20,000"):
        read_tensors(tmp_path / name)


def test_names_are_only_so_long(tmp_path: Path) -> None:
    save_file({"x" * 1_000_000: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="a name of 1,000,000 characters"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "mlp", "input_dim": 200_001, "hidden_dims": [8], "output_dim": 2}, "beyond 200,000"),
        ({"name": "resnet18", "weights": "https://example.com/x.pt"}, "has a key 'weights'"),
    ],
)
def test_a_config_in_a_checkpoint_is_held_to_sizes_of_models(
    model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    state = {"model": {"trunk": {}, "heads": {}}}
    checkpoint = {"input_args": {"config": {"model": model}}, "classy_state_dict": {"base_model": state}}
    torch.save(checkpoint, tmp_path / "x.torch")
    with pytest.raises(ConfigError, match=f"x.torch' .*{message}"):
        ClassyModel.from_checkpoint(tmp_path / "x.torch")


def test_a_trunk_with_numbers_for_names(tmp_path: Path) -> None:
    torch.save({"model": {"trunk": {0: torch.zeros(1)}, "heads": {}}}, tmp_path / "k.pt")
    with pytest.raises(ConfigError, match="but 0 of its trunk is no name"):
        load_weights(build_model("resnet18", num_classes=2), tmp_path / "k.pt")
