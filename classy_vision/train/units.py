"""Numbers are learned standardised, and said in the units of the table.

While a model trains, the heads of a regression give (number - mean) / std, so that a learning rate
serves numbers of any size. Once it is trained, their last layers take that back: whoever loads the
weights, exports them or predicts with them gets numbers in the units of the table, and needs to know
nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from classy_vision.models import ClassyModel
from classy_vision.train.tasks import Regression, Task


@torch.no_grad()
def to_units(model: ClassyModel, tasks: Mapping[str, Task]) -> None:
    """Makes heads that give standardised numbers give them in the units of the table."""
    for layer, task in _layers(model, tasks):
        layer.weight.mul_(task.std)
        layer.bias.mul_(task.std).add_(task.mean)


@torch.no_grad()
def standardize(model: ClassyModel, tasks: Mapping[str, Task], heads: set[str]) -> None:
    """Makes ``heads`` that give numbers in the units of the table give them standardised, by id."""
    for layer, task in _layers(model, {name: task for name, task in tasks.items() if name in heads}):
        layer.weight.div_(task.std)
        layer.bias.sub_(task.mean).div_(task.std)


def _layers(model: ClassyModel, tasks: Mapping[str, Task]) -> Iterator[tuple[nn.Linear, Regression]]:
    for entries in model.get_heads().values():
        for head in entries:
            task = tasks.get(str(head.unique_id))
            if isinstance(task, Regression):
                yield from ((layer, task) for layer in head.output_layers())
