"""Heads apart from their trunk: what they read of it, and what they make of that later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from classy_vision.trunk.heads_on_blocks import join_outputs, plan_heads, run_heads

Inputs = Mapping[tuple[str, str], Tensor]
"""By the id of a head and a step that it reads, in the order in which steps run."""


def read_inputs(trunk: Any, x: Tensor) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Runs a trunk up to the deepest block that a head reads, and gives what each head reads; no head runs.

    Gives the id of a head and a step as soon as the step has run, so that nothing is held longer than needed.
    """
    trunk.check_input(x)
    heads = trunk.heads
    plan = plan_heads(trunk, heads)
    for step, feature in trunk._route().read(trunk, x, set(plan.readers)):
        for reader in plan.readers[step]:
            for head in heads[reader.place].values():
                yield (str(head.unique_id), step), trunk.head_input(head, step, feature, x)


def run_on_inputs(trunk: Any, inputs: Inputs) -> Any:
    """Runs the heads of a trunk in the order in which it runs them, and gives what it would give."""
    heads = trunk.heads
    steps = ((step, None) for step in dict.fromkeys(step for _, step in inputs))
    with_outputs = run_heads(_Reader(inputs), None, steps, heads, plan_heads(trunk, heads))
    return join_outputs(heads, {head: output for *_, outputs in with_outputs for head, output in outputs})


class _Reader:
    """Stands for a trunk that has run."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def head_input(self, head: Any, step: str, *_: Any) -> Tensor:
        return self.inputs[str(head.unique_id), step]
