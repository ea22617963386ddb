"""The old home of ``classy_vision.export`` and ``classy_vision.engines``; kept for one version."""

from classy_vision.lazy import lazy

__getattr__ = lazy(
    __name__,
    {},
    moved={
        "FORMATS": "classy_vision.export.FORMATS",
        "Artefact": "classy_vision.export.ExportedModel",
        "Exported": "classy_vision.export.Exported",
        "Head": "classy_vision.export.Head",
        "Int8": "classy_vision.export.Int8",
        "Metadata": "classy_vision.export.Metadata",
        "Optimized": "classy_vision.engines.Optimized",
        "export": "classy_vision.export.export",
        "load_artefact": "classy_vision.export.load_exported",
        "optimize": "classy_vision.engines.optimize",
    },
)
