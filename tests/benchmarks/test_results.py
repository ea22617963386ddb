"""A partial run replaces its sections of the file, and never beside figures of another machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.results import Results

FILE = """# Results

A processor, 2 cores; torch 2.10; one thread. It reaches 90 GFLOP/s.

## Taps

`python -m benchmarks.taps`, 1 min.

| ms | ours |
|---|---:|
| resnet50 | 24.6 |

## Older

Something else.

## Training

Slow.
"""


def test_reading_and_writing_change_nothing() -> None:
    found = Results.read(FILE)
    assert found.machine == "A processor, 2 cores; torch 2.10"
    assert found.remarks == "It reaches 90 GFLOP/s."
    assert list(found.sections) == ["Taps", "Older", "Training"]
    assert found.sections["Training"] == "Slow."
    assert found.text() == FILE


def test_the_file_of_the_project_can_be_read() -> None:
    found = Results.read((Path(benchmarks.__file__).parent / "RESULTS.md").read_text())
    assert "torch 2" in found.machine
    assert {"Memory", "Training"} <= set(found.sections)


@pytest.mark.parametrize("text", ["", "# Results\n\nNo machine.\n", "# Other\n\nA processor; one thread.\n"])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no file of results"):
        Results.read(text)


def test_merging_replaces_and_orders() -> None:
    merged = Results.read(FILE).merged(
        {"Training": "Quick.", "Memory": "Little."}, ["Training", "Memory", "Taps"]
    )
    assert list(merged.sections) == ["Training", "Memory", "Taps", "Older"]
    assert merged.sections["Training"] == "Quick."
    assert merged.sections["Older"] == "Something else."
    assert merged.remarks == "It reaches 90 GFLOP/s."


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of results, and benchmarks that only say their name."""
    path = tmp_path / "RESULTS.md"
    path.write_text(FILE)
    monkeypatch.setattr(benchmarks, "machine", lambda: "A processor, 2 cores; torch 2.10")
    monkeypatch.setattr(benchmarks, "limits", lambda: "100 GFLOP/s")
    monkeypatch.setattr(benchmarks, "SECTIONS", [(name.title(), name, [], []) for name in ("taps", "training")])
    monkeypatch.setattr(benchmarks, "run", lambda module, arguments: f"New {module}.")
    return path


def start(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--output", str(path), *arguments])
    benchmarks.main()


def test_a_part_replaces_its_sections(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, path, "--only", "training")
    assert path.read_text() == FILE.replace("Slow.\n", "").replace(
        "## Older\n\nSomething else.\n\n## Training\n\n",
        "## Training\n\nNew training.\n\n## Older\n\nSomething else.\n",
    )
    assert list(path.parent.iterdir()) == [path]


def test_all_replace_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "machine", lambda: "Another")
    start(monkeypatch, path)
    found = Results.read(path.read_text())
    assert found.sections == {"Taps": "New taps.", "Training": "New training."}
    assert found.machine == "Another"


def test_another_machine_is_refused_before_anything_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks, "machine", lambda: "Another, 64 cores")
    monkeypatch.setattr(benchmarks, "run", lambda module, arguments: pytest.fail("it ran"))
    with pytest.raises(SystemExit):
        start(monkeypatch, path, "--only", "training")
    said = capsys.readouterr().err
    assert "A processor, 2 cores; torch 2.10" in said
    assert "Another, 64 cores" in said
    assert path.read_text() == FILE


def test_what_fails_leaves_the_file_and_what_was_measured(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str, arguments: list[str]) -> str:
        if module == "training":
            raise SystemExit("failed")
        return f"New {module}."

    with monkeypatch.context() as patch:
        patch.setattr(benchmarks, "run", fail)
        with pytest.raises(SystemExit, match="failed"):
            start(patch, path)
    assert path.read_text() == FILE
    start(monkeypatch, path, "--only", "training")
    found = Results.read(path.read_text()).sections
    assert {found["Taps"], found["Training"]} == {"New taps.", "New training."}
    assert list(path.parent.iterdir()) == [path]


def test_a_quick_look_is_kept_out_of_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick"])
    with pytest.raises(SystemExit):
        benchmarks.main()
    assert "--output writes another file" in capsys.readouterr().err
