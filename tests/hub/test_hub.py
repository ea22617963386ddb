"""Models to and from folders and a hub. Whatever goes to the hub runs as a process with one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from classy_vision.config import ConfigError
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, RegNet, ResNeXt, build_model, save_weights
from classy_vision.weights.files import write_tensors
from tests.weights.hub import COMMIT, serve

HEADS = [
    {"name": "fully_connected", "unique_id": "species", "num_classes": 3, "fork_block": "trunk_output"},
    {"name": "fully_connected", "unique_id": "blurred", "num_classes": 2, "fork_block": "block0"},
]
SMALL = {"name": "resnet", "num_blocks": [1, 1], "init_planes": 8}


@pytest.fixture
def model() -> ClassyModel:
    torch.manual_seed(0)
    return build_model({**SMALL, "heads": HEADS}).eval()


def same(a: ClassyModel, b: ClassyModel) -> None:
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(a.eval()(x), b.eval()(x), rtol=0, atol=0)


def front_matter(path: Path) -> tuple[dict[str, Any], str]:
    _, front, text = path.read_text().split("---\n", 2)
    return yaml.safe_load(front), text


# -- folders


def test_there_and_back(model: ClassyModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "made" / "model", license="mit")
    folder = tmp_path / "made" / "model"
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == {**SMALL, "heads": HEADS}
    same(ClassyModel.from_pretrained(folder), model)
    same(ResNeXt.from_pretrained(str(folder)), model)
    with pytest.raises(ConfigError, match="is a ResNet, not a RegNet"):
        RegNet.from_pretrained(folder)


def test_old_names_still_work(model: ClassyModel, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="licence is now license"):
        model.save_pretrained(tmp_path, licence="mit")
    assert front_matter(tmp_path / "README.md")[0]["license"] == "mit"


def test_a_card_that_is_there_stays(model: ClassyModel, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_folder_that_cannot_be_written(model: ClassyModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write '.*file/model': Not a directory"):
        model.save_pretrained(tmp_path / "file" / "model")


# -- the card


def test_card(model: ClassyModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, license="mit", repo_id="someone/birds")
    front, text = front_matter(tmp_path / "README.md")
    assert front == {
        "library_name": "classy-vision-models",
        "pipeline_tag": "image-classification",
        "license": "mit",
        "tags": ["classy-vision-models", "resnet"],
    }
    parameters = sum(p.numel() for p in model.parameters())
    assert f"({parameters:,})" in text
    assert "| multiply-adds | " in text
    assert "| species | trunk\\_output | fully\\_connected | 3 |  |" in text
    assert "ClassyModel.from_pretrained('someone/birds')" in text


def test_card_of_a_run(model: ClassyModel, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    settings = {
        "model": {**SMALL, "heads": HEADS},
        "data": {"source": "folder", "root": "/home/me/secret", "image_size": 32},
        "tasks": {"species": {"classes": ["owl", "tit | <b>", "jay"]}},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "metrics.json").write_text(json.dumps({"final": {"epoch": 3, "val/species/accuracy": 0.91234}}))
    write_tensors(run / "model.safetensors", model.state_dict(), {})
    same(ClassyModel.from_pretrained(run), model)

    model.save_pretrained(tmp_path / "model", run=run)
    _, text = front_matter(tmp_path / "model" / "README.md")
    assert "owl, tit \\| \\<b\\>, jay" in text
    assert "| val/species/accuracy | 0.9123 |" in text
    assert "| image\\_size | 32 |" in text
    assert "secret" not in text
    assert "Not stated." in text
    with pytest.raises(ConfigError, match="is not a run folder"):
        model.save_pretrained(tmp_path / "other", run=tmp_path)


TASKS = {
    "species": {"kind": "classification", "classes": ["owl", "tit", "jay"]},
    "blurred": {"kind": "multilabel", "classes": ["near", "far"]},
}
SEEN = {"image_size": 32, "mean": [0.4] * 3, "std": [0.2] * 3}


def test_labels_and_preprocessing_go_along(tmp_path: Path) -> None:
    model = build_model({**SMALL, "heads": HEADS, "tasks": TASKS, "preprocessing": SEEN})
    model.save_pretrained(tmp_path / "first")
    again = ClassyModel.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    written = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")]
    assert written[0] == written[1] == {**SMALL, "heads": HEADS, "tasks": TASKS, "preprocessing": SEEN}
    assert again.labels == {"species": ("owl", "tit", "jay"), "blurred": ("near", "far")}
    assert again.preprocessing == SEEN


def test_a_head_that_is_replaced_takes_its_labels_along(tmp_path: Path) -> None:
    model = build_model({**SMALL, "heads": HEADS, "tasks": TASKS, "preprocessing": SEEN})
    model.set_heads({"trunk_output": [FullyConnectedHead("species", 3)]})
    assert model.labels == {}
    model.save_pretrained(tmp_path)
    assert "tasks" not in json.loads((tmp_path / "config.json").read_text())


def test_a_run_of_another_model(model: ClassyModel, tmp_path: Path) -> None:
    settings = {"data": SEEN, "tasks": {"species": {"classes": ["owl", "tit"]}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(
        ConfigError, match="tasks.species has 2 classes, and head 'species' has num_classes = 3"
    ):
        model.save_pretrained(tmp_path / "model", run=tmp_path)
    assert not (tmp_path / "model").exists()


def test_card_of_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = build_model("timm/resnet18.a1_in1k")
    save_weights(published, tmp_path / "weights.safetensors", layout="timm")
    monkeypatch.setattr("classy_vision.trunk.loading.find_file", lambda name: tmp_path / "weights.safetensors")
    model = build_model("timm/resnet18.a1_in1k", weights=True)
    assert model.loaded is not None
    assert model.loaded.source == "timm/resnet18.a1_in1k"
    model.save_pretrained(tmp_path / "model")
    front, text = front_matter(tmp_path / "model" / "README.md")
    assert (front["license"], front["base_model"]) == ("apache-2.0", "timm/resnet18.a1_in1k")
    assert "tench, goldfish" in text
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["tasks"]["default_head"]["classes"][:2] == ["tench", "goldfish"]
    assert config["preprocessing"]["interpolation"] == "bicubic"


def test_card_without_heads(tmp_path: Path) -> None:
    build_model(SMALL).save_pretrained(tmp_path)
    front, text = front_matter(tmp_path / "README.md")
    assert front["pipeline_tag"] == "image-feature-extraction"
    assert "the output is the feature at the end of the trunk" in text
    assert ClassyModel.from_pretrained(tmp_path).get_heads() == {}


# -- what is not believed


HOSTILE: dict[str, tuple[Any, str]] = {
    "weights of its own": ({**SMALL, "weights": "hf-hub:someone/else"}, "has a key 'weights'"),
    "another library's": ({"architecture": "resnet18", "num_classes": 10}, "does not name its model"),
    "an unknown model": ({"name": "resnot"}, "unknown model 'resnot'"),
    "an unknown key": ({**SMALL, "init_plane": 8}, "did you mean 'init_planes'"),
    "too many blocks": ({**SMALL, "num_blocks": [1001, 1001]}, "num_blocks is more than 2,000"),
    "too deep": (
        {"name": "efficientnet", "model_params": {"depth_coefficient": 1e4}},
        "depth_coefficient is more than 100",
    ),
    "too wide": ({**SMALL, "init_planes": 10**9}, "beyond 200,000"),
    "a million heads": ({**SMALL, "heads": [{}] * 200_001}, "beyond 200,000|too large"),
    "no mapping": ([1], "is a mapping"),
    "nested": ("[" * 100_000, "nested too deeply"),
    "tasks of another head": ({**SMALL, "heads": HEADS, "tasks": {"specie": {}}}, "unknown head 'specie'"),
    "too few classes": (
        {**SMALL, "heads": HEADS, "tasks": {"species": {"kind": "multilabel", "classes": ["a"]}}},
        "tasks.species has 1 classes",
    ),
    "an unknown kind": ({**SMALL, "heads": HEADS, "tasks": {"species": {"kind": "x"}}}, "unknown kind 'x'"),
    "no preprocessing": ({**SMALL, "heads": HEADS, "preprocessing": 3}, "preprocessing = 3: a mapping"),
    "other weights": ({**SMALL, "init_planes": 16, "heads": HEADS}, "do not fit this ResNet"),
    "fewer heads": ({**SMALL, "heads": HEADS[:1]}, "blurred"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_configs(case: str, model: ClassyModel, tmp_path: Path) -> None:
    config, message = HOSTILE[case]
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ConfigError, match=message) as error:
        ClassyModel.from_pretrained(tmp_path)
    assert len(str(error.value)) < 1000


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither config.json nor config.yaml"):
        ClassyModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no such weights file: '.*model.safetensors'"):
        ClassyModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="from_checkpoint takes files"):
        ClassyModel.from_pretrained(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="is not a folder, a repository"):
        ClassyModel.from_pretrained("a/b/c")
    with pytest.raises(ConfigError, match="unknown published weights 'timm/resnet50.none'"):
        ClassyModel.from_pretrained("timm/resnet50.none")


# -- the hub


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with serve(tmp_path / "hub") as address:
        yield address


START = """
import sys, torch
from classy_vision.models import ClassyModel
from classy_vision.config import ConfigError
"""


def run(code: str, home: Path, endpoint: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code, *arguments],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_x", **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


PUSH = """
from pathlib import Path
print(ClassyModel.from_pretrained(sys.argv[1]).push_to_hub("someone/birds", license="mit"))
card = Path(sys.argv[2], "README.md")
print("license: mit" in card.read_text())
card.write_text("mine")
model = ClassyModel.from_pretrained("someone/birds").eval()
model.push_to_hub("someone/birds")
print(card.read_text())
"""
LOAD = """
model = ClassyModel.from_pretrained("someone/birds").eval()
torch.save(model(torch.ones(1, 3, 32, 32)), sys.argv[1])
ClassyModel.from_pretrained("someone/birds", cache_dir="empty")
"""
MISSING = """
for name in sys.argv[1:]:
    try:
        ClassyModel.from_pretrained(name)
    except ConfigError as error:
        print(error)
"""


def test_push_and_load(model: ClassyModel, tmp_path: Path, endpoint: str) -> None:
    model.save_pretrained(tmp_path / "model")
    uploaded = tmp_path / "hub" / "someone" / "birds"
    said = run(PUSH, tmp_path / "home", endpoint, str(tmp_path / "model"), str(uploaded))
    assert said.splitlines() == [f"{endpoint}/someone/birds/commit/{COMMIT}", "True", "mine"]
    assert sorted(p.name for p in uploaded.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    torch.testing.assert_close(load_file(uploaded / "model.safetensors"), dict(model.state_dict()))

    said = run(LOAD, tmp_path / "home", endpoint, str(tmp_path / "output.pt"), HF_HUB_OFFLINE="1")
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), model(torch.ones(1, 3, 32, 32)))
    assert "ConfigError: 'someone/birds' cannot be downloaded and is not in the cache" in said


def test_what_the_hub_has_not(tmp_path: Path, endpoint: str) -> None:
    repository = tmp_path / "hub" / "someone" / "pickled"
    repository.mkdir(parents=True)
    (repository / "config.json").write_text(json.dumps(SMALL))
    torch.save({}, repository / "pytorch_model.bin")
    names = ["someone/none", "someone/pickled", "../etc"]
    none, pickled, trick = run(MISSING, tmp_path / "home", endpoint, *names).splitlines()
    assert "the hub has no repository 'someone/none'" in none
    assert "does not have both config.json and model.safetensors" in pickled
    assert "is not the name of a repository" in trick


def test_a_hub_that_is_away(model: ClassyModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    code = "ClassyModel.from_pretrained(sys.argv[1]).push_to_hub('someone/birds')"
    said = run(code, tmp_path / "home", "http://127.0.0.1:9", str(tmp_path / "model"))
    assert "ConfigError: cannot upload to 'someone/birds'" in said
