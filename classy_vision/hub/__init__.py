"""Folders and repositories of models: files and text. ``ClassyModel`` has the methods that use them."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy
from classy_vision.removed import explain_removed

if not TYPE_CHECKING:
    _model = "classy_vision.models.classy_model.ClassyModel"
    __getattr__ = lazy(
        __name__,
        {},
        moved={name: f"{_model}.{name}" for name in ("from_pretrained", "push_to_hub", "save_pretrained")},
        otherwise=explain_removed(__name__),
    )
