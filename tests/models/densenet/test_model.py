"""DenseNet without copies: the numbers of plain concatenation, in memory that grows linearly."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.models import ClassyModel, build_model
from classy_vision.models.densenet import model as densenet
from classy_vision.models.densenet import storage as dense_storage
from tests.models.small import wrong_answers

HEADS = {"early": "block0-1", "stage": "block_1", "late": "trunk_output"}


@pytest.fixture(autouse=True)
def _small_tensors_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_storage, "WORTH_SHARING", 0)


def build(blocks: tuple[int, ...] = (3, 2, 2), heads: bool = True, **more: Any) -> ClassyModel:
    torch.manual_seed(0)
    head = {"name": "fully_connected", "num_classes": 3}
    config = {
        "name": "densenet",
        "num_blocks": blocks,
        "init_planes": 8,
        "growth_rate": 4,
        "small_input": True,
        "se_reduction_ratio": 2,
        "heads": [{**head, "unique_id": i, "fork_block": b} for i, b in HEADS.items()] if heads else [],
    }
    model = build_model(config, **more).double()
    for p in model.parameters():  # heads start at zero
        nn.init.uniform_(p, -0.5, 0.5)
    return model


def batch(size: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 16, 16, dtype=torch.float64, generator=generator)


@contextmanager
def plain() -> Iterator[None]:
    """DenseNet as its modules and ``torch.cat`` make it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(densenet, "append", lambda x, new, room: torch.cat([x, new], 1))
        patch.setattr(densenet, "norm_relu_conv", lambda x, norm, act, conv: conv(act(norm(x))))
        yield


def step(model: ClassyModel, x: Tensor) -> dict[str, Tensor | None]:
    """What two training steps leave behind: outputs, gradients and statistics."""
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    for _ in range(2):
        x = x.detach().requires_grad_()
        outputs = model(x)
        sum(o.square().mean() + o.mean() for o in outputs.values()).backward()  # type: ignore[union-attr]
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    outputs = {f"output {name}": o.detach() for name, o in outputs.items()}
    return {**outputs, "gradient of x": x.grad, **gradients, **dict(model.named_buffers())}


# -- numbers


OPTIONS = [
    {},
    {"use_se": True},
    {"stochastic_depth": 0.4},
    {"gradient_checkpointing": True},
    {"final_bn_relu": False},
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("options", "size", "layout"),
    [
        *((options, 3, torch.contiguous_format) for options in OPTIONS),
        ({}, 1, torch.contiguous_format),
        ({}, 3, torch.channels_last),
    ],
    ids=str,
)
def test_training_gives_the_same_numbers(
    options: dict[str, Any], size: int, layout: torch.memory_format, training: bool
) -> None:
    model, x = build(**options).train(training), batch(size).contiguous(memory_format=layout)
    given = step(model, x)
    with plain():
        wanted = step(model, x)
    torch.testing.assert_close(given, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_features_are_those_of_a_concatenation(grad: bool, training: bool) -> None:
    model = build(heads=False).train(training)
    with torch.set_grad_enabled(grad):
        values = {name: feature.clone() for name, feature in copy.deepcopy(model).walk(batch())}
        given = model.features(batch(), list(values))
        with plain():
            wanted = copy.deepcopy(model).eval().train(training).features(batch(), list(values))
    torch.testing.assert_close(given, values, rtol=0, atol=0)  # nothing has changed since
    torch.testing.assert_close(given, wanted, rtol=1e-11, atol=1e-12)
    if grad:
        sum(f.square().mean() for f in given.values()).backward()  # type: ignore[union-attr]


def test_a_layer_called_twice_on_one_input() -> None:
    model = build(heads=False)
    layers = [model.blocks[f"block0-{i}"].eval() for i in range(3)]
    x = layers[0](model.stem(batch()))
    outputs = [layer(x) for layer in (layers[1], layers[1])]
    ends = [layers[2](output) for output in outputs]
    assert torch.equal(*outputs)
    assert torch.equal(*ends)
    given = torch.autograd.grad(sum(end.square().sum() for end in ends), layers[1].parameters())
    with plain():
        x = layers[0](model.stem(batch()))
        end = layers[2](layers[1](x))
        wanted = torch.autograd.grad(2 * end.square().sum(), layers[1].parameters())
    torch.testing.assert_close(given, wanted, rtol=1e-11, atol=1e-12)


def test_gradients_of_gradients() -> None:
    def penalty(model: ClassyModel) -> list[Tensor]:
        x = batch().requires_grad_()
        loss = model(x)["late"].square().sum()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        used = [p for p in model.parameters() if p.requires_grad]
        return list(torch.autograd.grad(gradient.square().sum(), used, allow_unused=True))

    given = penalty(build())
    with plain():
        wanted = penalty(build())
    torch.testing.assert_close(given, wanted, rtol=1e-9, atol=1e-10)


def test_transforms_of_functions() -> None:
    model = build().eval()
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x[None],))["late"].square().sum()

    given = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, batch())
    with plain():
        wanted = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, batch())
    torch.testing.assert_close(given, wanted, rtol=1e-11, atol=1e-12)
    given, tangent = torch.func.jvp(lambda x: model(x)["late"], (batch(),), (batch(seed=1),))
    step = 1e-6 * batch(seed=1)
    difference = (model(batch() + step)["late"] - model(batch() - step)["late"]) / 2e-6
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_autocast(training: bool) -> None:
    model = build().float().train(training)
    with torch.autocast("cpu", torch.bfloat16):
        given = copy.deepcopy(model)(batch().float())
        with plain():
            wanted = copy.deepcopy(model)(batch().float())
    for name in wanted:
        assert (given[name] - wanted[name]).norm() < 0.02 * wanted[name].norm()
    sum(o.float().square().mean() for o in given.values()).backward()  # type: ignore[union-attr]


def test_threads_share_a_model() -> None:
    assert wrong_answers(build().float().eval(), calls=30) == []


def test_features_are_copied_and_saved_as_others() -> None:
    with torch.no_grad():
        feature = build(heads=False).features(batch(), ["block0-1"])["block0-1"]
    assert torch.equal(copy.deepcopy(feature), feature)
    file = io.BytesIO()
    torch.save(feature, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), feature)


def test_hooks_of_inner_modules_run() -> None:
    model = build(heads=False)
    seen: list[str] = []
    for name in ("norm1", "act1", "conv1", "norm2", "act2", "conv2"):
        module = model.blocks["block0-1"].get_submodule(name)
        module.register_forward_hook(lambda *args, name=name: seen.append(name))
    model.extract_features(batch())
    assert seen == ["norm1", "act1", "conv1", "norm2", "act2", "conv2"]


def test_a_hook_may_replace_what_a_layer_gives() -> None:
    def outputs(kind: torch.autograd.grad_mode.no_grad | torch.autograd.grad_mode.enable_grad) -> Tensor:
        model = build(heads=False)
        model.blocks["block0-1"].register_forward_hook(lambda module, args, output: 2 * output)
        model.blocks["block0-2"].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        with kind:
            return model.extract_features(batch())

    for kind in (torch.no_grad(), torch.enable_grad()):
        given = outputs(kind)
        with plain():
            torch.testing.assert_close(given, outputs(kind), rtol=1e-11, atol=1e-12)


# -- memory


def kept(depth: int, **options: Any) -> int:
    """Bytes that a stage of so many layers keeps for the backward pass."""
    model = build((depth,), heads=False, final_bn_relu=False, **options)
    storages: dict[int, Tensor] = {}
    parameters = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.extract_features(batch())
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def test_memory_grows_linearly() -> None:
    few, many, more = kept(10), kept(20), kept(30)
    per_layer = (many - few) / 10
    assert more - many == pytest.approx(many - few, rel=0.05)
    # What a layer adds, its bottleneck, and the moments of all its channels.
    layer = 3 * 16 * 16 * 8 * (4 + 4 * 4)
    assert layer <= per_layer <= 1.1 * layer
    with plain():
        assert kept(30) - kept(20) > 5 * (more - many)


def test_checkpoints_of_a_stage_are_one_storage() -> None:
    few, many = (kept(depth, gradient_checkpointing=True) for depth in (10, 20))
    assert many - few == 10 * 3 * 16 * 16 * 8 * 4


def test_nothing_is_concatenated_without_gradients() -> None:
    model = build(heads=False).eval()
    copied: list[int] = []

    class Copies(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket is torch.ops.aten.cat:
                copied.append(len(args[0]))
            if func.overloadpacket is torch.ops.aten.copy_:
                copied.append(args[0].shape[0 if args[0].shape[1] == 3 else 1])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Copies():
        model.extract_features(batch())
    # A stage's input moves once; then each layer copies what it adds.
    assert copied == [8, 4, 4, 4, 10, 4, 4, 9, 4, 4]
