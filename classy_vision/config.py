"""Typed, frozen configurations, and the errors that say what is wrong with one.

A configuration is a flat mapping of JSON values. Every family of models, every head and the
training job describe theirs once, with types, ranges and defaults; what a user hands over is
checked against that before any work is done.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from typing_extensions import Self

from classy_vision.errors import ConfigError as ConfigError
from classy_vision.errors import OperationError as OperationError
from classy_vision.errors import UnknownNameError as UnknownNameError
from classy_vision.errors import first_line as first_line
from classy_vision.errors import nearest, same
from classy_vision.errors import shown as shown
from classy_vision.errors import system_error as system_error
from classy_vision.errors import unknown as unknown

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
            is_outer = len(problem["loc"]) == 1
            allowed = [*owner, *also] if is_outer else owner
            inside = find_key(cls, key) if is_outer and nearest(key, allowed) is None else None
            hint = f"did you mean {inside!r}?" if inside else ""
            lines.append(str(unknown("key", key, allowed, where, hint)))
        elif problem["type"] == "missing":
            lines.append(f"{where}: key {path!r} is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = f"{path} = {problem['input']!r}: " if path else ""
            lines.append(f"{where}: {given}{message[:1].lower()}{message[1:]}")
    kind = UnknownNameError if all("unknown key" in line for line in lines) else ConfigError
    return kind("\n".join(lines))


def find_key(cls: type[BaseModel], key: str) -> str | None:
    """The dotted path of ``key``, or of what another library calls so, in the sections of a config."""
    for name, field in cls.model_fields.items():
        if not isinstance(field.default, BaseModel) and field.discriminator is None:
            continue
        sections = (a for a in (field.annotation, *get_args(field.annotation)) if inspect.isclass(a))
        for section in sections:
            found = same(key, section.model_fields) if issubclass(section, BaseModel) else None
            if found:
                return f"{name}.{found}"
    return None


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
