"""The parameters of a command as keys and values of a file: which kind each takes, and how its value is written."""

import json
from pathlib import Path
from typing import Any, Final, TypeAlias

from typer.core import TyperArgument, TyperOption

from clockwork.net.address import Address
from clockwork.units import GIB, KIB, MIB, MICROSECOND, MILLISECOND, SECOND

Parameter: TypeAlias = TyperOption | TyperArgument

FILE_PARAMETER: Final = "config_file"
"""The parameter of each command that says which file."""

_DURATION: Final = "DURATION"
_SIZE: Final = "SIZE"
_NONE: Final = "none"


def key_of(param: Parameter) -> str:
    """``cache-size``: the option's name, as in a file."""
    return (param.name or "").replace("_", "-")


def is_set_by_users(param: Parameter) -> bool:
    """Whether a file may set it: not what is hidden, nor what says which file that is."""
    return not getattr(param, "hidden", False) and param.name != FILE_PARAMETER


def value_for(param: Parameter, value: Any) -> Any:
    """A value from a TOML file, as the parameter's own parser takes it.

    Raises:
        ValueError: it is of a kind that the parameter does not take; says what was found, and what would be right.
    """
    if param.nargs != 1 or getattr(param, "multiple", False):
        if isinstance(value, list) and all(isinstance(it, str) for it in value):
            return value
        raise ValueError(f'{_found(value)}; it must be an array of strings: ["a", "b"], say')
    kind = param.type_descriptor.annotation
    parsed = param.type_descriptor.parameter_info.parser is not None
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"{_found(value)}; it must be true or false, without quotes")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not parsed and kind in (int, float):
        if number and (kind is float or isinstance(value, int)):
            return value
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{_found(value)}; it must be {wanted}, without quotes")
    if isinstance(value, str):
        return value
    if number and param.metavar in (_DURATION, _SIZE):
        return str(value)
    raise ValueError(f'{_found(value)}; it must be a string: "...", in quotes')


def written(param: Parameter, value: Any, given: bool) -> Any:
    """An effective value as a file has it; None if it has none to write. ``given``: it is not the default."""
    match value:
        case None:
            return _NONE if given and param.type_descriptor.parameter_info.parser is not None else None
        case bool() | float() | str():
            return value
        case Address() | Path():
            return str(value)
        case int() if param.metavar == _DURATION:
            return _duration(value)
        case int() if param.metavar == _SIZE:
            return _size(value)
        case int():
            return value
        case list() | tuple():
            return [written(param, item, given) for item in value]
    raise TypeError(f"{key_of(param)} has a value that no file can have: {value!r}")


def toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _duration(nanos: int) -> str:
    for unit, name in ((SECOND, "s"), (MILLISECOND, "ms"), (MICROSECOND, "us")):
        if nanos % unit == 0:
            return f"{nanos // unit}{name}"
    return f"{nanos // MICROSECOND}.{nanos % MICROSECOND:03}us"


def _size(count: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count % unit == 0:
            return f"{count // unit}{name}"
    return f"{count}B"


def _found(value: Any) -> str:
    match value:
        case bool():
            return f"found {str(value).lower()}"
        case str() | int() | float() | list():
            return f"found {toml(value)}" if not isinstance(value, list) or value else "found []"
        case dict():
            return "found a table"
    return f"found {value}"
