"""The original, classy_vision 0.7.0: a contender in a process and an environment of its own.

Its package has the name of ours, so it is installed into ``build/original`` (``make bench`` does it), and
only the process that is started here sees it. That process reads a line of JSON per request, which
names a function of ``TASKS`` and its arguments, and answers with a line of JSON. It times a call when
it is asked to, so the original takes turns with all others, and the pipe is not timed.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import LOGITS, channels_last, training_step
from benchmarks.timing import Run, clocked

NAME = "the original"
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "original"

_LINEAR = {"name": "fully_connected", "unique_id": "default_head", "num_classes": 1000}
_TOKENS = {**_LINEAR, "name": "vision_transformer_head", "in_plane": 768, "fork_block": "trunk_output"}
_RESNET_HEAD = {**_LINEAR, "in_plane": 2048, "fork_block": "block3-2"}
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet50": {"name": "resnet50", "heads": [_RESNET_HEAD]},
    "resnext50_32x4d": {"name": "resnext50_32x4d", "heads": [_RESNET_HEAD]},
    "regnet_y_1.6gf": {
        "name": "regnet_y_1.6gf",
        "heads": [{**_LINEAR, "in_plane": 888, "fork_block": "trunk_output"}],
    },
    "densenet121": {
        "name": "densenet",
        "num_blocks": [6, 12, 24, 16],
        "heads": [{**_LINEAR, "in_plane": 1024, "fork_block": "trunk_output"}],
    },
    "efficientnet_b0": {  # its classifier belongs to the trunk
        "name": "efficientnet",
        "model_name": "B0",
        "num_classes": 1000,
        "bn_momentum": 0.01,
        "bn_epsilon": 1e-5,  # as the peers; the preset has 1e-3
        "width_divisor": 8,
        "min_width": None,
        "drop_connect_rate": 0.0,
        "use_se": True,
    },
    "vit_b_16": {"name": "vit_b_16", "image_size": 224, "heads": [_TOKENS]},
    "slow_r50": {
        "name": "resnext3d",
        "input_planes": 3,
        "clip_crop_size": 224,
        "frames_per_clip": 8,
        "skip_transformation_type": "postactivated_shortcut",
        "residual_transformation_type": "postactivated_bottleneck_transformation",
        "stem_planes": 64,
        "stem_temporal_kernel": 1,
        "stem_maxpool": True,
        "num_groups": 1,
        "width_per_group": 64,
        "num_blocks": [3, 4, 6, 3],
        "temporal_conv_1x1": [True] * 4,
        "stage_temporal_kernel_basis": [[1], [1], [3], [3]],
        "stage_temporal_stride": [1] * 4,
        "heads": [{**LOGITS, "in_plane": 2048, "fork_block": "pathway0-stage4-block2", "use_dropout": False}],
    },
}
"""What the original is given for our presets."""


def there(name: str = "resnet50") -> bool:
    """Whether the original is installed and knows the model."""
    return _installed() and name in CONFIGS


def note() -> list[str]:
    """A word for the output where it is left out."""
    return [] if _installed() else [f"{NAME} is left out: {FOLDER.relative_to(ROOT)} does not have it"]


def _installed() -> bool:
    return (FOLDER / "classy_vision").is_dir()


def environment() -> dict[str, str]:
    """Of a process that sees the original and not us, but for these benchmarks."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


# -- here


class Original:
    """A process with the original in it, while the context lasts."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.original", str(torch.get_num_threads())],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Original:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)  # its input ends, and so does it

    def ask(self, task: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([task, arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:  # it has said why
            raise SystemExit(f"{NAME} has ended with status {self._process.wait()}")
        return json.loads(answer)

    def build(self, name: str) -> Run:
        """Building the model of our ``name``, timed."""
        return lambda: self.ask("build", CONFIGS[name])

    def load(
        self, name: str, ours: nn.Module, x: Tensor, target: Tensor | None = None, *, tap: str | None = None
    ) -> None:
        """Gives it the weights of our model, an input and its classes.

        Args:
            name: of our preset.
            ours: the model.
            x: the input.
            target: classes, for training.
            tap: the block whose feature is the output, in place of the classes'.
        """
        config = CONFIGS[name]
        if tap:
            config = {**config, "heads": [{"name": "identity", "unique_id": "tap", "fork_block": tap}]}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "case.pt"
            torch.save({"state": ours.get_classy_state(), "x": x, "target": target}, path)
            self.ask("load", config, str(path))

    def forward(self, mode: str) -> tuple[Tensor, Run]:
        """The output of the model that has been loaded, and a timed forward pass.

        Args:
            mode: "plain" or "channels last".
        """
        index = self.ask("forward", mode)
        return torch.tensor(self.ask("output", index)), lambda: self.ask("time", index)

    def step(self, mode: str) -> Run:
        """A timed training step; see ``training_step``."""
        index = self.ask("step", mode)
        return lambda: self.ask("time", index)


# -- there

_loaded: dict[str, Any] = {}
_calls: list[Callable[[], Any]] = []


def _build(config: dict[str, Any]) -> float:
    from classy_vision.models import build_model

    return clocked(lambda: build_model(config))()


def _load(config: dict[str, Any], path: str) -> None:
    from classy_vision.models import build_model

    _loaded.update(torch.load(path))
    model = build_model(config)
    state = model.get_classy_state()
    given = _loaded["state"]["model"]
    [head] = [values for entries in given["heads"].values() for values in entries.values()]
    for entries in state["model"]["heads"].values():  # the same head, at a block of another name
        entries.update({key: head if values else values for key, values in entries.items()})
    state["model"]["trunk"] = given["trunk"]
    model.set_classy_state(state)
    _loaded["model"] = model.eval()
    _calls.clear()


def _model(mode: str) -> tuple[Any, Tensor]:
    model, x = copy.deepcopy(_loaded["model"]), _loaded["x"]
    layout = torch.contiguous_format if mode == "plain" else channels_last(x)
    return model.to(memory_format=layout), x.to(memory_format=layout)


def _forward(mode: str) -> int:
    model, x = _model(mode)

    @torch.inference_mode()
    def call() -> Tensor:
        return model(x)

    _calls.append(call)
    return len(_calls) - 1


def _step(mode: str) -> int:
    _calls.append(training_step(copy.deepcopy(_loaded["model"]), mode, _loaded["x"], _loaded["target"]))
    return len(_calls) - 1


TASKS: dict[str, Callable[..., Any]] = {
    "build": _build,
    "load": _load,
    "forward": _forward,
    "step": _step,
    "output": lambda index: _calls[index]().tolist(),
    "time": lambda index: clocked(_calls[index])(),
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the original prints is no answer
    torch.set_num_threads(int(sys.argv[1]))
    import classy_vision

    found = Path(classy_vision.__file__)
    if FOLDER not in found.parents:
        raise SystemExit(f"{NAME} should be in {FOLDER}, and is {found}")
    for line in sys.stdin:
        task, arguments = json.loads(line)
        print(json.dumps(TASKS[task](*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
