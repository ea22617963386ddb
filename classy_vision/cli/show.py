"""``classy show``: a model block by block."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.config import ConfigError, read_config
from classy_vision.run_files import RUN_CONFIG

if TYPE_CHECKING:
    from classy_vision.cost import Costs, Measured
    from classy_vision.cost.report import Report

CLASSES = 1000
ASSUMED = f"Heads that do not say their classes are shown with {CLASSES}: see --num-classes."
FILES = (".yaml", ".yml", ".json")
"""The config in the folder of a run."""


def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|CONFIG|RUN",
            help="A model's name, a YAML or JSON file (a model config or a training config), or a run folder.",
        ),
    ],
    num_classes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Classes of heads that do not say theirs, and of the default head where there "
            "is none; 0 shows no head.",
        ),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(metavar="H[xW]", help="Height and width of the input, such as 256 or 256x192."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run the model, and show how long it takes.")
    ] = False,
    batch: Annotated[int, typer.Option(metavar="N", help="Samples per batch, for memory and time.")] = 1,
    dtype: Annotated[
        str,
        typer.Option(help="Of weights and input, for memory and time: float32, bfloat16, float16, float64."),
    ] = "float32",
    device: Annotated[
        str, typer.Option(help="Whose memory is estimated, and where to measure: cpu, cuda or cuda:N.")
    ] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Measure after torch.compile.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Measure with channels in the last place in memory.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the trunk with its heads: .svg, .png, or .html to look around in."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a picture that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with exact numbers.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with exact numbers.")] = False,
) -> None:
    """Show a model block by block: shapes, parameters, multiply-adds, activations, memory and time.

    Heads stand behind the block that they read. The names in the first column are those that a
    head's fork_block and model.features take. "field" are the input pixels that one position sees,
    "infer" is what is alive while a step runs, and "train" what it keeps for the backward pass;
    terminals of fewer than 100 columns leave some of that out.
    """
    from classy_vision.text import dump

    if as_json and as_csv:
        dump(None, [], as_json, as_csv)
    source = read_model(model)  # before torch is imported: that takes seconds
    from classy_vision.cost import OnMeta, count
    from classy_vision.cost.inputs import with_classes
    from classy_vision.cost.memory import check_options
    from classy_vision.cost.report import plain, report
    from classy_vision.models import build_model

    check_options(batch, dtype, device)
    if not measure and (compiled or channels_last):
        raise ConfigError("--compile and --channels-last say how to --measure")
    if plot is not None:
        from classy_vision.cost.picture import check_picture
        from classy_vision.weights.files import check_target

        plot = check_picture(plot)
        check_target(plot, force=force, option="--plot")
    config = with_classes(source.config, CLASSES if num_classes is None and source.is_open else num_classes)
    with OnMeta():
        built = build_model(config)
    costs = count(built.eval(), _resized(built.input_shape, input_size or source.image_size))
    run = (batch, dtype, device)
    measured = _measure(config, costs, run, compile=compiled, channels_last=channels_last) if measure else None
    found = report(costs, *run, measured)
    if plot is not None:
        _draw(found, plot, config["name"])
    data = {"model": config["name"], **plain(found)}
    text = dump(data, data["steps"], as_json, as_csv)
    if text is not None:
        print(text)
    else:
        _print(found, config["name"], assumed=num_classes is None and config != source.config)


def _measure(config: dict[str, Any], costs: Costs, run: tuple[int, str, str], **options: bool) -> Measured:
    """Builds the model and measures it, if there is memory enough."""
    from classy_vision.cost import measure
    from classy_vision.cost.measure import check_device
    from classy_vision.cost.room import check_fits
    from classy_vision.models import build_model

    batch, dtype, device = run
    check_fits(costs, batch, dtype, check_device(device))
    model = build_model(config).eval()
    return measure(model, costs.input_shape, batch=batch, dtype=dtype, device=device, **options)


def _draw(found: Report, file: Path, name: str) -> None:
    from classy_vision.cost.picture import draw

    draw(found.costs, file, title=name, latency=found.measured.latencies if found.measured else None)
    print(f"drawn: {file}", file=sys.stderr)


def _print(found: Report, name: str, assumed: bool) -> None:
    from rich.console import Console

    from classy_vision.cost.table import notes, size, table

    console = Console(highlight=False)
    console.print(table(found, f"{name}, input {size(found.costs.input_shape)}", console.width))
    batch = "one input" if found.batch == 1 else f"a batch of {found.batch}"
    told = f"MACs (multiply-adds) and activations are for one input, memory for {batch} in {found.dtype}."
    for line in (*notes(found), *([ASSUMED] if assumed else []), told):
        console.print(line, style="dim")


@dataclass(frozen=True)
class Source:
    """What the command was given.

    Attributes:
        config: of the model.
        is_open: whether numbers of classes that it leaves out are said elsewhere, by the data.
        image_size: the input's, where it is said.
    """

    config: dict[str, Any]
    is_open: bool = False
    image_size: str | None = None


def read_model(given: str) -> Source:
    """The model that ``given`` names.

    Raises:
        ConfigError: it is neither a model's name nor a file with a model in it.
    """
    from classy_vision.presets import check_model, is_model

    path = Path(given)
    if os.path.isdir(path) and not is_model(given):
        path = path / RUN_CONFIG
        if not path.is_file():
            raise ConfigError(f"{given}: is no run folder: there is no {RUN_CONFIG} in it")
    if is_model(given) or not (path.suffix in FILES or os.path.isfile(path)):
        check_model(given)
        return Source({"name": given}, is_open=True)
    config = read_config(path)
    if "name" in config:
        return Source(config)
    model, data = config.get("model"), config.get("data")
    if isinstance(model, str):
        model = {"name": model}
    if not isinstance(model, dict):
        raise ConfigError(f"{given}: a model config has the key 'name', a training config the key 'model'")
    size = data.get("image_size") if isinstance(data, dict) else None
    return Source(model, is_open=True, image_size=None if size is None else str(size))


def _resized(shape: tuple[int, ...], size: str | None) -> tuple[int, ...]:
    from classy_vision.cost.inputs import parse_size

    wanted = parse_size(size)
    if wanted is None:
        return shape
    if len(shape) < 3:
        raise ConfigError(f"input size {size!r}: the model takes inputs {shape}, not images")
    return (*shape[:-2], *wanted)
