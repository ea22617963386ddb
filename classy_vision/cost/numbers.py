"""Numbers as text: see ``classy_vision.text``."""

from __future__ import annotations

from classy_vision.text import human as human
from classy_vision.text import size as size
