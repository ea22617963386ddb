"""Low-rank adapters: which layers have them, what they give, and a run from its start to its export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.predict import Predictor
from classy_vision.train import TrainConfig, check, resume, train
from classy_vision.train.config import LoraConfig, ScheduleConfig
from classy_vision.train.model import freeze
from classy_vision.train.run_folder import read_state
from tests.train.command import SMALL_TRUNK, classy, head, job, write
from tests.train.stops import assert_same_runs, read_history, train_and_stop

peft = pytest.importorskip("peft", reason="the extra 'lora' is not installed", exc_type=ImportError)

from classy_vision.train.adapters import (  # noqa: E402
    add_adapters,
    find_layers,
    load_adapter,
    merge_adapters,
    merged_state,
    write_adapter,
)

VIT = {
    **{"name": "vision_transformer", "image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 2},
    **{"hidden_dim": 16, "mlp_dim": 32},
}
SHAPE = (3, 8, 8)
X = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
LORA = {"rank": 4, "alpha": 8}


class Encoder(nn.Module):
    """A trunk with torch's attention, a norm of batches, and layers that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.BatchNorm2d(16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 2)
        self.twice = nn.Linear(16, 16)
        self.again = self.twice
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.norm(self.patches(x)).flatten(2).transpose(1, 2)).mean(1)
        return self.fc(self.again(self.twice(x)))


def build(block: str = "trunk_output", **options: Any) -> ClassyModel:
    return build_model({**VIT, **options, "heads": [head("colour", block, num_classes=3)]}).eval()


def build_encoder(block: str) -> ClassyModel:
    model = ClassyModel.from_model(Encoder().eval(), [block], input_shape=SHAPE)
    model.set_heads({block.replace(".", "-"): [FullyConnectedHead("colour", num_classes=3)]})
    return model.eval()


def move_adapters(model: nn.Module) -> None:
    """Makes adapters that give something, as they do not at first."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize(
    ("make", "block"),
    [
        (build, "trunk_output"),
        (lambda block: build(block, qkv_bias="qv"), "layer_0"),
        (build_encoder, "fc"),
        (build_encoder, "encoder.layers.0"),
    ],
)
def test_adapters_change_what_the_model_gives_and_merge_into_it(make: Any, block: str) -> None:
    torch.manual_seed(0)
    model, x = make(block), torch.randn(2, *SHAPE)
    before, keys = model(x), list(model.state_dict())
    add_adapters(model, LoraConfig.parse(LORA), SHAPE)
    kept = {key: value.clone() for key, value in model.state_dict().items() if "lora" not in key}
    torch.testing.assert_close(model(x), before)
    move_adapters(model)
    with torch.no_grad():
        moved = model(x)
    assert (moved - before).abs().max() > 0.01
    with_gradients = model(x)
    torch.testing.assert_close(with_gradients, moved)  # in torch's kernel for evaluation, too
    with_gradients.sum().backward()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(("lora" in name) != name.startswith("heads.") for name in learning)
    assert {name for name, p in learning.items() if p.grad is None} == set()
    torch.testing.assert_close({key: model.state_dict()[key] for key in kept}, kept, rtol=0, atol=0)
    merged = merged_state(model)
    merge_adapters(model)
    torch.testing.assert_close(model(x), moved)
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model.state_dict(), merged, rtol=0, atol=0)


def write_moved_adapter(model: nn.Module, folder: Path) -> Tensor:
    """Writes adapters and heads that give something; returns what the model gives for ``X``."""
    add_adapters(model, LoraConfig.parse(LORA), SHAPE)
    move_adapters(model)
    write_adapter(folder, model)
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    with torch.no_grad():
        found: Tensor = model(X)
    return found


@pytest.mark.parametrize(("block", "options"), [("trunk_output", {}), ("layer_0", {"qkv_bias": "qv"})])
def test_peft_reads_adapters_and_heads(block: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, base = (build(block, **options) for _ in range(2))
    keys = list(base.state_dict())
    base.load_state_dict({k: x for k, x in model.state_dict().items() if "heads" not in k}, strict=False)
    wanted = write_moved_adapter(model, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(loaded(X), wanted)
    torch.testing.assert_close(loaded.merge_and_unload()(X), wanted)
    assert list(base.state_dict()) == keys


@pytest.mark.parametrize(
    ("make", "block"),
    [(build, "trunk_output"), (build_encoder, "fc"), (build_encoder, "encoder.layers.0")],
)
def test_adapters_are_loaded_without_peft(make: Any, block: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, base = make(block), make(block)
    base.load_state_dict({k: x for k, x in model.state_dict().items() if "heads" not in k}, strict=False)
    wanted = write_moved_adapter(model, tmp_path / "adapter")
    load_adapter(base, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(base(X), wanted)


def test_adapters_of_another_model(tmp_path: Path) -> None:
    write_moved_adapter(build(), tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"of another model: it has 'blocks.layer_0.*weight', \(\d+, 16\)"):
        load_adapter(build(hidden_dim=8), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="cannot read the config .*adapter_config.json"):
        load_adapter(build(), tmp_path)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(ConfigError, match="adapter' is not an adapter of a run: .*lora_alpha"):
        load_adapter(build(), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("r", 0, "division by zero"),
        ("use_rslora", True, "use_rslora = True; peft.PeftModel.from_pretrained reads it"),
        ("alpha_pattern", {"qkv": 64}, "alpha_pattern = .*64"),
    ],
)
def test_options_that_a_run_does_not_use(key: str, value: Any, message: str, tmp_path: Path) -> None:
    write_moved_adapter(build(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ConfigError, match=f"is not an adapter of a run: .*{message}"):
        load_adapter(build(), tmp_path)


def test_tensors_that_do_not_fit_are_not_passed_over(tmp_path: Path) -> None:
    write_moved_adapter(build(), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    extra = name.replace("lora_A.weight", "lora_magnitude_vector")
    for changed, message in (
        ({name: tensors[name][:2].clone()}, "shapes"),
        ({extra: torch.ones(1)}, "magnitude"),
    ):
        save_file({**tensors, **changed}, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ConfigError, match=f"is not an adapter of a run: .*{message}"):
            load_adapter(build(), tmp_path)


def test_layers_that_heads_depend_on_are_adapted() -> None:
    of_layer = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert find_layers(build("layer_0", qkv_bias="qv"), SHAPE) == [
        f"blocks.layer_0.{name}" for name in of_layer
    ]
    found = [
        name.partition("encoder.")[2] or name.rpartition(".")[2]
        for name in find_layers(build_encoder("fc"), SHAPE)
    ]
    of_layer = ["self_attn", "linear1", "linear2"]
    assert found == [*(f"layers.{i}.{name}" for i in (0, 1) for name in of_layer), "fc"]


def test_the_norms_of_the_trunk_keep_their_statistics() -> None:
    model = build_encoder("fc")
    add_adapters(model, LoraConfig(rank=4), SHAPE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    freeze(model, ScheduleConfig(lora=LoraConfig(rank=4)), epoch=0)
    model(torch.randn(4, *SHAPE))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.get_submodule("model.encoder").training


def test_what_cannot_be_adapted_is_explained(table: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"lora.rank = 17 is above the size of layer 'blocks.layer_0.attn.qkv'.*at most 16"
    ):
        add_adapters(build(), LoraConfig(rank=17), SHAPE)
    with pytest.raises(ConfigError, match=r"has no linear or attention layers.*schedule\.freeze\.until"):
        train(settings(table, model=SMALL_TRUNK), table.parent / "run")
    with pytest.raises(ConfigError, match="unknown key 'rang'; did you mean 'rank'"):
        settings(table, schedule={"lora": {"rang": 1}})
    for name, value in {"freeze_trunk": True, "layer_decay": 0.5, "freeze": {"until": "layer_0"}}.items():
        with pytest.raises(ConfigError, match=f"lora keeps the trunk as it is.* {name} says"):
            settings(table, schedule={name: value})
    assert not (table.parent / "run").exists()


# -- runs


def settings(table: Path, model: Any = VIT, **sections: Any) -> TrainConfig:
    schedule = {"lora": LORA, **sections.pop("schedule", {})}
    data = {"source": "table", "file": str(table)}
    config = job(data, head("colour", dropout_rate=0.5), schedule=schedule, **sections)
    config["model"] = {**model, "heads": config["model"]["heads"]}
    return TrainConfig.parse(config)


def test_a_run_gives_a_plain_model_whose_trunk_differs_by_matrices_of_the_rank(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = table.parent / "run"
    before = table.parent / "before"
    train(
        settings(table, schedule={"lora": None, "epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0}),
        before,
    )
    config = settings(table, schedule={"best": "val/colour/loss"}).model_copy(update={"weights": str(before)})
    check(config)
    row = train(config, run)
    assert "adapters of rank 4 on 8 layers of the trunk" in capsys.readouterr().out
    old, new = (load_file(folder / "model.safetensors") for folder in (before, run))
    assert old.keys() == new.keys()
    for key, value in new.items():
        if key.startswith("heads."):
            assert not torch.equal(value, old[key])
        elif key.startswith("blocks.layer_") and value.dim() == 2:
            values = torch.linalg.svdvals(value - old[key])
            assert values[3] > 1e-6 > values[4]
        else:
            torch.testing.assert_close(value, old[key], rtol=0, atol=0)
    base = build_model(str(run), weights=str(before))
    peft.PeftModel.from_pretrained(base, run / "adapter").merge_and_unload()
    torch.testing.assert_close(base.state_dict(), new, rtol=0, atol=1e-6)
    report = json.loads((run / "metrics.json").read_text())["final"]
    assert (
        report["val/colour/loss"]
        == row["val/colour/loss"]
        == min(e["val/colour/loss"] for e in read_history(run))
    )
    assert Predictor.load(run)(str(table.parent / "0.png"))["colour"].label in ("red", "lime", "blue")
    assert ClassyModel.from_checkpoint(run).state_dict().keys() == new.keys()


@pytest.mark.parametrize("best", [None, "val/light/mae"])
def test_the_adapter_of_a_run_has_its_heads(best: str | None, table: Path) -> None:
    """With numbers in the units of the table."""
    data, schedule = {"source": "table", "file": str(table)}, {"lora": LORA, "best": best, "ema": 0.5}
    config = job(data, head("light"), schedule=schedule, tasks={"light": {"kind": "regression"}})
    config["model"] = {**VIT, "heads": config["model"]["heads"]}
    train(TrainConfig.parse(config), table.parent / "run")
    torch.manual_seed(0)  # as the run
    base = build_model(str(table.parent / "run"))
    load_adapter(base, table.parent / "run" / "adapter")
    wanted = load_file(table.parent / "run" / "model.safetensors")
    torch.testing.assert_close(base.state_dict(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dropout", "options", "batches"),
    [(0.5, {}, 2), (0.0, {"ema": 0.5, "accumulate": 2, "optimizer": "sgd"}, 12)],
)
def test_a_stopped_run_is_resumed_to_the_bit(
    dropout: float, options: dict[str, Any], batches: int, table: Path
) -> None:
    config = settings(table, schedule={"lora": {**LORA, "dropout": dropout}, "epochs": 3, **options})
    whole, stopped = table.parent / "whole", table.parent / "stopped"
    train(config, whole)
    train_and_stop(config, stopped, batches)
    assert any("lora_B" in key for key in read_state(stopped / "checkpoint.pt")["model"])
    resume(stopped)
    assert_same_runs(stopped, whole)


def test_a_finished_run_is_trained_for_longer_with_its_adapters(table: Path) -> None:
    planned, longer = table.parent / "planned", table.parent / "longer"
    schedule = {"learning_rate_schedule": "constant"}
    train(settings(table, schedule={**schedule, "epochs": 3}), planned)
    train(settings(table, schedule={**schedule, "epochs": 2}), longer)
    resume(longer, ["schedule.epochs=3"])
    assert_same_runs(longer, planned)


@pytest.mark.slow
def test_two_processes_give_the_same_as_one_and_the_run_is_exported(table: Path) -> None:
    config = write(table.parent / "job.json", settings(table, schedule={"ema": 0.5}).model_dump(mode="json"))
    for processes, name in ((1, "one"), (2, "two")):
        done = classy("train", config, "--output", table.parent / name, processes=processes)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(table.parent / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    done = classy("export", table.parent / "one", "--format", "onnx", "--output", table.parent / "one.onnx")
    assert done.returncode == 0, done.stderr
    said = classy("predict", table.parent / "one.onnx", table.parent / "0.png", "--format", "json")
    assert json.loads(said.stdout)[0]["image"].endswith("0.png"), said.stderr
