"""What a step draws does not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.layers.recompute import recompute
from classy_vision.layers.stochastic_depth import StochasticDepth
from classy_vision.models.vision_transformer.tokens import some_patches
from classy_vision.train.draws import GlobalDraws, seed_step

IMAGES = torch.rand(6, 4, 3, 3) + 1
TOKENS = torch.rand(6, 2, 9, 4) + 1


def drop_branch(x: Tensor) -> Tensor:
    return StochasticDepth(0.5).train()(x)


DRAWS: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
    "dropout": (IMAGES, lambda x: F.dropout(x, 0.5)),
    "dropout in place": (IMAGES, lambda x: F.dropout(x.clone(), 0.5, True, True)),
    "dropout with channels last": (IMAGES.to(memory_format=torch.channels_last), lambda x: F.dropout(x, 0.5)),
    "dropout of transposed tokens": (TOKENS[:, 0].transpose(1, 2), lambda x: F.dropout(x, 0.5)),
    "dropout of windows": (IMAGES, lambda x: F.dropout(x.reshape(-1, 3, 3), 0.5).reshape(x.shape)),
    "stochastic depth": (IMAGES, drop_branch),
    "patch dropout": (TOKENS[:, 0], lambda x: some_patches(x, 1, 0.5)),
    "attention": (TOKENS, lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)),
    "noise": (IMAGES, lambda x: x + torch.empty_like(x).normal_()),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("places", [[[0, 2, 4], [1, 3, 5]], [[0, 3], [1, 4], [2, 5]], [[5], [0, 1, 3], [2]]])
def test_every_row_is_given_what_it_is_in_the_global_batch(name: str, places: list[list[int]]) -> None:
    x, draw = DRAWS[name]
    seed_step(1, 2, 3)
    whole = draw(x)
    after = torch.rand(1)
    for rows in map(torch.tensor, places):
        seed_step(1, 2, 3)
        with GlobalDraws(rows, len(x)):
            part = draw(x[rows])
        torch.testing.assert_close(part, whole[rows])
        assert torch.equal(torch.rand(1), after)  # what is drawn next is the same, too
    seed_step(1, 2, 4)
    assert not torch.equal(draw(x), whole)


def test_what_is_recomputed_is_drawn_as_before() -> None:
    block = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.5), nn.Linear(8, 8))
    gradients = []
    for parts in ([[0, 1, 2, 3, 4, 5]], [[0, 2, 4], [1, 3, 5]]):
        x = IMAGES.clone().requires_grad_()
        for rows in map(torch.tensor, parts):
            seed_step(1, 2, 3)
            with GlobalDraws(rows, len(x)):
                recompute(block, x[rows]).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_what_has_no_rows_is_left_alone() -> None:
    rows = torch.tensor([0, 2, 4])
    for draw in (lambda: torch.rand(2, 4), lambda: F.dropout(torch.ones(4, 4)), lambda: torch.rand(())):
        seed_step(1, 2, 3)
        alone = draw()
        seed_step(1, 2, 3)
        with GlobalDraws(rows, 6):
            assert torch.equal(draw(), alone)


def test_steps_draw_differently() -> None:
    drawn = []
    for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        seed_step(*place)
        drawn.append(float(torch.rand(1)))
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[-1]
