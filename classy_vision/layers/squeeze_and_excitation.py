"""Squeeze-and-excitation (Hu et al., "Squeeze-and-Excitation Networks", 2018, section 3)."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeAndExcitationLayer(nn.Module):
    """Scales each channel by a gate between 0 and 1 computed from all channels' means.

    Shape: (n, in_planes, h, w), unchanged.

    Args:
        in_planes: channels of the input.
        reduction_ratio: width of the squeeze as ``in_planes // reduction_ratio``.
        reduced_planes: the width itself; then ``reduction_ratio`` must be None.
        activation: the activation after the squeeze, a ReLU by default.
        gate: the activation after the excitation, a sigmoid by default.

    Raises:
        ValueError: not exactly one of the two widths is given, or it is 0.
    """

    def __init__(
        self,
        in_planes: int,
        reduction_ratio: int | None = 16,
        reduced_planes: int | None = None,
        activation: nn.Module | None = None,
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (reduction_ratio is None) == (reduced_planes is None):
            raise ValueError(
                "give either reduction_ratio or reduced_planes, the other as None: got "
                f"reduction_ratio={reduction_ratio}, reduced_planes={reduced_planes}"
            )
        width = reduced_planes if reduction_ratio is None else in_planes // reduction_ratio
        if not width or width < 0:
            raise ValueError(
                f"a squeeze of {in_planes} channels to {width} is empty: got "
                f"reduction_ratio={reduction_ratio}, reduced_planes={reduced_planes}"
            )
        self.excitation = nn.Sequential(
            nn.Conv2d(in_planes, width, 1),
            activation if activation is not None else nn.ReLU(),
            nn.Conv2d(width, in_planes, 1),
            gate if gate is not None else nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excitation(x.mean((2, 3), keepdim=True))
