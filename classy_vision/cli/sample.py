"""``classy sample``: networks drawn from a design space."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def sample(
    region: Annotated[
        str,
        typer.Argument(
            metavar="REGION",
            help="A design space (anynet_x_a to anynet_x_e, regnet_x, regnet_y), or a YAML or JSON file "
            "with bounds.",
        ),
    ],
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=100_000, help="How many networks.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws: the same gives the same files.")] = 0,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to.", show_default="samples/REGION")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder of samples that is there.")] = False,
) -> None:
    """Draw networks from a design space, and write each as a config.

    A named space is that of the RegNet paper, from 360 to 400 million multiply-adds. Compare what
    was drawn with: classy compare FOLDER
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
    networks = "network" if count == 1 else "networks"
    typer.echo(f"{count} {networks} of {name}, seed {seed}: {folder}")
    smallest, largest = (pick(samples, key=lambda s: s.costs.macs) for pick in (min, max))
    typer.echo(f"from {', '.join(describe(smallest.costs))}")
    typer.echo(f"  to {', '.join(describe(largest.costs))}")
