"""Help, names of options and shell completion: the same habits in every command."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from classy_vision import __version__, cli
from classy_vision.cli import COMMANDS, app

GROUP: Any = get_command(app)
WEIGHTS = ("list", "show", "convert")
NAMES = [*((name,) for name in COMMANDS), *(("weights", name) for name in WEIGHTS)]
TABLES = [
    *((name,) for name in ("list", "show", "compare", "evaluate", "probe")),
    ("weights", "list"),
    ("weights", "show"),
]
WRITERS = [("compare",), ("sample",), ("schema",), ("train",), ("evaluate",), ("export",), ("predict",)]
WRITERS += [("embed",), ("probe",), ("neighbours",)]
OLD = {"--json", "--csv", "--input-size", "--batch"}


def find(names: tuple[str, ...]) -> Any:
    command, context = GROUP, GROUP.context_class(GROUP, info_name="classy")
    for name in names:
        command = command.get_command(context, name)
        context = command.context_class(command, info_name=name, parent=context)
    return command


def options(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: parameter for parameter in find(names).params for name in parameter.opts}


def text(*names: str) -> str:
    done = CliRunner().invoke(app, [*names], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("names", [(), *NAMES], ids=" ".join)
def test_help_is_whole(names: tuple[str, ...]) -> None:
    said = text(*names, "--help")
    assert said == text(*names, "-h")
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    assert not re.search(r"\w\.\.\.$", said, re.MULTILINE)
    assert not re.search(r"<(?!https?:)\w+", said)


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_every_option_has_a_sentence(names: tuple[str, ...]) -> None:
    for parameter in find(names).params:
        if parameter.name in ("install_completion", "show_completion"):
            continue
        assert re.fullmatch(r"[A-Z].*\.", parameter.help or "", re.DOTALL), (
            names,
            parameter.name,
            parameter.help,
        )
        assert parameter.metavar or parameter.is_flag, (names, parameter.name)


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_one_vocabulary(names: tuple[str, ...]) -> None:
    found = options(names)
    assert not OLD & found.keys()
    assert ("--output" in found) == ("-o" in found) == (names in WRITERS)
    if names in TABLES:
        assert found["--format"].metavar == "table|json|csv"
    assert len(found) < 12 or any(parameter.rich_help_panel for parameter in found.values())


def test_old_options_are_taken_with_a_warning() -> None:
    done = CliRunner().invoke(app, ["show", "resnet18", "--input-size=64", "--batch", "2", "--json"])
    assert done.exit_code == 0
    assert '"batch": 2' in done.stdout
    assert done.stderr.splitlines() == [
        "warning: --input-size is now --image-size; the old name will be removed",
        "warning: --batch is now --batch-size; the old name will be removed",
        "warning: --json is now --format json; the old name will be removed",
    ]


def test_old_options_that_exclude_each_other() -> None:
    done = CliRunner().invoke(app, ["list", "--json", "--csv"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(done.exception) == "--json and --csv were given together: choose one"


def test_version() -> None:
    assert text("--version") == f"classy {__version__}\n"


def test_commands_do_not_import_each_other() -> None:
    folder = Path(cli.__file__).parent
    for module in COMMANDS:
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("classy_vision.cli."):
                assert str(node.module).split(".")[2] not in COMMANDS, f"{module} imports {node.module}"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("classy sh", {"show"}),
        ("classy we", {"weights"}),
        ("classy show --image", {"--image-size"}),
        ("classy compare --ch", {"--channels-last"}),
        ("classy weights co", {"convert"}),
    ],
)
def test_bash_completion(line: str, offered: set[str]) -> None:
    words = {
        "_CLASSY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    code = "from classy_vision.cli import app; app(prog_name='classy')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == offered, done.stderr


def test_the_completion_script_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code = "from classy_vision.cli import app; app(prog_name='classy')"
    done = subprocess.run(
        [sys.executable, "-c", code, "--show-completion", "bash"], capture_output=True, text=True
    )
    assert "complete -o default -F _classy_completion classy" in done.stdout
