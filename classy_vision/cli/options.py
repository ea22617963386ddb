"""Options that several commands have, each with one name and one meaning; and packages that are an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.metadata import version
from typing import Annotated

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


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        metavar="table|json|csv",
        help="Print a table, or JSON or CSV with exact numbers.",
        rich_help_panel=OUTPUT,
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing files.", rich_help_panel=OUTPUT)]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size", metavar="H[xW]", help="Height and width of the input, such as 256 or 256x192."
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Type of weights and input, for memory and time: float32, bfloat16, float16 or float64.",
        rich_help_panel=MEASURING,
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Measure after torch.compile.", rich_help_panel=MEASURING)
]
ChannelsLastOption = Annotated[
    bool,
    typer.Option("--channels-last", help="Measure with channels last in memory.", rich_help_panel=MEASURING),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Run on this device, such as cpu or cuda:1.",
        show_default="a GPU where there is one",
        rich_help_panel=RUNNING,
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        "--batch-size",
        min=1,
        metavar="N",
        help="Give the model this many images or clips at once.",
        rich_help_panel=RUNNING,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Read files in this many threads.",
        show_default="one per processor, at most 4",
        rich_help_panel=RUNNING,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Read a .pt2 file, which can run any code: only if you know where it comes from.",
        rich_help_panel=RUNNING,
    ),
]
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
