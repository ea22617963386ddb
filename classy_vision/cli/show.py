"""``classy show``: a model block by block."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.options import (
    MEASURING,
    OUTPUT,
    WORDS,
    ChannelsLastOption,
    CompileOption,
    DtypeOption,
    ForceOption,
    Format,
    FormatOption,
    ImageSizeOption,
    option,
)
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.cost import Costs, Measured
    from classy_vision.cost.report import Report

CLASSES = 1000
ASSUMED = f"Heads without a number of classes are shown with {CLASSES}: see --num-classes."
Word = Annotated[str, typer.Argument(metavar="MODEL", help=f"The model: {WORDS}.")]
_CLASSES = (
    "Classes of heads that do not give their number, and of the default head if there is no head; 0 "
    "shows no head."
)
NumClasses = Annotated[int | None, option("--num-classes", "N", _CLASSES, min=0)]
Measure = Annotated[bool, option("--measure", "", "Run the model, and show how long it takes.", MEASURING)]
BatchSize = Annotated[int, option("--batch-size", "N", "Samples per batch, for memory and time.", MEASURING)]
_DEVICE = "Estimate memory for this device, and measure on it: cpu, cuda or cuda:N."
Device = Annotated[str, option("--device", "DEVICE", _DEVICE, MEASURING)]
_PLOT = "Draw the trunk with its heads, as .svg, .png or an interactive .html."
Plot = Annotated[Path | None, option("--plot", "FILE", _PLOT, OUTPUT)]


def show(
    model: Word,
    num_classes: NumClasses = None,
    image_size: ImageSizeOption = None,
    measure: Measure = False,
    batch_size: BatchSize = 1,
    dtype: DtypeOption = "float32",
    device: Device = "cpu",
    compiled: CompileOption = False,
    channels_last: ChannelsLastOption = False,
    plot: Plot = None,
    force: ForceOption = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show a model block by block: shapes, parameters, multiply-adds, activations, memory and time.

    Each head follows the block that it reads. fork_block of a head and model.features take the names in the
    first column. "field" is the receptive field, in input pixels; "infer" is the memory in use while a step
    runs, and "train" what it keeps for the backward pass. Narrow terminals leave some of that out.
    """
    from classy_vision.identify.networks import find_network

    network = find_network(model, "classy show")  # before torch is imported, which takes seconds
    from classy_vision.cost import OnMeta, count
    from classy_vision.cost.inputs import parse_size, with_classes
    from classy_vision.cost.memory import check_options
    from classy_vision.cost.picture import check_picture
    from classy_vision.cost.report import list_values, report
    from classy_vision.models import build_model
    from classy_vision.text import dump

    check_options(batch_size, dtype, device)
    if not measure and (compiled or channels_last):
        raise ConfigError("--compile and --channels-last say how to --measure")
    plot = plot and check_picture(plot, force, "--plot")
    is_assumed = num_classes is None and network.has_open_heads
    config = with_classes(network.config, CLASSES if is_assumed else num_classes)
    with OnMeta():
        built = build_model(config)
    costs = count(built.eval(), _resize(built.input_shape, parse_size(image_size) or network.image_size))
    run = (batch_size, dtype, device)
    measured = _measure(config, costs, run, compile=compiled, channels_last=channels_last) if measure else None
    found = report(costs, *run, measured)
    if plot is not None:
        _draw(found, plot, config["name"])
    data = {"model": config["name"], **list_values(found)}
    if (text := dump(data, data["steps"], format.value)) is not None:
        print(text)
    else:
        _print(found, config["name"], is_assumed and config != network.config)


def _measure(config: dict[str, Any], costs: Costs, run: tuple[int, str, str], **options: bool) -> Measured:
    """Builds the model and measures it, if there is memory enough."""
    from classy_vision.cost import measure
    from classy_vision.cost.free_memory import check_fits
    from classy_vision.cost.measure import check_device
    from classy_vision.models import build_model

    batch, dtype, device = run
    check_fits(costs, batch, dtype, check_device(device))
    model = build_model(config).eval()
    return measure(model, costs.input_shape, batch=batch, dtype=dtype, device=device, **options)


def _draw(found: Report, file: Path, name: str) -> None:
    from classy_vision.cost.picture import draw

    draw(found.costs, file, title=name, latency=found.measured.latencies if found.measured else None)
    print(f"drawn: {file}", file=sys.stderr)


def _print(found: Report, name: str, is_assumed: bool) -> None:
    from rich.console import Console

    from classy_vision.cost.report import make_grid, write_notes
    from classy_vision.text import size

    console = Console(highlight=False)
    console.print(make_grid(found, f"{name}, input {size(found.costs.input_shape)}", console.width).table())
    batch = "one input" if found.batch == 1 else f"a batch of {found.batch}"
    units = f"MACs (multiply-adds) and activations are for one input, memory for {batch} in {found.dtype}."
    for line in (*write_notes(found), *([ASSUMED] if is_assumed else []), units):
        console.print(line, style="dim")


def _resize(shape: tuple[int, ...], size: tuple[int, int] | None) -> tuple[int, ...]:
    if size is None:
        return shape
    if len(shape) < 3:
        raise ConfigError(f"image size {size}: the model takes inputs {shape}, not images")
    return (*shape[:-2], *size)
