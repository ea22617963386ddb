"""peft's adapter of ``nn.MultiheadAttention``, without rounding errors in the weights that stay.

peft adds what its adapter has learned to the weights before each forward pass and subtracts it afterwards, so
that they change a little every time. Here the attention runs with sums beside them.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.lora.layer import MultiheadAttention
from torch import Tensor, nn
from torch.func import functional_call


class AttentionAdapter(MultiheadAttention):  # type: ignore[misc]  # peft is an extra
    """Multi-head attention with an adapter of queries, keys and values, and one of its output layer."""

    def forward(self, query: Tensor, *args: Any, **options: Any) -> Any:
        weights: dict[str, Any] = {
            "in_proj_weight": self.in_proj_weight + _find_sum(self),
            "out_proj.base_layer.weight": self.out_proj.weight + _find_sum(self.base_layer.out_proj),
        }
        return functional_call(self.base_layer, weights, (query, *args), options)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.MultiheadAttention:
        """Gives the attention without adapters, with what they have learned if ``merge`` is set."""
        attention: nn.MultiheadAttention = self.base_layer
        output: Any = attention.out_proj
        if merge:
            self.in_proj_weight.data += _find_sum(self)
            output.merge(safe_merge, adapter_names)
        attention.out_proj = output.get_base_layer()
        return attention

    def _restore_weights(self) -> None:
        """Does nothing: no weights are replaced."""


def _find_sum(adapter: Any) -> Tensor:
    """What the active adapters of a layer add to its weight."""
    found: Tensor = sum(adapter.get_delta_weight(name) for name in adapter.active_adapters)
    return found
