"""The costs of an AnyNet in closed form: hundreds of thousands of configs can be asked in a minute.

``classy_vision.cost.count`` gives the same numbers from the model itself; a test holds them together.
"""

from __future__ import annotations

from dataclasses import dataclass

from classy_vision.models.anynet.model import STEMS, AnyNetParams


@dataclass
class Complexity:
    """What a network costs for one image.

    Attributes:
        macs: multiply-adds.
        params: parameters.
        activations: numbers in the outputs of convolutions and linear layers (Radosavovic et al.,
            "Designing Network Design Spaces", 2020, section 3.1).
    """

    macs: int = 0
    params: int = 0
    activations: int = 0

    def conv(self, width_in: int, width: int, kernel: int, size: int, groups: int = 1) -> None:
        """Adds a convolution to ``size`` x ``size`` positions, and the batch norm after it."""
        weights = kernel * kernel * width_in * width // groups
        self.macs += weights * size * size
        self.params += weights + 2 * width
        self.activations += width * size * size

    def linear(self, width_in: int, width: int) -> None:
        """Adds a linear layer or a convolution of one position, with a bias."""
        self.macs += width_in * width
        self.params += width_in * width + width
        self.activations += width


def complexity(params: AnyNetParams, input_size: int, num_classes: int) -> Complexity:
    """The costs of a network of bottlenecks with a linear classifier after it.

    Args:
        params: ``block_type`` is "res_bottleneck_block".
        input_size: height and width of the image.
        num_classes: of the classifier.
    """
    total = Complexity()
    kernel, stride, pool = STEMS[params.stem_type]
    size = _shrink(input_size, stride)
    total.conv(params.in_channels, params.stem_width, kernel, size)
    size = _shrink(size, 2 if pool else 1)
    before = params.stem_width
    for width, stride, depth, group_width, multiplier in params.get_expanded_params():
        inner = round(width * multiplier)
        for block in range(depth):
            step = stride if block == 0 else 1
            after = _shrink(size, step)
            if step != 1 or before != width:
                total.conv(before, width, 1, after)
            total.conv(before, inner, 1, size)
            total.conv(inner, inner, 3, after, inner // group_width)
            if params.use_se:
                squeezed = max(1, round(params.se_ratio * before))
                total.linear(inner, squeezed)
                total.linear(squeezed, inner)
            total.conv(inner, width, 1, after)
            before, size = width, after
    total.linear(before, num_classes)
    return total


def _shrink(size: int, stride: int) -> int:
    """Positions after an odd kernel that pads by half of itself."""
    return (size - 1) // stride + 1
