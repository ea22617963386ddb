"""Models as files to ship: ``export`` writes and compares them, ``load_exported`` reads them."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.export.exported_model import ExportedModel, load_exported
    from classy_vision.export.formats import FORMATS, Int8
    from classy_vision.export.metadata import Head, Metadata
    from classy_vision.export.write import Exported, export

__all__ = [
    "FORMATS",
    "Exported",
    "ExportedModel",
    "Head",
    "Int8",
    "Metadata",
    "export",
    "load_exported",
]

# Looked up when they are used, because importing torch takes a second and not every use needs it.
__getattr__ = lazy(
    __name__,
    {
        "Exported": "write",
        "ExportedModel": "exported_model",
        "FORMATS": "formats",
        "Head": "metadata",
        "Int8": "formats",
        "Metadata": "metadata",
        "export": "write",
        "load_exported": "exported_model",
    },
)
