"""What is done with modules works with every family and head, two heads at two blocks."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor

from classy_vision.heads import HEADS as REGISTERED_HEADS
from classy_vision.models import ClassyModel
from classy_vision.trunk.names import split_place
from tests.models.small import CASES, FAMILIES, HEADS, QUICK, SEVERAL, batch, build, loss, wrong_answers

both_modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
all_cases = pytest.mark.parametrize(
    ("family", "head"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
)


def agree(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert given.keys() == wanted.keys() == {"early", "late"}
    for name in wanted:
        torch.testing.assert_close(given[name], wanted[name], rtol=1e-4, atol=1e-5)


def step(model: ClassyModel) -> None:
    model.train()
    loss(model(batch())).backward()


def test_all_heads_are_here() -> None:
    ours = {entry.name for entry in REGISTERED_HEADS if entry.cls.__module__.startswith("classy_vision.")}
    assert HEADS.keys() == ours == {head for _, head in QUICK}


@all_cases
@both_modes
def test_compile_whole(family: str, head: str, training: bool) -> None:
    torch.compiler.reset()
    model = build(family, head).train(training)
    wanted = copy.deepcopy(model)(batch())
    backend = "aot_eager" if training else "eager"
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    given = compiled(batch())
    agree(given, wanted)
    if training:
        loss(given).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@both_modes
def test_compile_with_inductor(family: str, training: bool) -> None:
    torch.compiler.reset()
    model = build(family).train(training)
    wanted = copy.deepcopy(model)(batch())
    agree(torch.compile(model, fullgraph=True)(batch()), wanted)


@all_cases
@both_modes
def test_export_with_any_batch_size(family: str, head: str, training: bool) -> None:
    model = build(family, head).train(training)
    program = torch.export.export(model, (batch(3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    wanted = copy.deepcopy(model)(batch(5))
    agree(program.module()(batch(5)), wanted)


def test_export_holds_nothing_behind_the_deepest_head() -> None:
    model = build("regnet").eval()
    convolutions = [
        node
        for node in torch.export.export(model, (batch(),)).graph.nodes
        if node.target == torch.ops.aten.conv2d.default
    ]
    read = [model.stem, *(b for n, b in model.blocks.items() if n < "block3")]
    assert len(convolutions) == sum(isinstance(m, torch.nn.Conv2d) for p in read for m in p.modules())


@all_cases
def test_copies_after_a_step(family: str, head: str) -> None:
    model = build(family, head)
    step(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ]
    model.eval()
    for twin in copies:
        agree(twin.eval()(batch()), model(batch()))
        assert {n for n, p in twin.named_parameters() if p.requires_grad} == {
            n for n, p in model.named_parameters() if p.requires_grad
        }


@all_cases
@both_modes
def test_symbolic_trace(family: str, head: str, training: bool) -> None:
    model = build(family, head).train(training)
    wanted = copy.deepcopy(model)(batch())
    agree(torch.fx.symbolic_trace(model)(batch()), wanted)


@all_cases
def test_four_threads(family: str, head: str) -> None:
    model = build(family, head).eval()
    assert wrong_answers(model) == []


@pytest.mark.parametrize(
    ("family", "head"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in CASES
        if case[1] in SEVERAL
    ],
)
def test_a_head_of_several_blocks_alone(family: str, head: str) -> None:
    torch.compiler.reset()
    model = build(family, head).eval()
    model.set_heads({place: heads for place, heads in model.get_heads().items() if len(split_place(place)) > 1})
    wanted = model(batch())
    program = torch.export.export(model, (batch(3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    runs = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        program.module(),
        torch.compile(model, fullgraph=True, backend="eager"),
        torch.fx.symbolic_trace(model),
    ]
    for run in runs:
        torch.testing.assert_close(run(batch()), wanted, rtol=1e-4, atol=1e-5)
    model.train()(batch()).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@all_cases
def test_state_dict_goes_around(family: str, head: str) -> None:
    model, twin = build(family, head).eval(), build(family, head).eval()
    for tensor in twin.state_dict().values():
        tensor.zero_()
    twin.load_state_dict(model.state_dict())
    agree(twin(batch()), model(batch()))
    for tensor in twin.state_dict().values():
        tensor.zero_()
    twin.set_classy_state(model.get_classy_state())
    agree(twin(batch()), model(batch()))
