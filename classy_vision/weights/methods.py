"""The ways in which weights are made to fit another input; configs name them without the import of torch."""

from typing import Literal

Channels = Literal["mean", "repeat", "new"]
Patches = Literal["bicubic_antialias", "bicubic", "bilinear"]
ClassToken = Literal["drop", "new"]
