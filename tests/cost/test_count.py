"""Counting: every operator, where it belongs, and nothing of the model touched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.cost import OnMeta, count
from classy_vision.models import ClassyModel, build_model

TINY = {
    "name": "anynet",
    "stem_width": 8,
    "depths": [1, 2],
    "widths": [8, 16],
    "group_widths": [8, 8],
    "bottleneck_multipliers": [1.0, 1.0],
    "strides": [2, 2],
}
HEADS = [
    {"name": "fully_connected", "unique_id": "late", "num_classes": 3, "fork_block": "block2-0"},
    {"name": "fully_connected", "unique_id": "early", "num_classes": 5, "fork_block": "block1"},
]


def macs_of(module: nn.Module, *shape: int) -> int:
    """Of a module as the whole trunk."""
    return count(ClassyModel.from_model(module, input_shape=shape).eval()).macs


class Product(nn.Module):
    """A product of its input with a weight, written in some way."""

    def __init__(self, product, *shape: int) -> None:
        super().__init__()
        self.product = product
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 8, 8), 4 * 4 * 8 * 3 * 9),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4), (8, 8, 8), 8 * 8 * 8 * 2 * 9),
        (nn.Conv3d(2, 4, (1, 3, 3)), (2, 4, 8, 8), 4 * 6 * 6 * 4 * 2 * 9),
        (nn.ConvTranspose2d(4, 2, 2, stride=2), (4, 4, 4), 4 * 4 * 4 * 2 * 4),
        (nn.Linear(6, 5), (6,), 30),
        (nn.Linear(6, 5), (7, 6), 7 * 30),
        (Product(torch.matmul, 6, 5), (7, 6), 7 * 30),
        (Product(torch.matmul, 6), (7, 6), 7 * 6),
        (Product(lambda x, w: torch.einsum("nsc,cd->nsd", x, w), 6, 5), (7, 6), 7 * 30),
        (Product(lambda x, w: torch.addmv(w[0], x[0], w[1]), 2, 6), (6, 6), 36),
        (Product(lambda x, w: torch.dot(x[0], w)[None], 6), (6,), 6),
        (Product(lambda x, w: torch.addbmm(w, x, x), 6, 6), (6, 6), 6**3),
        # Four projections of 10 tokens, and two products of 10 x 10 tokens over all channels.
        (SelfAttention(64, 4, batch_first=True), (10, 64), 4 * 10 * 64 * 64 + 2 * 10 * 10 * 64),
        (nn.BatchNorm2d(3), (3, 8, 8), 0),
        (nn.Sequential(nn.MaxPool2d(2), nn.SiLU(), nn.LayerNorm(4), nn.Flatten()), (3, 8, 8), 0),
    ],
)
def test_operators(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert macs_of(module, *shape) == macs


@pytest.mark.parametrize(
    ("module", "shape", "activations"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 8, 8), 8 * 4 * 4),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)), (3, 8, 8), 8 * 64),
        (nn.Linear(6, 5), (7, 6), 35),
        # Three inputs, the scores of 4 heads, what they weigh, and the last layer.
        (SelfAttention(64, 4, batch_first=True), (10, 64), 3 * 640 + 4 * 100 + 640 + 640),
    ],
)
def test_activations(module: nn.Module, shape: tuple[int, ...], activations: int) -> None:
    assert count(ClassyModel.from_model(module, input_shape=shape).eval()).activations == activations


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Upsample(scale_factor=2), nn.Softmax(1)), ()),
        (Product(lambda x, w: torch.fft.fft(x + w).real, 8), ("aten._fft_r2c",)),
        (Product(lambda x, w: torch.cdist(x, w), 8, 8), ("aten._cdist_forward",)),
    ],
)
def test_operators_that_nobody_knows_are_named(module: nn.Module, names: tuple[str, ...]) -> None:
    assert count(ClassyModel.from_model(module, input_shape=(3, 8, 8)).eval()).uncounted == names


def test_operators_of_others_are_named() -> None:
    @torch.library.custom_op("classy_test::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)
    module = Product(lambda x, w: twice(x) + w, 8)
    assert count(ClassyModel.from_model(module, input_shape=(3, 8, 8))).uncounted == ("classy_test.twice",)


def test_what_heads_cost() -> None:
    costs = count(build_model(TINY, heads=HEADS))
    assert [head.name for head in costs.heads] == ["early", "late"]
    early, late = costs.heads
    assert costs.running.macs == costs.macs - sum(step.macs for step in costs.skipped)
    assert costs.running.deepest == costs.deepest
    assert costs.without(["early"]).macs == costs.macs - early.macs
    assert costs.without(["late"]).deepest == "block1-0"
    assert [step.name for step in costs.without(["late"]).running.steps] == ["stem", "block1-0", "early"]
    assert costs.without(["late", "early"]).running.params == costs.params - early.params - late.params
    with pytest.raises(UnknownNameError, match="unknown head 'lat'; did you mean 'late'"):
        costs.without(["lat"])


def test_steps_of_a_trunk() -> None:
    model = build_model(TINY)
    costs = count(model)
    parts = [model.stem, *model.blocks.values(), model.tail]
    assert [step.name for step in costs.steps] == [
        "stem",
        "block1-0",
        "block2-0",
        "block2-1",
        "trunk_output",
    ]
    assert [step.params for step in costs.steps] == [sum(p.numel() for p in m.parameters()) for m in parts]
    assert [step.aliases for step in costs.steps] == [(), ("block1",), (), ("block2",), ()]
    assert [step.shape for step in costs.steps] == [info.shape for info in model.feature_info().values()]
    assert [step.stride for step in costs.steps] == [2, 4, 8, 8, 8]
    assert costs.steps[0].macs == 112 * 112 * 8 * 3 * 9
    assert costs.params == sum(p.numel() for p in model.parameters())
    assert costs.deepest is None
    assert costs.skipped == ()


def test_heads_stand_behind_what_they_read() -> None:
    costs = count(build_model(TINY, heads=HEADS))
    assert [step.name for step in costs.steps][1:5] == ["block1-0", "early", "block2-0", "late"]
    early = costs.steps[2]
    assert (early.reads, early.shape, early.stride) == ("block1-0", (5,), None)
    assert (early.params, early.macs) == (8 * 5 + 5, 8 * 5)
    assert costs.deepest == "block2-0"
    assert [step.name for step in costs.skipped] == ["block2-1", "trunk_output"]


def test_a_head_may_have_the_name_of_a_step() -> None:
    head = {"name": "fully_connected", "unique_id": "stem", "num_classes": 3, "fork_block": "stem"}
    assert [step.reads for step in count(build_model(TINY, heads=[head])).steps][:2] == [None, "stem"]


@pytest.mark.parametrize("way", ["training", "meta", "OnMeta", "half", "inference", "channels_last"])
def test_the_way_it_was_built_does_not_matter(way: str) -> None:
    wanted = count(build_model(TINY, heads=HEADS).eval())
    with {"meta": torch.device("meta"), "OnMeta": OnMeta(), "inference": torch.inference_mode()}.get(
        way, torch.no_grad()
    ):
        model = build_model(TINY, heads=HEADS).train(way == "training")
        if way == "half":
            model.half()
        if way == "channels_last":
            model.to(memory_format=torch.channels_last)
        assert count(model) == wanted


def test_on_meta_allocates_nothing() -> None:
    with OnMeta():
        model = build_model("regnet_y_256gf")
    tensors = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.dim())]
    assert all(tensor.is_meta for tensor in tensors)


def test_the_model_is_left_as_it_was() -> None:
    model = build_model(TINY, heads=HEADS, stochastic_depth=0.5)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    count(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_input() -> None:
    model = build_model(TINY)
    small, large = count(model, (3, 64, 64)), count(model, (3, 128, 128))
    assert large.input_shape == (3, 128, 128)
    assert large.steps[0].macs == 4 * small.steps[0].macs
    assert large.params == small.params


@pytest.mark.parametrize("shape", [(1, 64, 64), (3,), (3, 64)])
def test_an_input_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="AnyNet cannot take an input of"):
        count(build_model(TINY), shape)


def test_blocks_that_do_not_fit_together() -> None:
    broken = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(ConfigError, match="cannot take an input"):
        macs_of(broken, 3, 8, 8)


def test_any_module_as_a_trunk() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(320, 2))
    costs = count(ClassyModel.from_model(module, blocks=["1", "2"], input_shape=(3, 8, 8)))
    assert [(step.name, step.params) for step in costs.steps] == [
        ("1", 16),
        ("2", 25),
        ("trunk_output", 642),
    ]
    assert [step.macs for step in costs.steps] == [64 * 12, 64 * 20, 640]


def test_shared_and_unread_parameters_count_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.never = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    costs = count(ClassyModel.from_model(Twice(), blocks=["a"], input_shape=(4,)))
    assert [(step.params, step.macs) for step in costs.steps] == [(20, 16), (4, 16)]
    assert costs.unread == 20
    assert costs.params == 44


def test_something_else_than_a_model() -> None:
    with pytest.raises(TypeError, match=r"not Linear: see ClassyModel\.from_model"):
        count(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_a_head_that_scales_its_input_to_length_1() -> None:
    head = {"name": "fully_connected", "unique_id": "a", "normalize_inputs": "l2", "num_classes": 3}
    model = build_model({"name": "regnet_x_200mf", "heads": [{**head, "fork_block": "block2"}]})
    step = next(step for step in count(model).steps if step.reads)
    assert (step.name, step.shape, step.params) == ("a", (3,), 3 * 56 + 3)
