"""What the original had and this library does without: using it says what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn


class Removed:
    """An attribute of the original that is gone; reading it from an object raises."""

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        raise RuntimeError(f"{owner.__name__}.{self.name} is gone: {self.advice}")


NAMES = {
    "ClassyBlock": "blocks are plain modules; read one with model.features(x, [name])",
    "ClassyModelWrapper": "models are not wrapped; override forward in a subclass of ClassyModel",
    "ClassyModelHeadExecutorWrapper": "models are not wrapped; model(x) runs the heads itself",
    "_ClassyModelAdapter": "use ClassyModel.from_model(module, blocks=[...])",
    "ResStemCifar": "use build_model({'name': 'anynet', 'stem_type': 'res_stem_cifar', ...})",
    "ResStemIN": "use build_model({'name': 'anynet', 'stem_type': 'res_stem_in', ...})",
    "SimpleStemIN": "use build_model({'name': 'anynet', 'stem_type': 'simple_stem_in', ...})",
    "AnyStage": "stages are names: model.features(x, ['block2']) gives the end of stage 2",
}


def names_gone(module: str, presets: Iterable[str] = ()) -> Callable[[str], NoReturn]:
    """A module's ``__getattr__``: for a name of the original, what to write instead.

    Args:
        module: the module's name.
        presets: registered names, which in the original were classes (``RegNetY4gf``).
    """
    classes = {preset.replace("_", ""): preset for preset in presets}

    def explain(name: str) -> NoReturn:
        plain = re.sub(r"(\d)_(\d)", r"\1.\2", name).replace("_", "").lower()
        preset = classes.get(plain) or next((p for c, p in classes.items() if c.startswith(plain)), None)
        if name in NAMES:
            raise ImportError(f"{module}.{name} is gone: {NAMES[name]}")
        if preset and name[:1].isupper():
            raise ImportError(f"{module}.{name} is gone: presets are data; use build_model({preset!r})")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return explain
