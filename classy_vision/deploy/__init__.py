"""Shipping a model: quicker, and in the forms that others run."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

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
__getattr__ = lazy(
    __name__,
    {
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
    },
)
