"""``classy sample``: models drawn from a design space."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from classy_vision.cli.options import ForceOption, option

Region = Annotated[
    str,
    typer.Argument(
        metavar="REGION",
        help="A design space (anynet_x_a to anynet_x_e, regnet_x, regnet_y), or a YAML or JSON file with "
        "bounds.",
    ),
]
Count = Annotated[int, option("--count -n", "N", "Draw this many models.", min=1, max=100_000)]
_SEED = "Seed of the draws: the same seed gives the same files."
Seed = Annotated[int, option("--seed", "N", _SEED, min=0)]
_FOLDER = "samples/REGION"
Output = Annotated[Path | None, option("--output -o", "FOLDER", "The folder to write.", show_default=_FOLDER)]


def sample(
    region: Region, count: Count = 100, seed: Seed = 0, output: Output = None, force: ForceOption = False
) -> None:
    """Draw models from a design space, and write each as a config.

    A named space is that of the RegNet paper, from 360 to 400 million multiply-adds. To compare the models:
    classy compare FOLDER
    """
    from classy_vision.study.draw import describe
    from classy_vision.study.draw import sample as draw_samples
    from classy_vision.study.region import read_region
    from classy_vision.study.sample_folder import check_free, write_samples

    name, bounds = read_region(region)
    folder = Path(os.path.expanduser(output or Path("samples", name)))
    check_free(folder, force)
    samples = draw_samples(bounds, count, seed)
    write_samples(folder, samples, bounds, name, seed, force)
    models = "model" if count == 1 else "models"
    typer.echo(f"{count} {models} of {name}, seed {seed}: {folder}")
    smallest, largest = (pick(samples, key=lambda s: s.costs.macs) for pick in (min, max))
    typer.echo(f"from {', '.join(describe(smallest.costs))}")
    typer.echo(f"  to {', '.join(describe(largest.costs))}")
