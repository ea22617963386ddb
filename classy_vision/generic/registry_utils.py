"""The original's ``generic.registry_utils``, which is gone: importing it says what to write instead."""

from typing import TYPE_CHECKING

from classy_vision.removed import explain_removed

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__)
