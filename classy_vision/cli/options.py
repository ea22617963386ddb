"""Options that several commands have, each with one name and one meaning; and packages that are an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.metadata import version
from typing import Annotated, Any

import typer

from classy_vision.errors import ConfigError

MEASURING, OUTPUT, RUNNING = "Measuring", "Output", "Running"
"""Panels of the help."""
WORDS = (
    "a preset, a family, published weights, a config file, a run folder, a folder of save_pretrained, a file "
    "of weights, or hf-hub:OWNER/NAME"
)
TRAINED = (
    "a run folder, a folder of save_pretrained, a file of classy export, published weights, a file of weights, "
    "or hf-hub:OWNER/NAME"
)


class Format(str, Enum):
    """How a table is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def option(names: str, metavar: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """Describes an option for ``Annotated``.

    Args:
        names: such as "--output -o".
        metavar: what stands for its value; "" for a flag.
        help: says what to give, and what happens.
        panel: of the help.
        more: of ``typer.Option``.
    """
    return typer.Option(*names.split(), metavar=metavar or None, help=help, rich_help_panel=panel, **more)


FORMATS = "table|json|csv"
FormatOption = Annotated[
    Format, option("--format", FORMATS, "Print a table, or JSON or CSV with exact numbers.", OUTPUT)
]
ForceOption = Annotated[bool, option("--force", "", "Replace existing files.", OUTPUT)]
ImageSizeOption = Annotated[
    str | None,
    option("--image-size", "H[xW]", "Height and width of the input, such as 256 or 256x192."),
]
_DTYPE = "Type of weights and input, for memory and time: float32, bfloat16, float16 or float64."
DtypeOption = Annotated[str, option("--dtype", "DTYPE", _DTYPE, MEASURING)]
CompileOption = Annotated[bool, option("--compile", "", "Measure after torch.compile.", MEASURING)]
ChannelsLastOption = Annotated[
    bool, option("--channels-last", "", "Measure with channels last in memory.", MEASURING)
]
_GPU = "a GPU where there is one"
DeviceOption = Annotated[
    str | None,
    option("--device", "DEVICE", "Run on this device, such as cpu or cuda:1.", RUNNING, show_default=_GPU),
]
_BATCH = "Give the model this many images or clips at once."
BatchSizeOption = Annotated[int, option("--batch-size", "N", _BATCH, RUNNING, min=1)]
_FIT = "32 on a GPU, 4 for each thread of a CPU"
EmbedBatchOption = Annotated[int | None, option("--batch-size", "N", _BATCH, RUNNING, min=1, show_default=_FIT)]
_THREADS = "one per processor, at most 4"
WorkersOption = Annotated[
    int | None,
    option("--workers", "N", "Read files in this many threads.", RUNNING, min=1, show_default=_THREADS),
]
_TRUST = "Read a .pt2 file, which can run any code: only if you know where it comes from."
TrustOption = Annotated[bool, option("--trust", "", _TRUST, RUNNING)]
BATCH_SIZE = 32


@contextmanager
def training_packages() -> Iterator[None]:
    """Explains errors of imports inside it: packages that are an extra of this library.

    Raises:
        ConfigError: a package is missing or broken.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this command needs {error.name}: pip install 'classy-vision-models[train]'"
        ) from None
    except RuntimeError as error:  # of a package that imports torchvision where there is one
        raise ConfigError(
            f"cannot import what training needs: {error}. If that names torchvision, it is not the "
            f"one for torch {version('torch')}: reinstall or remove it"
        ) from None
