"""The shape of the library: imports run one way, start fast, and names are where they were."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles

import pytest

PACKAGE = Path(__file__).parents[1] / "classy_vision"
# Each may import what stands before it.
LAYERS = [
    {"errors"},
    {"atomic"},
    {"config", "registry", "presets", "text", "lazy", "removed", "run_files", "untrusted"},
    {"layers"},
    {"weights"},
    {"resolve"},
    {"hub"},
    {"heads"},
    {"trunk"},
    {"cost"},
    {"models"},
    {"generic"},
    {"identify"},
    {"data"},
    {"train"},
    {"engines"},
    {"export"},
    {"predict"},
    {"evaluate"},
    {"study"},
    {"embed"},
    {"deploy"},
    {"cli"},
]
FILES = sorted(PACKAGE.rglob("*.py"))


def modules_of(file: Path) -> list[tuple[str, bool]]:
    """The modules of ours that ``file`` imports, and whether when it is imported itself."""
    tree = ast.parse(file.read_text())
    outer = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("classy_vision"):
            found.append((str(node.module), id(node) in outer))
        elif isinstance(node, ast.Import):
            found += [(a.name, id(node) in outer) for a in node.names if a.name.startswith("classy_vision")]
    return found


def rank(room: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if room in rooms)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    for module, _ in modules_of(file):
        target = module.split(".")[1:]
        if not target or parts == ("__init__",):
            continue
        assert rank(target[0]) <= rank(parts[0]), f"{file.name} must not import {module}"
        inside = target[0] == parts[0] and parts[-1] != "__main__"
        assert not (inside and len(target) == 1), f"{file.name} imports its own package's __init__"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_module_of_ours_is_imported_by_a_string(file: Path) -> None:
    """The tests of order and circles see ``from classy_vision.x import y`` in a function, and not a string."""
    for call in ast.walk(ast.parse(file.read_text())):
        if not isinstance(call, ast.Call) or "import_module" not in ast.dump(call.func) or not call.args:
            continue
        name = call.args[0].values[0] if isinstance(call.args[0], ast.JoinedStr) else call.args[0]
        value = name.value if isinstance(name, ast.Constant) else ""
        assert not str(value).startswith("classy_vision"), f"{file.name}, line {call.lineno}"


def test_no_import_circles() -> None:
    names = {".".join(("classy_vision", *f.relative_to(PACKAGE).with_suffix("").parts)): f for f in FILES}
    graph = {name: {m for m, _ in modules_of(file) if m in names} for name, file in names.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


# Lines of a function, from ``def`` to its end.
MEDIAN, P90, LONGEST = 8, 25, 50


def functions_of(file: Path) -> dict[str, int]:
    """Functions by "file:name", and their lines."""
    where = file.relative_to(PACKAGE.parent).as_posix()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)]
    return {f"{where}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for node in nodes}


def test_functions_are_short() -> None:
    lines = {name: count for file in FILES for name, count in functions_of(file).items()}
    assert median(lines.values()) <= MEDIAN
    assert quantiles(lines.values(), n=10)[-1] <= P90
    assert {name for name, count in lines.items() if count > LONGEST} == set()


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_type_that_is_ignored_has_a_reason(file: Path) -> None:
    lines = file.read_text().splitlines()
    bare = [line.strip() for line in lines if re.search(r"#\s*type:\s*ignore(\[[^]]*\])?\s*(# noqa.*)?$", line)]
    assert bare == []


BY_NAME = {"lazy.py": 1, "cli/__init__.py": 1}
"""Calls of ``import_module`` by file; both import what they are told to."""


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_module_is_imported_by_name(file: Path) -> None:
    found = len(re.findall(r"import_module\(", file.read_text()))
    assert found <= BY_NAME.get(file.relative_to(PACKAGE).as_posix(), 0)


def test_importing_models_takes_little_beside_torch() -> None:
    # Seconds are in benchmarks.construction.
    code = (
        "import sys, torch; before = set(sys.modules); import classy_vision.models; "
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0].removeprefix("_") for name in done.stdout.split()}
    ours = {"classy_vision", "pydantic", "pydantic_core", "annotated_types", "typing_inspection", "safetensors"}
    others = {
        name for name in packages - ours - set(sys.stdlib_module_names) if not name.startswith("sysconfig")
    }
    assert others == set()


PUBLIC = {
    "classy_vision.models": [
        "AnyNet", "ClassyModel", "RegNet", "ResNeXt", "ResNet", "SqueezeAndExcitationLayer", "build_head",
        "build_model", "lecun_normal_init", "register_model",
    ],
    "classy_vision.models.anynet": ["ActivationType", "AnyNet", "AnyNetParams", "BlockType", "StemType"],
    "classy_vision.models.classy_model": ["ClassyModel"],
    "classy_vision.models.regnet": [
        "ActivationType", "AnyNet", "AnyNetParams", "BlockType", "RegNet", "RegNetParams", "StemType",
    ],
    "classy_vision.models.resnet": ["ResNet"],
    "classy_vision.models.resnext": ["ResNeXt"],
    "classy_vision.models.squeeze_and_excitation_layer": ["SqueezeAndExcitationLayer"],
    "classy_vision.heads": [
        "ClassyHead", "FullyConnectedHead", "FullyConvolutionalLinearHead", "IdentityHead",
        "VisionTransformerHead", "build_head", "register_head",
    ],
    "classy_vision.heads.classy_head": ["ClassyHead"],
    "classy_vision.heads.fully_connected_head": ["NORMALIZE_L2", "FullyConnectedHead"],
    "classy_vision.heads.fully_convolutional_linear_head": [
        "FullyConvolutionalLinear", "FullyConvolutionalLinearHead",
    ],
    "classy_vision.heads.identity_head": ["IdentityHead"],
    "classy_vision.heads.vision_transformer_head": ["VisionTransformerHead"],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_names_are_where_the_original_had_them(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in PUBLIC[module] if name not in vars(found)] == []
