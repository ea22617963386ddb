"""The costs of the presets: see ``classy_vision.presets``."""

from __future__ import annotations

from classy_vision.presets import FILE as FILE
from classy_vision.presets import known_costs as known_costs
