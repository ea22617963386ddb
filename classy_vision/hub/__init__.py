"""Folders and repositories of models: files and text. ``ClassyModel`` has the methods that use them."""

from typing import TYPE_CHECKING

from classy_vision.removed import explain_removed

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__)
