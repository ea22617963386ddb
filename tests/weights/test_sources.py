"""Where weights come from. Whatever downloads runs as a process with a hub of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from classy_vision.config import ConfigError
from classy_vision.models import build_model
from classy_vision.trunk.saving import save_weights
from classy_vision.weights import download
from classy_vision.weights.sources import find_file
from tests.weights.hub import serve

SMALL = {"name": "resnet", "num_blocks": [1, 1], "init_planes": 8}


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    repository = tmp_path / "hub" / "someone" / "small"
    repository.mkdir(parents=True)
    save_weights(build_model(SMALL), repository / "model.safetensors", layout="timm")
    (tmp_path / "hub" / "someone" / "empty").mkdir()
    return tmp_path / "hub"


@pytest.fixture
def endpoint(repositories: Path) -> Iterator[str]:
    with serve(repositories) as address:
        yield address


def find(source: str, home: Path, endpoint: str, **environment: str) -> tuple[int, str]:
    code = "import sys; from classy_vision.weights.sources import find_file; print(find_file(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, source],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stdout.strip() or done.stderr.strip().splitlines()[-1])


def test_the_hub_and_its_cache(tmp_path: Path, repositories: Path, endpoint: str) -> None:
    home = tmp_path / "home"
    code, path = find("hf-hub:someone/small", home, endpoint)
    assert code == 0, path
    served = repositories / "someone" / "small" / "model.safetensors"
    assert Path(path).read_bytes() == served.read_bytes()
    assert str(home) in path

    served.unlink()
    assert find("hf-hub:someone/small", home, endpoint, HF_HUB_OFFLINE="1") == (0, path)
    code, message = find("hf-hub:someone/small", tmp_path / "other", endpoint, HF_HUB_OFFLINE="1")
    assert code != 0
    assert "'someone/small' cannot be downloaded and is not in the cache" in message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf-hub:someone/none", "the hub has no repository 'someone/none'"),
        ("hf-hub:someone/empty", "has no file model.safetensors or pytorch_model.bin"),
        ("hf-hub:someone/small@v9", "the repository 'someone/small' has no revision 'v9'"),
        ("hf-hub:someone/401", "'someone/401' is gated: accept its license at http://"),
        ("hf-hub:someone/403", "/someone/403, and log in with that account: hf auth login, or HF_TOKEN"),
        ("hf-hub:someone/cut", "the download of 'someone/cut' is incomplete and nothing of it was kept"),
    ],
)
def test_what_the_hub_has_not(
    source: str, message: str, tmp_path: Path, repositories: Path, endpoint: str
) -> None:
    for name, marker in (("401", ".gated"), ("403", ".gated"), ("cut", ".cut")):
        repository = repositories / "someone" / name
        repository.mkdir()
        (repository / marker).write_text(name.replace("cut", "99"))
        (repository / "model.safetensors").write_bytes(bytes(100))
    code, said = find(source, tmp_path / "home", endpoint)
    assert code != 0
    assert said.startswith("classy_vision.errors.ConfigError: ")
    assert message in said
    kept = [path for folder in ("blobs", "snapshots") for path in tmp_path.glob(f"home/hub/*/{folder}/**/*")]
    assert not [path for path in kept if path.is_file()]


def test_a_download_that_breaks_off_continues(tmp_path: Path, repositories: Path, endpoint: str) -> None:
    (repositories / "someone" / "small" / ".cut").write_text("1")
    code, path = find("hf-hub:someone/small", tmp_path / "home", endpoint)
    assert code == 0, path
    served = repositories / "someone" / "small" / "model.safetensors"
    assert Path(path).read_bytes() == served.read_bytes()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b/c", "a", "a/../b", "/a/b", "a/b@../../c", "a/b\n"])
def test_path_tricks(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a repository of the hub"):
        find_file(f"hf-hub:{name}")


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'timm/resnet50.a1_in1k'"):
        find_file("timm/resnet50.a1_in1")
    with pytest.raises(ConfigError, match="no such weights file: 'weights.pth'; published ones are"):
        find_file("weights.pth")


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither model.safetensors nor checkpoint.torch"):
        find_file(tmp_path)
    (tmp_path / "checkpoint.torch").write_bytes(b"")
    assert find_file(tmp_path) == tmp_path / "checkpoint.torch"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_file(str(tmp_path)) == tmp_path / "model.safetensors"


def test_an_address_and_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    content = b"some weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    served = tmp_path / "hub" / "a" / "b" / "files"
    served.mkdir(parents=True)
    (served / f"net-{digest}.pth").write_bytes(content)
    (served / "net-00000000.pth").write_bytes(content)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serve(tmp_path / "hub") as address:
        base = f"{address}/a/b/resolve/main/files"
        with pytest.raises(ConfigError, match="is incomplete and nothing of it was kept.*SHA-256 begins with"):
            download.download_address(f"{base}/net-00000000.pth")
        (tmp_path / "hub" / "a" / "b" / ".cut").write_text("1")
        with pytest.raises(ConfigError, match=f"the download of {base}/net-{digest}.pth is incomplete"):
            download.download_address(f"{base}/net-{digest}.pth")
        with pytest.raises(ConfigError, match="cannot be downloaded and is not in the cache"):
            download.download_address(f"{base}/none-00000000.pth")
        path = download.download_address(f"{base}/net-{digest}.pth")
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing half-written
    assert download.download_address(f"{base}/net-{digest}.pth") == path  # from the cache
    path.write_bytes(b"other")
    with pytest.raises(ConfigError, match="is damaged"):
        download.download_address(f"{base}/net-{digest}.pth")
