"""What is about to be trained, in a few lines, so that a mistake shows before hours are spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch

from classy_vision.models import ClassyModel
from classy_vision.train.job import Job
from classy_vision.train.tasks import Regression, Task
from classy_vision.weights.report import Report

MOST = 12
"""Classes that are listed one by one."""


def plan(job: Job, model: ClassyModel, device: torch.device, processes: int) -> Iterator[str]:
    """The images of each part, the device, the parameters, the heads with their labels, and the weights.

    Args:
        job: what is trained.
        model: as it starts.
        device: of this process.
        processes: how many there are.
    """
    unit = job.settings.data.unit
    trained, held = len(job.records.rows(held_out=False)), len(job.records.rows(held_out=True))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    where += f" in each of {processes} processes" if processes > 1 else ""
    yield f"{trained:,} {unit}s to train on, {held:,} held out; {where}"
    sizes: Counter[bool] = Counter()
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    name = job.settings.model.get("name", type(model).__name__)
    yield f"{name}: {sizes[True]:,} parameters learn, {sizes[False]:,} are frozen"
    blocks = {str(head.unique_id): block for block, heads in model.get_heads().items() for head in heads}
    for head, task in job.tasks.items():
        yield f"head {head!r} at {blocks[head]}: {_labels(job, task)}"
    if model.loaded is not None:
        yield f"weights of {model.loaded.source}: {_heads(model.loaded, list(job.tasks))}"


def _labels(job: Job, task: Task) -> str:
    targets = job.targets[task.name][job.records.rows(held_out=False)]
    known = targets[task.valid(targets)]
    missing = len(targets) - len(known)
    rest = f"; {missing:,} without a label" if missing else ""
    if isinstance(task, Regression):
        return f"numbers, {known.min():.4g} to {known.max():.4g}, {known.double().mean():.4g} on average{rest}"
    counts = (known > 0).sum(0) if known.dim() == 2 else torch.bincount(known, minlength=len(task.classes))
    of_class = dict(zip(task.classes, counts.tolist()))
    if len(of_class) > MOST:
        rarest = min(of_class, key=of_class.__getitem__)
        said = f"{of_class[rarest]:,} ({rarest}) to {max(of_class.values()):,} {job.settings.data.unit}s each"
    else:
        said = ", ".join(f"{label} {count:,}" for label, count in of_class.items())
    return f"{len(of_class)} {'labels' if known.dim() == 2 else 'classes'}: {said}{rest}"


def _heads(report: Report, heads: list[str]) -> str:
    new = [head for head in heads if head in report.kept]
    kept = [head for head in heads if head not in report.kept]
    parts = {"go on": kept, "are new": new}
    return ", ".join(
        f"{'heads' if i == 0 else 'and'} {', '.join(names)} {verb}"
        for i, (verb, names) in enumerate((verb, names) for verb, names in parts.items() if names)
    )
