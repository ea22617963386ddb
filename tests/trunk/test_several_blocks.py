"""A head that reads several blocks: one pass, the order of its config, and all that other heads can do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.cost import count
from classy_vision.heads import ClassyHead, ConcatHead, FullyConnectedHead, register_head
from classy_vision.models import ClassyModel, build_model, load_weights
from classy_vision.registry import REGISTRIES
from classy_vision.trunk.names import END, join_blocks, split_place
from tests.models.small import FAMILIES, batch, loss, wrong_answers


class Collect(ClassyHead):
    """Gives what it reads."""

    max_blocks = None

    def forward(self, *features: Tensor) -> Any:
        return features


def concat(*blocks: str, unique_id: str = "several", **options: Any) -> dict[str, Any]:
    return {"name": "concat", "unique_id": unique_id, "num_classes": 3, "fork_block": list(blocks), **options}


def plain(block: str, unique_id: str = "one") -> dict[str, Any]:
    return {"name": "fully_connected", "unique_id": unique_id, "num_classes": 2, "fork_block": block}


def build(family: str, *heads: dict[str, Any]) -> ClassyModel:
    torch.manual_seed(0)
    return build_model({**FAMILIES[family][0], "heads": list(heads)}).eval()


def test_places() -> None:
    assert join_blocks("block1") == "block1"
    assert join_blocks(["block1", "block2"]) == "block1+block2"
    assert split_place("block1+block2") == ("block1", "block2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reverse", [False, True])
def test_features_come_in_the_order_of_the_config(family: str, reverse: bool) -> None:
    _, early, late = FAMILIES[family]
    blocks = ["stem", early, late] if not reverse else [late, "stem", early]
    model = build(family)
    model.set_heads({tuple(blocks): [Collect("all")]})
    features = model.features(batch(), blocks)
    for given, block in zip(model(batch()), blocks, strict=True):
        assert given.equal(features[block])


@pytest.mark.parametrize("family", FAMILIES)
def test_is_what_the_head_makes_of_the_features(family: str) -> None:
    _, early, late = FAMILIES[family]
    model = build(family, concat(early, late, trunk_norm=False), plain(early)).double()
    x = batch().double()
    features = model.features(x, [early, late])
    given = model(x)
    assert list(given) == ["several", "one"]
    head = model.get_heads()[f"{early}+{late}"][0]
    torch.testing.assert_close(given["several"], head(features[early], features[late]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_after_the_deepest_block_runs(family: str) -> None:
    _, early, late = FAMILIES[family]
    model = build(family, concat(late, early))
    ran: list[str] = []
    for name, block in model.blocks.items():
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(batch())
    assert [name for name in ran if name != "ln"][-1] == model._step(late)
    model.train()(batch()).sum().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    steps = model._steps()
    after = tuple(f"blocks.{step}." for step in steps[steps.index(model._step(late)) + 1 :])
    rest = [p for n, p in model.named_parameters() if n.startswith(after) and not n.startswith("blocks.ln.")]
    assert rest == [] or not any(p.requires_grad for p in rest)


def test_state_and_config_go_round(tmp_path: Path) -> None:
    _, early, late = FAMILIES["regnet"]
    model = build("regnet", concat(early, late, pooling=["max", "gem"]), plain(late))
    config = model.to_config()
    assert config["heads"][0]["fork_block"] == [early, late]
    assert f"heads.{early}+{late}.several.fc.weight" in model.state_dict()
    again = build_model(config).eval()
    again.load_state_dict(model.state_dict())
    classy = build_model(config).eval()
    classy.set_classy_state(model.get_classy_state(deep_copy=True))
    model.save_pretrained(tmp_path / "folder")
    folder = ClassyModel.from_pretrained(tmp_path / "folder").eval()
    for other in (again, classy, folder, copy.deepcopy(model)):
        for name, output in model(batch()).items():
            assert other(batch())[name].equal(output), name
    assert f"| several | {early}, {late} | concat" in (tmp_path / "folder" / "README.md").read_text()
    other = build("regnet", concat(early, late, pooling=["max", "gem"], unique_id="several"), plain(late))
    report = load_weights(other, tmp_path / "folder")
    assert not report.kept


def test_set_heads_takes_what_get_heads_gives() -> None:
    _, early, late = FAMILIES["densenet"]
    model = build("densenet", concat(early, late), plain(early))
    before = model(batch())
    model.set_heads(model.get_heads())
    assert all(model(batch())[name].equal(output) for name, output in before.items())


def test_threads_share_a_model() -> None:
    _, early, late = FAMILIES["anynet"]
    model = build("anynet", concat(early, late), plain(late))
    assert wrong_answers(model) == []


def test_own_forward_and_other_modules() -> None:
    class Own(ClassyModel):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    own = Own()
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    adapted = ClassyModel.from_model(module, ["0", "2"], input_shape=(3, 32, 32))
    for model, blocks in ((own, ("second", "first")), (adapted, ("2", "0"))):
        head = ConcatHead("all", 3)
        model.eval().set_heads({blocks: [head]})
        assert head.in_planes == (5, 4)
        features = model.features(batch(), list(blocks))
        assert model(batch()).equal(head(*(features[block] for block in blocks)))


def test_costs_know_all_blocks() -> None:
    _, early, late = FAMILIES["resnet"]
    model = build("resnet", concat("stem", early, late))
    (row,) = count(model).heads
    assert (row.reads, row.also_reads) == (model._step(late), ("stem", model._step(early)))
    assert row.params == sum(p.numel() for p in model.heads.parameters())


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (concat("block0", "block0"), ConfigError, "reads each of its blocks once, not 'block0' twice"),
        (concat("block0", "block0-0"), ConfigError, "'block0-0' and 'block0' are the same block"),
        (concat("block0", "blok1"), UnknownNameError, "unknown block 'blok1'; did you mean 'block1'?"),
        (concat(), ConfigError, "fork_block = []: the name of a block is needed, or a list of names"),
        ({**concat("block0"), "fork_block": ["block0", 1]}, ConfigError, "fork_block = ['block0', 1]"),
        (
            {**plain("block0"), "fork_block": ["block0", "block1"]},
            ConfigError,
            "head 'one' reads 1 block, not 2: block0, block1",
        ),
        (concat("block0", "block1", pooling=["max"] * 3), ConfigError, "pooling has 3 entries for 2 blocks"),
        (concat("block0", "block1", pooling="token"), ConfigError, "pooling = 'token' reads the class token"),
        (concat("block0", "block1", in_planes=[8, 9]), ConfigError, "expects in_planes=8, but block 'block0'"),
        (concat("block0", "block1", in_planes=[8]), ConfigError, "in_planes=[8] of 1 blocks, but reads 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_configs(head: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        build("resnet", head)
    assert message in str(raised.value)


def test_a_head_that_cannot_be_attached_changes_nothing() -> None:
    model = build("resnet", concat("block0", "block1"))
    before = model(batch())
    with pytest.raises(ConfigError, match="class token"):
        model.set_heads({("block0", "block1"): [ConcatHead("a", 2), ConcatHead("b", 2, pooling="token")]})
    assert model(batch()).equal(before)


def test_one_step_trains_both_kinds() -> None:
    model = build("efficientnet", concat("block1", "block2"), plain("block3")).train()
    loss(model(batch(4))).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# -- vision transformers


def vit(*heads: dict[str, Any], **options: Any) -> ClassyModel:
    torch.manual_seed(0)
    config = {**FAMILIES["vision_transformer"][0], "num_register_tokens": 2, **options, "heads": list(heads)}
    model = build_model(config).eval().double()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize("kind", ["mean", "token", "token_and_mean", "max", "gem", "attention"])
def test_pooling_leaves_out_tokens_that_are_not_patches(kind: str) -> None:
    model = vit({**plain("ln"), "pooling": kind, "num_classes": None})
    x = batch().double()
    tokens = model.features(x, ["ln"])["ln"]
    patches = tokens[:, 3:]
    head = model.get_heads()["ln"][0]
    wanted = {
        "mean": patches.mean(1),
        "token": tokens[:, 0],
        "token_and_mean": torch.cat([tokens[:, 0], patches.mean(1)], 1),
        "max": patches.amax(1),
        "gem": patches.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3),
        "attention": head.pools[0].attention(tokens) if kind == "attention" else None,
    }[kind]
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["tokens", "map"])
def test_inner_layers_are_read_through_the_last_norm(form: str) -> None:
    model = vit({**plain("layer_0"), "num_classes": None}, feature_format=form)
    x = batch().double()
    tokens = model.features(x, ["layer_0"])["layer_0"]
    if form == "map":
        tokens = tokens.flatten(2).transpose(1, 2)
    normed = model.blocks["ln"](tokens[:, 0 if form == "map" else 3 :]).mean(1)
    torch.testing.assert_close(model(x), normed, rtol=0, atol=1e-12)
    model.set_heads({"layer_0": [FullyConnectedHead("raw", trunk_norm=False)]})
    raw = tokens[:, 0 if form == "map" else 3 :].mean(1)
    torch.testing.assert_close(model(x), raw, rtol=0, atol=1e-12)


def test_the_last_norm_trains_where_a_head_reads_through_it() -> None:
    model = vit(plain("layer_0")).train()
    norm = model.blocks["ln"].weight
    model(batch().double()).sum().backward()
    assert norm.requires_grad
    assert norm.grad is not None
    assert not any(p.requires_grad for p in model.blocks["layer_2"].parameters())
    model.set_heads({"layer_0": [FullyConnectedHead("raw", 2, trunk_norm=False)]})
    assert not norm.requires_grad
    model.set_heads({"stem": [FullyConnectedHead("stem", 2)]})
    assert not norm.requires_grad
    model.clear_heads()
    assert norm.requires_grad


@pytest.mark.parametrize("options", [{"final_norm": "none"}, {"final_norm": "after_pool", "classifier": "gap"}])
def test_without_such_a_norm_layers_are_read_as_they_are(options: dict[str, Any]) -> None:
    model = vit({**plain("layer_0"), "num_classes": None}, **options)
    x = batch().double()
    tokens = model.features(x, ["layer_0"])["layer_0"]
    torch.testing.assert_close(model(x), tokens[:, model.stem.prefix :].mean(1), rtol=0, atol=1e-12)


class ReadMaps(Collect):
    reads_maps = True


def test_heads_that_read_maps_get_patches_as_maps() -> None:
    model = vit()
    model.set_heads({("layer_0", "ln"): [ReadMaps("maps")]})
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    tokens = model.features(x, ["layer_0", "ln"])
    for given, block in zip(model(x), ("layer_0", "ln"), strict=True):
        assert given.shape == (2, 16, 4, 6)
        assert given.equal(tokens[block][:, 3:].transpose(1, 2).reshape(2, 16, 4, 6))


def test_tokens_of_other_modules_become_maps() -> None:
    class Foreign(nn.Module):
        num_prefix_tokens = 1

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            patches = x[:, :, ::8, ::8].flatten(2).transpose(1, 2)
            return self.body(torch.cat([patches[:, :1], patches], 1))

    model = ClassyModel.from_model(Foreign(), ["body"], input_shape=(3, 32, 48))
    model.set_heads({"body": [ReadMaps("maps"), FullyConnectedHead("mean")]})
    x = torch.randn(2, 3, 32, 48)
    tokens = model.features(x, ["body"])["body"]
    found = model(x)
    assert found["maps"][0].equal(tokens[:, 1:].transpose(1, 2).reshape(2, 3, 4, 6))
    torch.testing.assert_close(found["mean"], tokens[:, 1:].mean(1))
    wrong = ClassyModel.from_model(Foreign(), ["body"], input_shape=(3, 32, 48), prefix_tokens=0)
    wrong.set_heads({"body": [ReadMaps("maps")]})
    with pytest.raises(ValueError, match="25 tokens are no grid of patches of an image of 32x48"):
        wrong(x)


def test_a_head_that_reads_maps_when_the_input_is_given_by_name() -> None:
    class Own(ClassyModel):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 4)

        def forward(self, images: Tensor, *, double: bool = False) -> Tensor:
            return self.body((2 if double else 1) * images[:, :, ::8, ::8].flatten(2).transpose(1, 2))

    x = torch.randn(2, 3, 32, 48)
    model = Own()
    model.set_heads({"body": [ReadMaps("maps")]})
    (wanted,), (found,) = model(x, double=True), model(double=True, images=x)
    assert found.shape == (2, 4, 4, 6)
    assert found.equal(wanted)


def test_registers_are_no_class_token() -> None:
    class Foreign(nn.Module):
        num_prefix_tokens = 4

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

    def has_token(given: bool | None = None, prefix: int | None = None, **said: Any) -> bool:
        net = Foreign()
        vars(net).update(said)
        model = ClassyModel.from_model(net, prefix_tokens=prefix, class_token=given)
        layout = model.token_layout(END)
        assert layout is not None
        return layout.has_class_token

    assert has_token()
    assert not has_token(has_class_token=False)  # as timm's vision transformers say
    assert not has_token(cls_token=None)  # as its EVAs do
    assert has_token(has_class_token=True)
    assert not has_token(has_class_token=True, prefix=0)
    assert not has_token(given=False)
    assert has_token(given=True, has_class_token=False)
    with pytest.raises(ConfigError, match="class_token = True, but prefix_tokens = 0"):
        has_token(given=True, prefix=0)
    model = ClassyModel.from_model(Foreign(), class_token=False, input_shape=(3, 4, 4))
    with pytest.raises(ConfigError, match="reads the class token, and block 'trunk_output' gives none"):
        model.set_heads({END: [FullyConnectedHead("a", 2, pooling="token")]})


def test_heads_registered_by_users_may_read_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRIES, "head", REGISTRIES["head"])
    entries = dict(REGISTRIES["head"]._entries)

    @register_head("sum_of_means")
    class SumOfMeans(ClassyHead):
        max_blocks = 2

        def forward(self, *features: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).mean(1) for x in features]).sum(0)

    try:
        head = {"name": "sum_of_means", "unique_id": "sum", "fork_block": ["block0", END]}
        model = build("resnet", head)
        assert model(batch()).shape == (2,)
        assert model.to_config()["heads"] == [head]
        with pytest.raises(ConfigError, match="reads 2 blocks, not 3"):
            build("resnet", {**head, "fork_block": ["stem", "block0", END]})
    finally:
        REGISTRIES["head"]._entries = entries
