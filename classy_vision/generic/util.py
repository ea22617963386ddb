"""What the original had in ``generic.util``, which is gone: importing it says what to write instead."""

from typing import TYPE_CHECKING

from classy_vision.removed import names_gone

if not TYPE_CHECKING:
    __getattr__ = names_gone(__name__)
