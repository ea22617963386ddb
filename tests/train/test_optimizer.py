"""What decays, and how the learning rate goes."""

from __future__ import annotations

import pytest

from classy_vision.models import build_model
from classy_vision.train.config import ScheduleConfig
from classy_vision.train.optimizer import OPTIMIZERS, learning_rate, make_optimizer
from tests.train.command import SMALL_TRUNK, head


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_do_not_decay(name: str) -> None:
    model = build_model({**SMALL_TRUNK, "heads": [head("x", num_classes=2)]})
    model.stem.requires_grad_(False)
    optimizer = make_optimizer(model, ScheduleConfig(optimizer=name, weight_decay=0.3))  # type: ignore[arg-type]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        vector = "norm" in key or key.endswith("bias")
        assert decay.get(id(parameter)) == (None if key.startswith("stem") else 0 if vector else 0.3)


def test_the_rate_rises_and_falls() -> None:
    schedule = ScheduleConfig(epochs=5, learning_rate=2.0, warmup_epochs=1)
    rates = [learning_rate(schedule, step, steps_per_epoch=4) for step in range(20)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[12] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.03
