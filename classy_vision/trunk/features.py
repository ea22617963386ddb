"""What a block gives: channels, stride and shape, found without data."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.trunk.meta import OnMeta
from classy_vision.trunk.twin import outline_of


@dataclass(frozen=True)
class FeatureInfo:
    """The feature of one block.

    Attributes:
        name: the block.
        shape: without the batch: (c, h, w), (c, t, h, w), tokens (s, c) or (c,).
        channels: the size that a head's ``in_plane`` must have.
        stride: input pixels per feature pixel along the height; None without a height.
    """

    name: str
    shape: tuple[int, ...]
    channels: int
    stride: int | None

    @classmethod
    def of(cls, name: str, feature: Tensor, input_shape: tuple[int, ...]) -> FeatureInfo:
        shape = tuple(feature.shape[1:])
        if len(shape) < 3:
            return cls(name, shape, shape[-1], None)
        return cls(name, shape, shape[0], round(input_shape[-2] / shape[-2]))


class OverwrittenError(ConfigError):
    """A block changes its input in place, so that a head cannot read it."""


def find_patch(number: int, image: Sequence[int]) -> int:
    """Height and width in pixels of square patches, so many of which make a whole image."""
    return max(1, round((image[0] * image[1] / max(1, number)) ** 0.5))


def tokens_to_map(
    x: Tensor, prefix: int, image: Sequence[int], with_token: bool = False, patch: int | None = None
) -> Tensor:
    """Tokens of square patches as a map, without those before the patches; other features as they are.

    Shape: (n, prefix + h * w, c) to (n, c, h, w), or (n, 2 c, h, w) with the class token.

    Args:
        x: tokens, row by row.
        prefix: how many stand before the patches.
        image: height and width of the image.
        with_token: put the first token after the channels of every patch.
        patch: height and width of a patch in pixels; by default what fits the number of tokens.

    Raises:
        ValueError: the tokens are not a grid of such patches, as after some were dropped.
    """
    if x.dim() != 3:
        return x
    number = x.shape[1] - prefix
    patch = patch or find_patch(number, image)
    height, width = image[0] // patch, image[1] // patch
    if height * width != number:
        raise ValueError(
            f"{number} tokens are no grid of patches of an image of {image[0]}x{image[1]}: a head that reads "
            f"maps needs all of them, and to know how many others stand before them ({prefix} here)"
        )
    patches = x[:, prefix:]
    if with_token:
        patches = torch.cat([patches, x[:, :1].expand_as(patches)], 2)
    return patches.transpose(1, 2).reshape(x.shape[0], -1, height, width)


@dataclass(frozen=True)
class Trace:
    """A walk without data.

    Attributes:
        features: every step that ran, on the meta device.
        parameters: what they were made with, by name, there too.
        finished: names of the modules whose forward had come to its end.
        input_shape: without the batch.
    """

    features: dict[str, Tensor]
    parameters: dict[str, Tensor]
    finished: set[str]
    input_shape: tuple[int, ...]

    def info(self, step: str) -> FeatureInfo:
        return FeatureInfo.of(step, self.features[step], self.input_shape)

    def unread(self, steps: Container[str]) -> set[str]:
        """Names of the parameters that the features of ``steps`` do not depend on."""
        read = _leaves(feature for name, feature in self.features.items() if name in steps)
        return {name for name, parameter in self.parameters.items() if id(parameter) not in read}


def trace(
    model: nn.Module, input_shape: tuple[int, ...], steps: str | Collection[str], gradients: bool = False
) -> Trace:
    """A trunk run on the meta device: no data, no weights.

    Args:
        model: a trunk.
        steps: the step up to which all are read, or those that matter.
        gradients: whether ``unread`` and ``finished`` are going to be asked.

    Raises:
        ConfigError: the trunk cannot take such an input.
    """
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        return Trace(*_on_meta(model, input_shape, steps, gradients), input_shape)


def _leaves(tensors: Iterable[Tensor]) -> set[int]:
    """The ids of the leaves of the graph that ``tensors`` were made by; no gradient is computed."""
    tensors = list(tensors)
    found = {id(t) for t in tensors if t.is_leaf}
    nodes = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        found.add(id(getattr(node, "variable", None)))
        new = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= new
        nodes += new
    return found


def _on_meta(
    model: nn.Module, input_shape: tuple[int, ...], steps: str | Collection[str], gradients: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """The features, the parameters they were made with, all without data, and what ran."""
    try:
        outline: Any = outline_of(model, gradients)
        for module in outline.modules():  # norms in training mind the batch and other processes
            module.training = False
        parameters = dict(outline.named_parameters())
        tensors = (*parameters.values(), *outline.buffers())
        dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        x = torch.empty((1, *input_shape), device="meta", dtype=dtype)
        finished = _note_finished(outline) if gradients else set()
        with OnMeta():
            return _walked(outline, x, steps), parameters, finished
    except ConfigError:
        raise
    except Exception as error:  # whatever a trunk of someone else's may raise
        raise ConfigError(
            f"{type(model).__name__} cannot be run without data on input_shape={input_shape}: {error}"
        ) from error


def _note_finished(outline: nn.Module) -> set[str]:
    """The names of modules that have run, as they do so."""
    finished: set[str] = set()
    for name, module in outline.named_modules():

        def note(*_: object, name: str = name) -> None:
            finished.add(name)

        # Before other hooks, one of which may leave the forward pass.
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_hook(note, prepend=True)
    return finished


def _walked(outline: Any, x: Tensor, steps: str | Collection[str]) -> dict[str, Tensor]:
    features: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    route = outline._route()
    run = route.run if isinstance(steps, str) else route.look
    for name, feature in run(outline, x, steps):
        features[name], versions[name] = feature, feature._version
    for name, feature in features.items():
        if feature._version != versions[name]:
            raise OverwrittenError(f"what follows block {name!r} changes it in place, so nothing can read it")
    return features
