"""What ``optimize`` tried, and what it measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """One engine.

    Attributes:
        engine: its name.
        milliseconds: of a call with the example, the median; None where it was not timed.
        build_seconds: what building took; None where it was not built.
        difference: the largest difference of an output from the model's, as a part of the largest value.
        note: why it was not tried, or what went wrong; "" where nothing did.
    """

    engine: str
    milliseconds: float | None = None
    build_seconds: float | None = None
    difference: float | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.milliseconds is None:
            return f"{self.engine:<12}{self.note}"
        numbers = f"{self.milliseconds:>10.2f} ms  built in {self.build_seconds:.1f} s"
        note = f"  {self.note}" if self.note else ""
        return f"{self.engine:<12}{numbers}  differs by {self.difference:.1e}{note}"


@dataclass(frozen=True)
class EngineReport:
    """All engines in the order in which they were tried; ``print(fast.report)`` shows it as a table.

    Attributes:
        chosen: the name of the engine that was kept.
        shape: of the example.
        dtype, threads: what they were built for.
        attempts: one for each engine.
        export_seconds: what exporting the model took, once for all engines that are built from that.
    """

    chosen: str
    shape: tuple[int, ...]
    dtype: str
    threads: int
    attempts: tuple[Attempt, ...]
    export_seconds: float = 0.0

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        shape = "x".join(map(str, self.shape))
        rows = [f"{'>' if a.engine == self.chosen else ' '} {a}" for a in self.attempts]
        exported = f", exported in {self.export_seconds:.1f} s" if self.export_seconds > 0.05 else ""
        return "\n".join([f"{shape}, {self.dtype}, {threads}{exported}", *rows])
