"""Shipping a model: quicker, and in the forms that others run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classy_vision.deploy.artefact import Artefact, load_artefact
    from classy_vision.deploy.exporting import Exported, export
    from classy_vision.deploy.formats import FORMATS
    from classy_vision.deploy.metadata import Head, Metadata
    from classy_vision.deploy.optimized import Optimized, optimize
    from classy_vision.deploy.verify import Int8

__all__ = [
    "FORMATS",
    "Artefact",
    "Exported",
    "Head",
    "Int8",
    "Metadata",
    "Optimized",
    "export",
    "load_artefact",
    "optimize",
]

# Looked up when they are used: an ONNX file is run without torch, which takes a second to import.
_PLACES = {
    "FORMATS": "formats",
    "Artefact": "artefact",
    "Exported": "exporting",
    "Head": "metadata",
    "Int8": "verify",
    "Metadata": "metadata",
    "Optimized": "optimized",
    "export": "exporting",
    "load_artefact": "artefact",
    "optimize": "optimized",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
