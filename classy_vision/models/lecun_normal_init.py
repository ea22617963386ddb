"""Where the original had the function; it is in layers/lecun_normal_init.py."""

from classy_vision.layers.lecun_normal_init import lecun_normal_init

__all__ = ["lecun_normal_init"]
