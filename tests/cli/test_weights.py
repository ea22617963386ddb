"""``classy weights`` on the catalogue and on files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from classy_vision.cli import main
from classy_vision.cli.weights import _check_equal
from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel, build_model, load_weights, save_weights
from classy_vision.weights.catalogue import names, published
from classy_vision.weights.files import read_tensors

SMALL = {"name": "resnet", "num_blocks": [1, 1], "init_planes": 8, "num_classes": 3}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; gives its exit code, output and errors."""

    def call(*args: object, columns: int = 120) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["classy", "weights", *map(str, args)])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def new(seed: int = 0, **more: Any) -> ClassyModel:
    torch.manual_seed(seed)
    return build_model(SMALL, **more)


def equal(a: ClassyModel, b: ClassyModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


# -- list


def test_list_as_data(run: Any) -> None:
    code, out, _ = run("list", "--format", "json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == names()
    entry = published(rows[0]["name"])
    assert rows[0]["params"] == entry.params
    assert rows[0]["network"] == entry.config["name"]
    code, out, _ = run("list", "RESNET18", "--source", "torchvision", "--format", "csv")
    assert list(csv.DictReader(io.StringIO(out))) == [
        {
            "name": "torchvision/resnet18.IMAGENET1K_V1",
            "network": "resnet18",
            "params": "11689512",
            "image_size": "224",
            "top1": "69.758",
            "license": "bsd-3-clause",
        }
    ]


def test_list_filters(run: Any) -> None:
    found = json.loads(run("list", "timm/*b0.*", "--format", "json")[1])
    assert found
    assert all(row["name"].startswith("timm/") and "b0." in row["name"] for row in found)
    found = json.loads(run("list", "--preset", "vit_h_14", "--format", "json")[1])
    assert {row["network"] for row in found} == {"vit_h_14"}


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (["--family", "densenet"], lambda row: "densenet" in row["network"]),
        (["--max-params", "6"], lambda row: row["params"] <= 6e6),
        (["--image-size", "384"], lambda row: row["image_size"] == 384),
        (["--min-top1", "86"], lambda row: row["top1"] >= 86),
        (["--license", "MIT"], lambda row: "mit" in row["license"]),
        (["--license", "permissive"], lambda row: row["license"] in ("apache-2.0", "bsd-3-clause", "mit")),
        (["--license", "restricted"], lambda row: row["license"] not in ("apache-2.0", "bsd-3-clause", "mit")),
        (["--trained-on", "in22k"], lambda row: "in22k" in row["name"]),
        (
            ["--family", "vision_transformer", "--max-params", "30", "--min-top1", "82"],
            lambda row: row["top1"] >= 82,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_list_by_what_they_are(run: Any, arguments: list[str], holds: Any) -> None:
    rows = json.loads(run("list", "--format", "json", *arguments)[1])
    everything = json.loads(run("list", "--format", "json")[1])
    assert 0 < len(rows) < len(everything)
    assert all(map(holds, rows))


def test_list_sorted(run: Any) -> None:
    for column, name, largest_first in (
        ("top1", "top1", True),
        ("-top1", "top1", False),
        ("params", "params", False),
    ):
        rows = json.loads(run("list", "resnet", "--sort", column, "--format", "json")[1])
        there = [row[name] for row in rows if row[name] is not None]
        assert there == sorted(there, reverse=largest_first)
        assert [row[name] for row in rows[: len(there)]] == there


@pytest.mark.parametrize("columns", [80, 120])
def test_names_are_whole_in_any_width(run: Any, columns: int) -> None:
    code, out, _ = run("list", "*clip*", columns=columns)
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= columns
    clips = [name for name in names() if "clip" in name]
    assert [line.split()[0] for line in lines if line.startswith(" timm/")] == clips
    assert ("network" in lines[1]) == (columns == 120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnt50"], "no published weights have 'resnt50' in their name; did you mean 'resnet50'?"),
        (["--preset", "resnet5"], "did you mean 'resnet50'?"),
        (["--family", "resnxt"], "did you mean 'resnext'?"),
        (["--sort", "top"], "--sort: unknown column 'top'"),
        (["--min-top1", "99"], "have all of this: --min-top1 99"),
    ],
)
def test_list_errors(run: Any, arguments: list[str], message: str) -> None:
    code, out, err = run("list", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


# -- show


def test_show_a_name(run: Any) -> None:
    name = "torchvision/r3d_18.KINETICS400_V1"
    code, out, _ = run("show", name)
    assert code == 0
    facts = yaml.safe_load(out.replace(": 33,371,472", ": 33371472"))
    assert facts["config"] == published(name).config
    assert facts["preprocessing"]["resize"] == [128, 171]
    assert facts["place"] == "https://download.pytorch.org/models/r3d_18-b3b3357e.pth"
    found = json.loads(run("show", "timm/resnet18.a1_in1k", "--format", "json")[1])
    assert (found["labels"], found["license"]) == ("imagenet_1k", "apache-2.0")
    assert found["restriction"] is None
    assert "restriction: non-commercial use only\n" in run("show", "timm/resnet18.fb_ssl_yfcc100m_ft_in1k")[1]
    assert run("show", "timm/resnet18.a1")[0] == 2


def test_show_a_file(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(new(), file, layout="torchvision")
    found = json.loads(run("show", file, "--format", "json")[1])
    assert found["layouts"] == ["torchvision", "timm"]
    assert (found["family"], found["preset"]) == ("resnext", None)
    assert found["params"] == sum(p.numel() for p in new().parameters())
    assert "bn_epsilon" in found["not visible in a file"]
    assert found["config"]["num_blocks"] == [1, 1]
    code, out, _ = run("show", file)
    assert code == 0
    config = yaml.safe_load(out[out.index("config:") :])["config"]
    model = build_model(config)
    load_weights(model, file)
    assert equal(model, new())


def test_show_what_is_none(run: Any, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    code, out, err = run("show", tmp_path / "a.pth")
    assert (code, out) == (2, "")
    assert "no layout knows any of their names" in err
    assert run("show", tmp_path / "none.pth")[0] == 2


# -- convert


@pytest.mark.parametrize("options", [[], ["--model", "CONFIG"]], ids=["found", "given"])
def test_convert(run: Any, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "small.json").write_text(json.dumps({**SMALL, "num_classes": 3}))
    options = [str(tmp_path / "small.json") if word == "CONFIG" else word for word in options]
    one, two, three = (tmp_path / f"{n}.safetensors" for n in (1, 2, 3))
    save_weights(new(), one, layout="timm")
    code, out, _ = run("convert", one, two, "--to", "pycls", *options)
    assert code == 0
    assert "to pycls" in out
    assert "s1.b1.f.a.weight" in read_tensors(two)
    assert run("convert", two, three, "--to", "timm", *options)[0] == 0
    before, after = read_tensors(one), read_tensors(three)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_convert_published_weights(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, file, target = "timm/resnet18.a1_in1k", tmp_path / "there.safetensors", tmp_path / "out.safetensors"
    save_weights(build_model(name), file, layout="timm")
    find = "classy_vision.trunk.loading.find_file"
    monkeypatch.setattr(find, lambda source: file if source == name else source)
    code, _, err = run("convert", name, target, "--to", "pycls")
    assert (code, err) == (0, "")
    assert read_tensors(target)["head.fc.weight"].shape == (1000, 512)

    monkeypatch.setattr(find, lambda source: file)  # another file where what was written is read back
    target.unlink()
    assert run("convert", name, target, "--to", "pycls")[0] == 2
    assert list(tmp_path.iterdir()) == [file]


def test_half_precision_stays(run: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": new().half().state_dict()}, tmp_path / "half.pth")
    assert run("convert", tmp_path / "half.pth", tmp_path / "out.safetensors", "--to", "timm")[0] == 0
    assert read_tensors(tmp_path / "out.safetensors")["conv1.weight"].dtype == torch.float16


def test_convert_overwrites_only_by_force(run: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_weights(new(), one, layout="timm")
    two.write_bytes(b"mine")
    code, _, err = run("convert", one, two, "--to", "native")
    assert code == 2
    assert "exists: --force replaces it" in err
    assert two.read_bytes() == b"mine"
    assert run("convert", one, two, "--to", "native", "--force")[0] == 0
    assert run("convert", one, one, "--to", "native", "--force")[0] == 0
    assert "stem.conv.weight" in read_tensors(one)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("out.safetensors", ["--to", "tim"], "unknown layout 'tim'; did you mean 'timm'?"),
        ("out.safetensors", ["--to", "google"], "ResNeXt: unknown layout 'google' (allowed: native, "),
        ("out.pth", ["--to", "timm"], "(allowed: .safetensors, .npz)"),
        ("no/out.safetensors", ["--to", "timm"], "there is no folder"),
        ("out.safetensors", ["--to", "timm", "--model", "resnet50"], "do not fit this ResNeXt"),
        ("out.safetensors", ["--to", "timm", "--model", "resnet5"], "did you mean 'resnet50'?"),
    ],
)
def test_convert_errors(run: Any, tmp_path: Path, target: str, options: list[str], message: str) -> None:
    save_weights(build_model("resnet18", num_classes=2), tmp_path / "in.safetensors")
    code, out, err = run("convert", tmp_path / "in.safetensors", tmp_path / target, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_what_reads_back_otherwise_is_found() -> None:
    with pytest.raises(ConfigError, match="does not hold the same numbers: b"):
        _check_equal({"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.ones(1)})
