"""Trunks, blocks and heads: what a model does whatever its family."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, UnknownKeyWarning, UnknownNameError
from classy_vision.heads import ClassyHead, FullyConnectedHead, IdentityHead, build_head, register_head
from classy_vision.models import MODELS, ClassyModel, build_model, register_model
from tests.models.small import FAMILIES, IMAGES, batch, build, config, loss

every_family = pytest.mark.parametrize("family", FAMILIES)
residual_family = pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mlp"])
image_family = pytest.mark.parametrize("family", IMAGES)


def trunk_of(family: str, **more: Any) -> ClassyModel:
    torch.manual_seed(0)
    return build_model(FAMILIES[family][0], **more).eval()


def counted(model: ClassyModel) -> Counter[str]:
    """Counts the runs of each part of the trunk."""
    runs: Counter[str] = Counter()
    parts = {"stem": model.stem, **model.blocks, "trunk_output": model.tail}
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
    return runs


def test_abstract() -> None:
    with pytest.raises(TypeError, match="abstract: use build_model"):
        ClassyModel()


# -- running


@every_family
def test_output_without_heads_is_the_end_of_the_trunk(family: str) -> None:
    model = trunk_of(family)
    torch.testing.assert_close(model(batch()), model.extract_features(batch()))
    assert (
        model(batch()).shape[1:] == model.feature_info()["trunk_output"].shape[:1] + (model(batch()).shape[2:])
    )


@every_family
def test_output_of_one_head_and_of_several(family: str) -> None:
    base = FAMILIES[family][0]
    one = build_model({**base, "heads": config(family)["heads"][:1]})
    assert one(batch()).shape == (2, 3)
    assert {k: tuple(v.shape) for k, v in build(family)(batch()).items()} == {
        "early": (2, 3),
        "late": (2, 3),
    }


@every_family
def test_features_agree_with_the_walk_for_every_name(family: str) -> None:
    model = trunk_of(family)
    with torch.no_grad():
        kept = {name: feature.clone() for name, feature in model.walk(batch())}
        features = model.features(batch(), model.block_names)
    assert list(features) == model.block_names
    assert kept.keys() <= features.keys()
    for name, feature in features.items():  # nothing behind a block changes its output
        torch.testing.assert_close(feature, kept[model._step(name)], rtol=0, atol=0)


@every_family
def test_nothing_runs_behind_the_deepest_block_that_is_read(family: str) -> None:
    model = trunk_of(family)
    steps = list(model.feature_info())
    runs = counted(model)
    for last, step in enumerate(steps):
        runs.clear()
        model.features(batch(), [steps[0], step])
        assert runs == dict.fromkeys(steps[: last + 1], 1)
        model.set_heads({step: [IdentityHead("copy")]})
        runs.clear()
        model(batch())
        assert runs == dict.fromkeys(steps[: last + 1], 1)


def test_features_of_nothing() -> None:
    assert trunk_of("regnet").features(batch(), []) == {}


@image_family
def test_feature_info_is_what_comes_out(family: str) -> None:
    model = trunk_of(family).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    info = model.feature_info(model.block_names, (3, 40, 56))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        features = model.features(torch.zeros(2, 3, 40, 56), model.block_names)
    for name, feature in features.items():
        assert info[name].shape == tuple(feature.shape[1:])
        if feature.dim() == 4:
            assert info[name].channels == feature.shape[1]
            assert info[name].stride == round(40 / feature.shape[2])
        else:
            assert info[name].channels == feature.shape[-1]
            assert info[name].stride is None


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (96, 24)])
@image_family
def test_any_input_size(family: str, size: tuple[int, int]) -> None:
    if family == "vision_transformer" and size[0] % 8:
        with pytest.raises(ValueError, match=r"multiples of the patch size 8, not \(33, 47\)"):
            build(family)(torch.zeros(1, 3, *size))
        return
    assert build(family).eval()(torch.zeros(1, 3, *size))["late"].shape == (1, 3)


@pytest.mark.parametrize("channels", [1, 4])
@image_family
def test_input_channels(family: str, channels: int) -> None:
    model = trunk_of(family, in_channels=channels)
    assert model.input_shape[0] == channels
    model(torch.zeros(1, channels, 32, 32))
    with pytest.raises(ValueError, match=rf"takes images \(n, {channels}, h, w\), not \(1, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 32, 32), r"takes images \(n, 3, h, w\), not \(3, 32, 32\); one image is x\[None\]"),
        (torch.zeros(1, 32, 32, 3), r"channels come second: x.permute\(0, 3, 1, 2\)"),
        (torch.zeros(1, 3, 4, 32, 32), r"not \(1, 3, 4, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "floating point, not torch.uint8: normalize"),
        ([[0.0]], "is a tensor .*, not list"),
    ],
)
@image_family
def test_wrong_inputs(family: str, given: Any, message: str) -> None:
    for model in (trunk_of(family), build(family)):
        with pytest.raises((ValueError, TypeError), match=message):
            model(given)
        with pytest.raises((ValueError, TypeError), match=message):
            model.features(given, ["stem"])


# -- blocks


def test_names_of_the_original() -> None:
    regnet = trunk_of("regnet").block_names
    assert regnet[0] == "stem"
    assert regnet[-1] == "trunk_output"
    assert regnet.index("block1-0") < regnet.index("block1") < regnet.index("block2-0")
    resnext = trunk_of("resnext")
    assert {"initial_block", "stem", "block1-1", "block1", "blocks", "trunk_output"} <= set(resnext.block_names)
    features = resnext.features(batch(), ["blocks", "trunk_output", "block2", "block2-0"])
    assert len({feature.data_ptr() for feature in features.values()}) == 1


def test_unknown_block_names_the_nearest() -> None:
    model = trunk_of("regnet")
    for ask in (
        lambda: model.features(batch(), ["blok1"]),
        lambda: model.set_heads({"blok1": [IdentityHead("copy")]}),
        lambda: model.feature_info(["blok1"]),
    ):
        with pytest.raises(UnknownNameError, match="unknown block 'blok1'; did you mean 'block1'"):
            ask()
    with pytest.raises(ConfigError, match=r"takes a list of blocks: \['block1'\]"):
        model.features(batch(), "block1")


# -- heads


@every_family
def test_heads_change_no_trunk_key(family: str) -> None:
    model = trunk_of(family)
    trunk = list(model.state_dict())
    model.set_heads({FAMILIES[family][1]: [FullyConnectedHead("a", 2)], "stem": [IdentityHead("b")]})
    assert [key for key in model.state_dict() if not key.startswith("heads.")] == trunk
    assert {key for key in model.state_dict() if key.startswith("heads.")} == {
        f"heads.{FAMILIES[family][1]}.a.fc.weight",
        f"heads.{FAMILIES[family][1]}.a.fc.bias",
    }
    assert list(model.get_classy_state()["model"]["trunk"]) == list(
        trunk_of(family).get_classy_state()["model"]["trunk"]
    )
    model.clear_heads()
    assert list(model.state_dict()) == trunk
    assert model.get_heads() == {}


def test_get_heads_gives_the_same_objects_in_order() -> None:
    model = trunk_of("regnet")
    a, b, c = IdentityHead("a"), IdentityHead("b"), IdentityHead("c")
    model.set_heads({"block2": (b, a), "block1": iter([c]), "stem": []})
    assert model.get_heads() == {"block2": [b, a], "block1": [c]}
    assert set(model(batch())) == {"a", "b", "c"}


def test_heads_follow_device_type_and_mode() -> None:
    model = trunk_of("regnet").double().eval()
    model.set_heads({"block1": [FullyConnectedHead("a", 2)]})
    (head,) = model.get_heads()["block1"]
    assert not head.training
    assert head.fc.weight.dtype == torch.float64
    assert model(batch().double()).dtype == torch.float64
    with torch.device("meta"):
        model = build_model(FAMILIES["regnet"][0])
    head = FullyConnectedHead("a", 2)
    model.set_heads({"block1": [head]})
    assert head.training
    assert head.fc.weight.is_meta


def test_in_plane_is_inferred_or_checked() -> None:
    model = trunk_of("regnet")
    width = model.feature_info(["block2"])["block2"].channels
    head = FullyConnectedHead("a", 2)
    model.set_heads({"block2": [head]})
    assert head.in_plane == head.fc.in_features == width
    with pytest.raises(ConfigError, match=f"'b' expects in_plane=7, but block 'block2' has {width} channels"):
        model.set_heads({"block2": [FullyConnectedHead("b", 2, in_plane=7)]})


class _Broken(ClassyHead):
    def build(self, in_plane: int) -> None:
        raise ConfigError("broken")


@pytest.mark.parametrize(
    "heads",
    [
        {"block1": [FullyConnectedHead("x", 2)], "nowhere": [FullyConnectedHead("y", 2)]},
        {"block1": [FullyConnectedHead("x", 2)], "block2": [FullyConnectedHead("x", 2)]},
        {"block1": [FullyConnectedHead("x", 2), FullyConnectedHead("y", 2, in_plane=1)]},
        {"block1": [FullyConnectedHead("x", 2), nn.Linear(1, 1)]},
        {"block1": [FullyConnectedHead("y", 2), _Broken("x")]},
    ],
    ids=["unknown block", "equal ids", "wrong in_plane", "no head", "cannot be built"],
)
def test_set_heads_changes_all_or_nothing(heads: Any) -> None:
    model = build("regnet").eval()
    given = [head for entries in heads.values() for head in entries if isinstance(head, FullyConnectedHead)]
    widths = [head.in_plane for head in given]
    before, modules = model(batch()), model.get_heads()
    gradients = {n: p.requires_grad for n, p in model.named_parameters()}
    with pytest.raises(ConfigError):
        model.set_heads(heads)
    assert model.get_heads() == modules
    assert [head.in_plane for head in given] == widths
    assert all(head.training and not any(head.parameters()) for head in given if head.in_plane is None)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == gradients
    for name, output in model(batch()).items():
        assert torch.equal(output, before[name])


def test_blocks_that_nothing_reads_take_no_part_in_training() -> None:
    model = trunk_of("regnet").train()
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)  # the user's own choice stays
    model.set_heads({"block2": [FullyConnectedHead("a", 2)]})
    trained = {n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"block1-0", "block2-0", "block2-1"} & set(model.blocks) | {"block2"}
    loss({"a": model(batch())}).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.clear_heads()
    assert {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad} == {"stem"}


def test_freezing_by_the_user_stays() -> None:
    model = trunk_of("regnet")
    model.set_heads({"block1": [FullyConnectedHead("a", 2)]})
    model.requires_grad_(True)
    loss({"a": model(batch())}).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.requires_grad_(False)
    model.set_heads({"trunk_output": [FullyConnectedHead("a", 2)]})
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"heads"}
    assert all(p.grad is None for n, p in model.named_parameters() if "block2" in n)


def test_num_classes_is_a_head_at_the_end() -> None:
    model = build_model("regnet_x_200mf", num_classes=7)
    assert model(batch()).shape == (2, 7)
    assert list(model.get_heads()) == ["trunk_output"]
    assert build_model({"name": "regnet_x_200mf", "heads": None, "num_classes": 3})(batch()).shape == (2, 3)
    with pytest.raises(ConfigError, match="num_classes = 1000 beside heads means nothing"):
        build_model({**config("regnet"), "num_classes": 1000})


# -- building


def test_overrides_of_a_preset() -> None:
    model = build_model("resnet18", in_channels=1, use_se=True, stochastic_depth=0.1)
    assert (model.config.in_channels, model.config.use_se) == (1, True)
    assert build_model({"name": "regnet_y_400mf", "activation": "SiLU"}).config.activation == "silu"


def test_configs_are_left_as_they_are() -> None:
    given = config("resnext")
    kept = copy.deepcopy(given)
    build_model(given)
    assert given == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "regnet_y_4fg"}, "unknown model 'regnet_y_4fg'; did you mean 'regnet_y_4gf'?"),
        ({"depth": 3}, "needs a name"),
        ({"name": "regnet_y_400mf", "bot_mul": 4}, "'bot_mul'; did you mean 'bottleneck_multiplier'"),
        ({"name": "regnet", "depth": 3}, "key 'w_0' is required"),
        ({"name": "regnet_y_400mf", "w_0": 50}, "w_0 = 50: must be a multiple of 8, for example 48"),
        ({"name": "regnet_y_400mf", "activation": "rélu"}, "should be 'relu', 'silu', 'relu6'"),
        ({"name": "resnet18", "use_se": "yes"}, "use_se = 'yes': input should be a valid boolean"),
        ({"name": "resnet18", "in_channels": 0}, "in_channels = 0: input should be greater than 0"),
        ({"name": "resnet18", "stochastic_depth": 1.0}, "less than 1"),
        ({"name": "resnet18", "num_classes": True}, "num_classes = True"),
        ({"name": "resnet18", "num_classes": -1}, "num_classes = -1"),
        ({"name": "resnet", "num_blocks": [1], "base_width_and_cardinality": [4, 32]},
         "input should be None"),
        ({"name": "anynet", **{k: [1] for k in ("depths", "widths", "strides")}, "group_widths": [1, 2],
          "bottleneck_multipliers": [1.0]}, "one entry per stage"),
        ({"name": "resnet18", "num_clases": 3}, "did you mean 'num_classes'"),
        ({"name": "efficientnet_b0", "drop_conect_rate": 0.1}, "did you mean 'drop_connect_rate'"),
        ({"name": "efficientnet", "model_params": {"width_coeff": 1.0}}, "did you mean 'width_coefficient'"),
        ({"name": "regnet_y_400mf", "bottleneck_multiplier": 0.01}, "leaves no channels"),
        ({"name": "resnet18", "heads": 5}, "heads = 5: a list of mappings is needed"),
        ({"name": "resnet18", "heads": [{"name": "identity", "unique_id": "a", "fork_block": ["stem", 3]}]},
         "fork_block = ['stem', 3]"),
        ({"name": "densenet", "num_blocks": [6, 6, 6], "growth_rate": 12, "use_se": True},
         "densenet: a squeeze of 12 channels to 0 is empty: got reduction_ratio=16"),
        ({"name": "resnext", "num_blocks": [1], "stem": "tiered", "norm": "group"},
         "resnext: a group norm of 32 groups cannot take 24 channels"),
        ({"name": "resnet18", "init_planes": 48, "norm": "group"},
         "resnet18: a group norm of 32 groups cannot take 48 channels"),
        ({"name": "efficientnet", "stages": [[{"block": "mbconv", "channels": 16, "groups": [1, 3]}]]},
         "efficientnet: 3 groups do not divide 32 and 16 channels"),
        (3, "build_model takes a name or a mapping, not int"),
        ({"name": "resnet18", "heads": ["fully_connected"]}, "heads is a list of mappings"),
        ({"name": "resnet18", "heads": [{"name": "identity", "unique_id": "a"}]},
         "key 'fork_block' is required"),
        ({"name": "resnet18", "heads": [{"name": "identity", "fork_block": "stem"}]},
         "key 'unique_id' is required"),
        ({"name": "resnet18", "heads": [{"name": "fc", "unique_id": "a", "fork_block": "stem"}]},
         "unknown head 'fc'"),
        ({"name": "resnet18", "heads": [{"name": "fully_connected", "unique_id": "a", "fork_block": "stem",
          "numclasses": 3}]}, "unknown key 'numclasses'; did you mean 'num_classes'"),
    ],
)  # fmt: skip
def test_bad_configs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_model(given)
    assert message in str(error.value)


ORIGINAL = {
    "name": "regnet_x_200mf",
    "freeze_trunk": False,
    "heads": [
        {"name": "identity", "unique_id": "a", "num_classes": 3, "in_plane": 368, "fork_block": "trunk_output"},
        {"name": "fully_connected", "num_clases": 3, "in_plane": 368, "fork_block": "trunk_output"},
    ],
}


def test_a_config_in_the_originals_style_keeps_its_stray_keys() -> None:
    given = copy.deepcopy(ORIGINAL)
    with pytest.warns(UnknownKeyWarning) as caught:
        model = build_model(given | {"dephts": 3})
    assert given == ORIGINAL
    told = [str(warning.message) for warning in caught]
    left_out = "means nothing and is left out, as ClassyVision did"
    assert told == [
        f"regnet_x_200mf: key 'freeze_trunk' {left_out}",
        f"regnet_x_200mf: key 'dephts' {left_out}; did you mean 'depth'?",
        f"head 'identity': key 'in_plane' {left_out}",
        f"head 'fully_connected': key 'num_clases' {left_out}; did you mean 'num_classes'?",
    ]
    assert all(warning.filename == __file__ for warning in caught)
    assert list(model(batch())) == ["a", "FullyConnectedHead"]


def test_what_is_not_in_the_originals_style_is_checked() -> None:
    heads = [{**ORIGINAL["heads"][1], "unique_id": "b"}, {"name": "identity", "unique_id": "a"}]
    for head in heads[1:]:
        head["fork_block"] = "trunk_output"
    with pytest.raises(ConfigError, match="unknown key 'num_clases'"):
        build_model({"name": "regnet_x_200mf", "heads": heads})  # one does not say its in_plane
    with pytest.raises(ConfigError, match="unknown key 'in_plane'"):
        build_model(ORIGINAL, unknown="error")
    with pytest.raises(ConfigError, match="unknown key 'dephts'"):
        build_model("regnet_x_200mf", dephts=3)
    with pytest.warns(UnknownKeyWarning, match="'dephts'"):
        build_model("regnet_x_200mf", dephts=3, unknown="warn")
    with pytest.warns(UnknownKeyWarning, match="'bot_mul' .*; did you mean 'bottleneck_multiplier'"):
        build_model("regnet", depth=4, w_0=16, w_a=10.7, w_m=2.51, group_width=4, bot_mul=4.0)
    with pytest.raises(ConfigError, match="unknown = 'ignore': 'warn', 'error' or None"):
        build_model("regnet_x_200mf", unknown="ignore")


def test_a_head_config_in_the_originals_style() -> None:
    config = {"name": "identity", "in_plane": 4, "num_classes": 3, "unique_id": "a", "fork_block": "block3"}
    with pytest.warns(UnknownKeyWarning, match="head 'identity': key"):
        assert build_head(config).unique_id == "a"
    with pytest.raises(ConfigError, match="unknown key 'in_plane'"):
        build_head(config, unknown="error")
    assert build_head({"name": "fully_connected", "in_plane": 4}).unique_id == "FullyConnectedHead"
    assert build_head({"name": "identity", "unique_id": None}).unique_id == "IdentityHead"


def test_a_model_in_the_originals_style() -> None:
    class Own(ClassyModel):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    model = Own()
    assert model(batch()).shape == model.extract_features(batch()).shape == (2, 4, 30, 30)
    assert list(model.get_classy_state()["model"]["trunk"]) == ["conv.weight", "conv.bias"]


def test_a_block_that_changes_its_input_is_found() -> None:
    class Spoils(ClassyModel):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.tail = nn.Conv2d(3, 4, 3), nn.Identity()
            self.blocks = nn.ModuleDict({"a": nn.BatchNorm2d(4), "b": nn.ReLU(inplace=True)})

    with pytest.raises(ConfigError, match="what follows block 'a' changes it in place"):
        Spoils().set_heads({"b": [IdentityHead("x")]})


def test_a_notebook_cell_runs_twice() -> None:
    def cell() -> type[ClassyModel]:
        @register_model("notebook_net")
        class NotebookNet(ClassyModel):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.tail = nn.Conv2d(3, 4, 3), nn.Identity()
                self.blocks = nn.ModuleDict({"middle": nn.ReLU()})

            @classmethod
            def from_config(cls, config: Any) -> NotebookNet:
                return cls()

        @register_head("notebook_head")
        class NotebookHead(ClassyHead):
            def __init__(self, unique_id: str, scale: float = 1.0) -> None:
                super().__init__(unique_id)
                self.scale = scale

            def forward(self, x: Tensor) -> Tensor:
                return x * self.scale

        return NotebookNet

    cell()
    latest = cell()
    head = {"name": "notebook_head", "unique_id": "a", "scale": 2.0, "fork_block": "middle"}
    model = build_model({"name": "notebook_net", "heads": [head]})
    assert type(model) is latest
    torch.testing.assert_close(model(batch()), 2 * model.extract_features(batch()))
    with pytest.raises(ConfigError, match="unknown key 'scales'; did you mean 'scale'"):
        build_model({"name": "notebook_net", "heads": [{**head, "scales": 1.0}]})
    with pytest.raises(ValueError, match="the name belongs to"):
        register_model("notebook_net")(type("Other", (ClassyModel,), {}))
    with pytest.raises(ValueError, match="not a subclass of ClassyModel"):
        register_model("a_layer")(nn.Linear)
    assert "a_layer" not in MODELS
    with pytest.raises(ValueError, match="'resnet18': the name belongs to"):
        register_model("mine", {"resnet18": {}})(latest)
    assert "mine" not in MODELS


# -- training


@every_family
def test_gradient_checkpointing_changes_no_number(family: str) -> None:
    plain, sparing = build(family), build(family, gradient_checkpointing=True)
    runs = counted(sparing)
    for model in (plain, sparing):
        loss(model(batch())).backward()
    assert runs[plain._step(FAMILIES[family][1])] == 2
    for (name, wanted), given in zip(plain.named_parameters(), sparing.parameters()):
        if wanted.grad is not None:
            torch.testing.assert_close(given.grad, wanted.grad, msg=name)
    for name, buffer in plain.named_buffers():  # statistics and their count, once per step
        torch.testing.assert_close(dict(sparing.named_buffers())[name], buffer, msg=name)


def test_gradient_checkpointing_with_a_backward_pass_per_head() -> None:
    plain, sparing = build("regnet"), build("regnet", gradient_checkpointing=True)
    for model in (plain, sparing):
        outputs = model(batch())
        outputs["early"].sum().backward(retain_graph=True)
        outputs["late"].sum().backward()
    for given, wanted in zip(sparing.parameters(), plain.parameters()):
        if wanted.grad is not None:
            torch.testing.assert_close(given.grad, wanted.grad)


@residual_family
def test_stochastic_depth_only_in_training(family: str) -> None:
    plain, random = build(family).eval(), build(family, stochastic_depth=0.9).eval()
    torch.testing.assert_close(random(batch()), plain(batch()))
    random.train()
    outputs = torch.stack([random(batch())["late"] for _ in range(20)])
    assert len(outputs.unique(dim=0)) > 1


# -- what the original had


def test_what_is_gone_says_what_to_write() -> None:
    model = trunk_of("regnet")
    assert model.classy_model is model
    for use, advice in {
        "execute_heads": r"model\(x\)",
        "head_outputs": r"what model\(x\) returns",
        "get_block_outputs": "model.features",
        "attachable_block_names": "model.block_names",
    }.items():
        with pytest.raises(AttributeError, match=advice):
            getattr(model, use)
        assert not hasattr(model, use)
    with pytest.raises(TypeError, match="models are not wrapped"):
        type("Mine", (ClassyModel,), {"wrapper_cls": None})


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("classy_vision.models", "ClassyBlock", "model.features"),
        ("classy_vision.models", "ClassyModelWrapper", "override forward"),
        ("classy_vision.models.classy_model", "ClassyModelHeadExecutorWrapper", "runs the heads itself"),
        ("classy_vision.models.classy_block", "ClassyBlock", "model.features"),
        ("classy_vision.models", "MODEL_REGISTRY", "MODELS"),
        ("classy_vision.models.anynet", "ResBottleneckBlock", "'block_type': 'res_bottleneck_block'"),
        ("classy_vision.models.efficientnet", "EfficientNetB3", "build_model('efficientnet_b3')"),
        ("classy_vision.models.vision_transformer", "ViTB16", "build_model('vit_b_16')"),
        ("classy_vision.models.regnet", "RegNetY32gf", "build_model('regnet_y_32gf')"),
        ("classy_vision.models.regnet", "RegNetX1_6gf", "build_model('regnet_x_1.6gf')"),
        ("classy_vision.models.resnext", "ResNeXt50", "build_model('resnext50_32x4d')"),
        ("classy_vision.models.resnext", "ResNet18", "build_model('resnet18')"),
        ("classy_vision.hub", "ClassyHubInterface", "model.extract_features(images)"),
        ("classy_vision.generic.profiler", "compute_flops", "cost.count(model, input_shape).macs"),
        ("classy_vision.generic.util", "load_checkpoint", "ClassyModel.from_checkpoint"),
        ("classy_vision.generic.registry_utils", "import_all_modules", "import the modules"),
    ],
)
def test_names_that_are_gone(module: str, name: str, advice: str) -> None:
    with pytest.raises(ImportError) as error:
        exec(f"from {module} import {name}")
    assert advice in str(error.value)
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from {module} import nonsense")
