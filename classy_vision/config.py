"""Typed, frozen configurations, and the errors that say what is wrong with one.

A configuration is a flat mapping of JSON values. Every family of models, every head and the
training job describe theirs once, with types, ranges and defaults; what a user hands over is
checked against that before any work is done.
"""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from typing_extensions import Self

from classy_vision.errors import MAX_SHOWN as MAX_SHOWN
from classy_vision.errors import ConfigError as ConfigError
from classy_vision.errors import OperationError as OperationError
from classy_vision.errors import UnknownNameError as UnknownNameError
from classy_vision.errors import find_match, find_nearest
from classy_vision.errors import first_line as first_line
from classy_vision.errors import shown as shown
from classy_vision.errors import system_error as system_error
from classy_vision.errors import unknown as unknown

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


MAX_CONFIG = 1 << 22
"""Bytes of a config; names of 20,000 classes are a tenth of that."""
MAX_ENTRIES = 100_000
"""Values in a config, those of an anchor counted wherever it is named."""
MAX_DEPTH = 64
"""Of lists and mappings in each other."""
MAX_PROBLEMS = 20
"""Wrong keys and values that a message names."""


class Choice(str, Enum):
    """Named values of which a config gives one, in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class UnknownKeyWarning(UserWarning):
    """A config in the original's style has keys that mean nothing; they are left out."""


UNREAD_KEYS: Mapping[str, str | None] = {"bot_mul": "bottleneck_multiplier", "freeze_trunk": None}
"""Keys of the original's own configs that it never read, and what was meant."""


def drop_unknown(
    data: Mapping[str, Any], known: Iterable[str], where: str, only_unread: bool
) -> dict[str, Any]:
    """``data`` without the keys that are not known, each of which a warning names.

    Args:
        data: a config.
        known: the keys that it may have.
        where: what it is of, for messages.
        only_unread: keep others than ``UNREAD_KEYS``, which are refused later.
    """
    known = list(known)
    drop = [key for key in data if key not in known and (key in UNREAD_KEYS or not only_unread)]
    for key in drop:
        near = UNREAD_KEYS.get(key, find_nearest(key, known))
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
    def known_keys(cls) -> list[str]:
        """Every key that it takes."""
        return [*cls.model_fields, *_aliases(cls.model_fields.values())]

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
            return cls.model_validate(_plain(data, where))
        except ValidationError as error:
            raise _explain(error, cls, where, also) from None

    def to_dict(self) -> dict[str, Any]:
        """The values by key, as peft asks the config of a model for them."""
        return self.model_dump()


def _plain(value: Any, where: str, *path: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry, where, *path, key) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry, where, *path, i) for i, entry in enumerate(value))
    if not isinstance(value, (str, int, float)) and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, int) and not fits_64_bits(value):
        key = ".".join(map(str, path))[:MAX_SHOWN]
        raise ConfigError(f"{where}: {key} = {shown(value)}: an integer has more than 64 bits")
    return value


def fits_64_bits(number: int) -> bool:
    """Whether it is a signed integer of 64 bits, as torch's sizes are."""
    return -(2**63) <= number < 2**63


def _explain(error: ValidationError, cls: type[BaseModel], where: str, also: Iterable[str]) -> ConfigError:
    problems = error.errors(include_url=False)
    lines = [_explain_one(problem, cls, where, also) for problem in problems[:MAX_PROBLEMS]]
    kind = UnknownNameError if all("unknown key" in line for line in lines) else ConfigError
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"{where}: and {len(problems) - MAX_PROBLEMS:,} more")
    return kind("\n".join(lines))


def _explain_one(problem: Any, cls: type[BaseModel], where: str, also: Iterable[str]) -> str:
    loc = problem["loc"]
    path = ".".join(str(part) for part in loc if re.fullmatch(r"\w+", str(part)))[:MAX_SHOWN]
    if problem["type"] == "extra_forbidden":
        owner, key = _owner(cls, loc)
        is_outer = len(loc) == 1
        allowed = [*owner, *also] if is_outer else owner
        inside = find_key(cls, key) if is_outer and find_nearest(key, allowed) is None else None
        hint = f"did you mean {inside!r}?" if inside else ""
        return str(unknown("key", key, allowed, where, hint))
    if problem["type"] == "missing":
        return f"{where}: key {path!r} is required"
    message = problem["msg"].removeprefix("Value error, ")
    given = f"{path} = {shown(problem['input'])}: " if path else ""
    return f"{where}: {given}{message[:1].lower()}{message[1:]}"


def find_key(cls: type[BaseModel], key: str) -> str | None:
    """The dotted path of ``key``, or of what another library calls so, in the sections of a config."""
    for name, field in cls.model_fields.items():
        if not isinstance(field.default, BaseModel) and field.discriminator is None:
            continue
        sections = (a for a in (field.annotation, *get_args(field.annotation)) if inspect.isclass(a))
        for section in sections:
            found = find_match(key, section.model_fields) if issubclass(section, BaseModel) else None
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
    return [*fields, *_aliases(fields.values())], str(loc[-1])


def _aliases(fields: Iterable[FieldInfo]) -> list[str]:
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
        ConfigError: it is malformed, too large for a config, or nested too deeply.
    """
    import yaml  # an eighth of a second, which building a model from Python does not need

    if len(text) > MAX_CONFIG:
        raise ConfigError(f"it is too large for a config: {len(text):,} characters, of at most {MAX_CONFIG:,}")
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]  # it is one of two
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(set(keys)) < len(keys):
                twice = next(key for key, times in Counter(keys).items() if times > 1)
                raise yaml.MarkedYAMLError(
                    problem=f"the key {twice!r} is there twice", problem_mark=node.start_mark
                )
            return super().construct_mapping(node, deep)

        def construct_yaml_int(self, node: Any) -> int:
            if len(node.value) <= MAX_SHOWN and fits_64_bits(number := super().construct_yaml_int(node)):
                return int(number)
            raise yaml.MarkedYAMLError(problem="an integer has more than 64 bits", problem_mark=node.start_mark)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    exponent = re.compile(r"[-+]?\d+[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, "-+0123456789")
    try:
        _check_events(yaml.parse(text, Loader))
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"malformed YAML: {_place(error)}") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # of values with a tag, and dates
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"malformed YAML: a value is not of its type: {first_line(error)}") from None


def _check_events(events: Iterable[Any]) -> None:
    """Raises where YAML describes more than a config holds, before anything is made of it.

    Raises:
        ConfigError: it holds itself, has too many values, or is nested too deeply.
    """
    sizes: dict[str, int] = {}  # of what an anchor names, once it is whole
    opened: list[tuple[str | None, int]] = []
    count = 0
    for event in events:
        kind, anchor = type(event).__name__, getattr(event, "anchor", None)
        if kind == "AliasEvent":
            if any(anchor == name for name, _ in opened):
                raise ConfigError("it holds itself")
            count += sizes.get(str(anchor), 0)
        elif kind in ("SequenceStartEvent", "MappingStartEvent"):
            opened.append((anchor, count))
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            name, before = opened.pop()
            if name is not None:
                sizes[name] = count - before + 1
        elif anchor is not None:
            sizes[anchor] = 1
        count += 1
        if len(opened) > MAX_DEPTH:
            raise ConfigError("it is nested too deeply for a config")
        if count > 2 * MAX_ENTRIES:  # keys are events, too
            raise ConfigError(f"it is too large for a config: more than {MAX_ENTRIES:,} values")


def _place(error: Exception) -> str:
    """What is wrong with YAML, and where, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if problem is None:
        return first_line(error)[:MAX_SHOWN]
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{problem[:MAX_SHOWN]}{where}"


def parse_json(text: str | bytes) -> Any:
    """The value that ``text`` describes in JSON.

    Raises:
        ConfigError: it is malformed, holds an integer of more than 64 bits, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_int=_parse_int)
    except RecursionError:
        raise ConfigError("it is nested too deeply") from None
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"malformed JSON: {error}") from None


def _parse_int(digits: str) -> int:
    if len(digits) > 20 or not fits_64_bits(number := int(digits)):
        raise ConfigError("an integer has more than 64 bits")
    return number


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a YAML or JSON file that holds one mapping.

    Raises:
        ConfigError: the file is missing, unreadable, malformed, too large or holds something else.
    """
    path = Path(path)
    where = f"cannot read the config {shown(str(path))}"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG + 1)
        if len(data) > MAX_CONFIG:
            raise ConfigError(f"it is too large for a config: more than {MAX_CONFIG:,} bytes")
        text = data.decode()
        found = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except OSError as error:
        raise system_error(error, where) from None
    except ValueError as error:
        raise ConfigError(f"{where}: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not {type(found).__name__}")
    check_nesting(found, repr(str(path)))
    return found


def check_nesting(data: Any, where: str) -> None:
    """Raises if a config holds itself, is nested absurdly deep, or says the same over and over.

    Raises:
        ConfigError: it does.
    """
    counted = count_nested(data)
    if counted is None:
        raise ConfigError(f"{where} holds itself, or is nested too deeply for a config")
    if counted[0] > MAX_ENTRIES:
        raise ConfigError(f"{where} is too large for a config: more than {MAX_ENTRIES:,} values")


def count_nested(data: Any, visit: Callable[[Any], None] | None = None) -> tuple[int, int] | None:
    """The number of entries of nested containers, and how many of those are there again.

    A container counts wherever it stands: as a tree, a few that are shared can be endless.

    Args:
        data: a container.
        visit: called with every entry.

    Returns:
        None if ``data`` holds itself or is nested too deeply.
    """
    level: dict[int, tuple[Any, int]] = {id(data): (data, 1)}
    entries = repeated = 0
    for _ in range(MAX_DEPTH + 1):
        below: dict[int, tuple[Any, int]] = {}
        for container, times in level.values():
            entries += times * len(container)
            repeated += (times - 1) * len(container)
            for part in container.values() if isinstance(container, Mapping) else container:
                if visit is not None:
                    visit(part)
                if isinstance(part, (Mapping, list, tuple, set)):
                    below[id(part)] = part, below.get(id(part), (part, 0))[1] + times
        if not below:
            return entries, repeated
        level = below
    return None
