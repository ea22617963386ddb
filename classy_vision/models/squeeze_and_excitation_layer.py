"""Where the original had the layer; it is in layers/squeeze_and_excitation.py."""

from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer

__all__ = ["SqueezeAndExcitationLayer"]
