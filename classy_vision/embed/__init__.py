"""Features and outputs of a model for whole collections: written to Parquet in one pass, and read back."""

from typing import TYPE_CHECKING

from classy_vision.lazy import lazy

if TYPE_CHECKING:
    from classy_vision.embed.findings import Neighbours
    from classy_vision.embed.job import Summary, embed
    from classy_vision.embed.review import neighbours
    from classy_vision.embed.review_files import write_neighbours
    from classy_vision.embed.settings import Settings
    from classy_vision.embed.stored import Embeddings, load
    from classy_vision.embed.work import Progress

__all__ = [
    "Embeddings",
    "Neighbours",
    "Progress",
    "Settings",
    "Summary",
    "embed",
    "load",
    "neighbours",
    "write_neighbours",
]

# Looked up when they are used: reading embeddings back needs no torch.
__getattr__ = lazy(
    __name__,
    {
        "Embeddings": "stored",
        "Neighbours": "findings",
        "Progress": "work",
        "Settings": "settings",
        "Summary": "job",
        "embed": "job",
        "load": "stored",
        "neighbours": "review",
        "write_neighbours": "review_files",
    },
)
