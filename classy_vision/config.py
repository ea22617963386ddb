"""Typed, frozen configurations, and the errors that say what is wrong with one.

A configuration is a flat mapping of JSON values. Every family of models, every head and the
training job describe theirs once, with types, ranges and defaults; what a user hands over is
checked against that before any work is done.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from typing_extensions import Self

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Choice(str, Enum):
    """Named values of which a config gives one, in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class ConfigError(ValueError):
    """A configuration, name or argument that cannot be used; the message says what can."""


class UnknownNameError(ConfigError, KeyError):
    """A name that nothing is known by: a model, preset, head, block or key."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes


def first_line(error: BaseException) -> str:
    """What ``error`` says first; torch's go on with advice."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def unknown(kind: str, name: object, allowed: Iterable[str], where: str = "") -> UnknownNameError:
    """The error for ``name``, with the nearest allowed name, or all of them when they are few."""
    names = list(dict.fromkeys(allowed))
    close = _nearest(name, names)
    text = f"{where}: " if where else ""
    text += f"unknown {kind} {name!r}"
    if close:
        text += f"; did you mean {close!r}?"
    if 0 < len(names) <= 12 or not close:
        text += f" (allowed: {', '.join(names[:40]) or 'none'}{', …' if len(names) > 40 else ''})"
    return UnknownNameError(text)


def _nearest(name: object, names: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)), None)


class UnknownKeyWarning(UserWarning):
    """A config in the original's style has keys that mean nothing; they are left out."""


STRAYS: Mapping[str, str | None] = {"bot_mul": "bottleneck_multiplier", "freeze_trunk": None}
"""Keys of the original's own configs that it never read, and what was meant."""


def drop_unknown(
    data: Mapping[str, Any], known: Iterable[str], where: str, only_strays: bool
) -> dict[str, Any]:
    """``data`` without the keys that are not known, each of which a warning names.

    Args:
        data: a config.
        known: the keys that it may have.
        where: what it is of, for messages.
        only_strays: leave others than ``STRAYS`` in it, to be refused.
    """
    known = list(known)
    drop = [key for key in data if key not in known and (key in STRAYS or not only_strays)]
    for key in drop:
        near = STRAYS.get(key, _nearest(key, known))
        hint = f"; did you mean {near!r}?" if near in known else ""
        text = f"{where}: key {key!r} means nothing and is left out, as ClassyVision did{hint}"
        warnings.warn(text, UnknownKeyWarning, stacklevel=4)
    return {key: value for key, value in data.items() if key not in drop}


class Config(BaseModel):
    """Base of all configurations: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
        defer_build=True,  # at first use: imports stay quick
    )

    @classmethod
    def keys(cls) -> list[str]:
        """Every key that it takes."""
        return [*cls.model_fields, *_spellings(cls.model_fields.values())]

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str = "config", also: Iterable[str] = ()) -> Self:
        """Checks ``data`` (left unchanged) and returns it as a configuration.

        Lists and tuples are the same here, and numpy numbers are numbers.

        Args:
            data: the values.
            where: what they are of, for messages.
            also: keys that are allowed beside these but were taken out before.

        Raises:
            ConfigError: names every wrong key and value, what was allowed and the nearest key.
        """
        try:
            return cls.model_validate(_plain(data))
        except ValidationError as error:
            raise _explain(error, cls, where, also) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry) for entry in value)
    if not isinstance(value, (str, int, float)) and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _explain(error: ValidationError, cls: type[BaseModel], where: str, also: Iterable[str]) -> ConfigError:
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"] if re.fullmatch(r"\w+", str(part)))
        if problem["type"] == "extra_forbidden":
            owner, key = _owner(cls, problem["loc"])
            lines.append(
                str(unknown("key", key, [*owner, *also] if len(problem["loc"]) == 1 else owner, where))
            )
        elif problem["type"] == "missing":
            lines.append(f"{where}: key {path!r} is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = f"{path} = {problem['input']!r}: " if path else ""
            lines.append(f"{where}: {given}{message[:1].lower()}{message[1:]}")
    kind = UnknownNameError if all("unknown key" in line for line in lines) else ConfigError
    return kind("\n".join(lines))


def _owner(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], str]:
    """The keys allowed where the unknown key at ``loc`` stands, and that key."""
    fields = cls.model_fields
    for part in loc[:-1]:
        annotation = fields[str(part)].annotation if str(part) in fields else None
        inner = [
            a for a in (annotation, *get_args(annotation)) if inspect.isclass(a) and issubclass(a, BaseModel)
        ]
        if not inner:
            return [], ".".join(map(str, loc))
        fields = inner[0].model_fields
    return [*fields, *_spellings(fields.values())], str(loc[-1])


def _spellings(fields: Iterable[FieldInfo]) -> list[str]:
    """Further names of fields."""
    aliases = [field.validation_alias for field in fields]
    return [str(name) for a in aliases if isinstance(a, AliasChoices) for name in a.choices]


@cache
def config_of(function: Callable[..., Any]) -> type[Config]:
    """The configuration that a typed function or constructor takes: its parameters."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    parameters = list(inspect.signature(function).parameters.items())
    for name, parameter in parameters[1:] if parameters and parameters[0][0] == "self" else parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    return create_model(function.__qualname__.partition(".")[0] + "Config", __base__=Config, **fields)


def parse_yaml(text: str) -> Any:
    """The value that ``text`` describes in YAML; 1e-3 is a number, as in YAML 1.2.

    Raises:
        ConfigError: it is malformed.
    """
    import yaml  # an eighth of a second, which building a model from Python does not need

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if isinstance(key, str) and keys.count(key) > 1]:
                raise yaml.YAMLError(f"the key {twice[0]!r} stands there twice{node.start_mark}")
            return super().construct_mapping(node, deep)

    exponent = re.compile(r"[-+]?\d+[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, "-+0123456789")
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"malformed YAML: {error}") from None


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a YAML or JSON file that holds one mapping.

    Raises:
        ConfigError: the file is missing, unreadable, malformed or holds something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the config {str(path)!r}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{str(path)!r} is nested too deeply for a config") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not {type(data).__name__}")
    check_depth(data, repr(str(path)))
    return data


def check_depth(data: Any, where: str) -> None:
    """Raises where a config holds itself, as YAML's anchors allow, or is nested absurdly deep.

    Raises:
        ConfigError: it is.
    """
    level = {id(data): data}
    for _ in range(64):
        inner = (v.values() if isinstance(v, Mapping) else v for v in level.values())
        parts = (part for group in inner for part in group)
        level = {id(part): part for part in parts if isinstance(part, (Mapping, list, tuple))}
        if not level:
            return
    raise ConfigError(f"{where} holds itself, or is nested too deeply for a config")
