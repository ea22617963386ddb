"""What a word on the command line stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.study import Candidate, find_candidates
from classy_vision.weights.catalogue import published


def names(*words: object) -> list[str]:
    return [one.name for one in find_candidates(list(map(str, words)))]


def write(path: Path, config: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config) if path.suffix == ".json" else yaml.safe_dump(config))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b", "a"):
        write(tmp_path / "nets" / f"{name}.yaml", {"name": "resnet18"})
    write(tmp_path / "nets" / "c.json", {"name": "resnet34"})
    write(tmp_path / "nets" / "index.json", {"region": {}})
    (tmp_path / "nets" / "notes.txt").write_text("no model")
    return tmp_path / "nets"


def test_presets_and_patterns() -> None:
    assert names("resnet50") == ["resnet50"]
    assert names("resnet1?", "resnet18") == ["resnet18"]
    assert names("REGNET_y_[24]00mf") == ["regnet_y_200mf", "regnet_y_400mf"]
    (one,) = find_candidates(["resnet50"])
    assert one == Candidate("resnet50", "resnext", {"name": "resnet50"})


def test_published_weights_bring_their_size_and_accuracy() -> None:
    name = "torchvision/resnet50.IMAGENET1K_V2"
    (one,) = find_candidates([name])
    entry = published(name)
    assert entry.top1 is not None
    assert one.accuracies == {"imagenet_1k": entry.top1 / 100}
    assert one.input_size == (entry.preprocessing.image_size,) * 2
    assert name in names("torchvision/resnet50.*")
    (clip,) = [
        one for one in find_candidates(["timm/*"]) if one.name == "timm/vit_base_patch16_224.augreg_in21k"
    ]
    assert clip.accuracies == {}  # on other classes


def test_files_folders_and_patterns_of_paths(folder: Path) -> None:
    assert names(folder) == ["a", "b", "c"]
    assert {one.group for one in find_candidates([str(folder)])} == {"nets"}
    assert names(folder / "b.yaml") == ["b"]
    assert names(folder / "*.yaml") == ["a", "b"]


def test_a_training_config_is_its_model_at_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "job.yaml", {"model": "resnet18", "data": {"image_size": 64}})
    (one,) = find_candidates([str(path)])
    assert (one.config, one.input_size) == ({"name": "resnet18"}, (64, 64))


def test_a_run_brings_what_it_measured(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    write(run / "config.yaml", {"model": {"name": "resnet18"}, "data": {"image_size": 64}})
    final = {"epoch": 3, "val/b/accuracy": 0.75, "val/a/accuracy": 0.5, "val/c/mae": 2.0}
    write(run / "metrics.json", {"final": final, "epochs": [final]})
    (one,) = find_candidates([str(run)])
    assert (one.name, one.group, one.accuracies) == ("first", "runs", {"b": 0.75, "a": 0.5})
    (run / "metrics.json").unlink()
    assert find_candidates([str(tmp_path / "runs" / "*")])[0].accuracies == {}


def test_names_are_different(folder: Path) -> None:
    other = folder.parent / "more"
    write(other / "a.yaml", {"name": "resnet34"})
    assert names(folder, other) == ["nets/a", "b", "c", "more/a"]
    third = folder.parent / "deep" / "more"
    write(third / "a.yaml", {"name": "resnet50"})
    assert names(other, third) == ["more/a#1", "more/a#2"]
    assert names(other, other, other / "a.yaml") == ["a"]


def test_what_cannot_be_read_is_said_beside_the_others(folder: Path) -> None:
    (folder / "b.yaml").write_text("name: [")
    write(folder / "d.yaml", {"epochs": 3})
    (folder / "e.yaml").write_bytes(b"\xff\xfe\x00")
    words = [str(folder), "resnet5O", str(folder / "gone.yaml"), "timm/resnet50.a9", "squeezenet*"]
    failures = {one.name: one.failure or "" for one in find_candidates(words)}
    assert [name for name, failure in failures.items() if not failure] == ["a", "c"]
    assert "malformed YAML" in failures["b"]
    assert "a model config has the key 'name'" in failures["d"]
    assert "cannot read the config" in failures["e"]
    assert "did you mean 'resnet50'" in failures["resnet5O"]
    assert "No such file" in failures["gone"]
    assert "unknown published weights 'timm/resnet50.a9'" in failures["timm/resnet50.a9"]
    assert "unknown model 'squeezenet*'" in failures["squeezenet*"]
    assert not any("\n" in failure for failure in failures.values())


@pytest.mark.parametrize("words", [["resnet5O"], ["resnet5O", "squeezenet*"]])
def test_nothing_that_is_known_is_an_error(words: list[str]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet50'"):
        find_candidates(words)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no YAML or JSON files with models"):
        find_candidates([str(tmp_path)])


def test_one_path_of_a_pattern_that_is_no_model_does_not_hold_up_the_others(folder: Path) -> None:
    (folder / "b_empty").mkdir()
    found = find_candidates([str(folder / "[abc]*")])
    assert [Path(one.name).name for one in found if not one.failure] == ["a", "b", "c"]
    (failed,) = (one for one in found if one.failure)
    assert failed.name == str(folder / "b_empty")
