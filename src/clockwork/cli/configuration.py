"""Reads options from a TOML file and from the environment, for ``clockwork serve``, ``controller`` and ``worker``.

Each command of the class `ConfiguredCommand` has a table in the file. The table's name is the name of the command. A
command's table has a key for each option and argument. The key and the environment variable are derived from the
option's name, so a new option needs no code here. If an option is set in several places, the order of precedence is:
flag, environment, file, default. Typer applies the values in this order.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, cast

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from clockwork.errors import InvalidRequestError
from clockwork.host.child_environment import CONFIG_VARIABLE
from clockwork.net.address import Address
from clockwork.units import GIB, KIB, MIB, MICROSECOND, MILLISECOND, SECOND, Bytes

Parameter: TypeAlias = TyperOption | TyperArgument

MAX_FILE_BYTES: Final[Bytes] = MIB
"""Size in bytes of the largest configuration file."""

FILE_PARAMETER: Final = "config_file"
"""Name of the parameter that contains the path of the file, in every command."""

_DURATION: Final = "DURATION"
_SIZE: Final = "SIZE"
_NONE: Final = "none"
_FILE: Final = "clockwork.config_file"
_DRY_RUN: Final = "clockwork.dry_run"


class ConfiguredCommand(TyperCommand):
    """A command whose options can also be set in a file and in the environment."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create a command, and set the prefix of its environment variables.

        The arguments are passed to Typer's class.
        """
        super().__init__(*args, **kwargs)
        self.context_settings["auto_envvar_prefix"] = prefix_of(self.name or "")
        for param in self.params:
            if not param.envvar:
                param.show_envvar = False  # type: ignore[attr-defined] # the docs describe one rule for all variables

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        If a value from the file or the environment is wrong, the error names its key or variable.
        """
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            place = _place(ctx, cast(Parameter | None, error.param))
            if place:
                raise typer.BadParameter(error.message, ctx=ctx, param_hint=place) from None
            raise


# ------------------------------------------------------------------------------------------------ names


def prefix_of(command: str) -> str:
    """Return the prefix of a command's environment variables, for example ``CLOCKWORK_SERVE``."""
    return f"CLOCKWORK_{command.upper().replace('-', '_')}"


def variable_of(command: str, param: Parameter) -> str:
    """Return the environment variable of an option."""
    return f"{prefix_of(command)}_{(param.name or '').upper()}"


def key_of(param: Parameter) -> str:
    """Return the key of an option in a file, for example ``cache-size``."""
    return (param.name or "").replace("_", "-")


def is_configurable(param: Parameter) -> bool:
    """Return whether a file may set the option. A file may not set hidden options and the path of the file itself."""
    return not getattr(param, "hidden", False) and param.name != FILE_PARAMETER


# --------------------------------------------------------------------------------------------- the file


def use_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Use the values in the file as defaults. Typer calls this for ``--config`` before it parses other options.

    Raises:
        typer.BadParameter: the file is not valid TOML, or has an unknown table or key.
    """
    if path is not None:
        known = _configurable_commands(ctx)
        tables = read_file(path, known)
        ctx.meta[_FILE] = path
        ctx.default_map = tables.get(ctx.info_name or "", {})
    return path


ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=CONFIG_VARIABLE,
        is_eager=True,
        callback=use_file,
        metavar="FILE",
        show_default="none",
        help="TOML file with options; see docs/operations.md.",
    ),
]


def read_file(path: Path, commands: Mapping[str, "Iterable[Parameter]"]) -> dict[str, dict[str, Any]]:
    """Return the tables of a file. In each table, the keys are the names of the command's parameters.

    Raises:
        typer.BadParameter: the file cannot be read, a table or key is unknown, or a value has a wrong type.
    """
    tables: dict[str, dict[str, Any]] = {}
    for table, content in _read_toml(path).items():
        if table not in commands:
            hint = _suggestion(table, [f"[{name}]" for name in commands], f"[{table}]")
            what = f"unknown table [{table}]" if isinstance(content, dict) else f"{table!r} is outside of a table"
            raise _file_error(f"{path}: {what}; {hint}")
        if not isinstance(content, dict):
            raise _file_error(f"{path}: {table} must be a table; write [{table}] and put its keys below")
        tables[table] = _read_table(path, table, content, commands[table])
    return tables


def read_text(path: Path, max_bytes: Bytes) -> str:
    """Return the content of a UTF-8 file, without a byte order mark.

    Raises:
        InvalidRequestError: the file cannot be read, is larger than ``max_bytes``, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise InvalidRequestError(f"{path} is larger than the limit of {max_bytes} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path} is not UTF-8 text") from None


def file_of(ctx: typer.Context) -> Path | None:
    """Return the path of the configuration file that was read, or None if there is no file."""
    path: Path | None = ctx.meta.get(_FILE)
    return path


def _read_table(path: Path, table: str, content: dict[str, Any], params: "Iterable[Parameter]") -> dict[str, Any]:
    known = {key_of(param): param for param in params if is_configurable(param)}
    values: dict[str, Any] = {}
    for spelling, value in content.items():
        key = spelling.replace("_", "-")
        if key not in known:
            raise _file_error(f"{path}: unknown key {spelling!r} in [{table}]; {_suggestion(key, known)}")
        name = known[key].name or ""
        if name in values:
            raise _file_error(f"{path}: [{table}] sets {key} twice, with a hyphen and with an underscore; remove one")
        try:
            values[name] = parser_input(known[key], value)
        except ValueError as error:
            raise _file_error(f"{path}: {spelling} in [{table}] {error}") from None
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, MAX_FILE_BYTES))
    except InvalidRequestError as error:
        raise _file_error(str(error)) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _file_error(f"{path} is not valid TOML: {error}") from None


def _suggestion(wrong: str, known: Iterable[str], like: str = "") -> str:
    names = sorted(known)
    near = get_close_matches(like or wrong, names, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of: {', '.join(names)}"


def _file_error(text: str) -> typer.BadParameter:
    return typer.BadParameter(text, param_hint="--config")


def _place(ctx: Any, param: Parameter | None) -> str:
    """Return the key or the environment variable that set a value. Return an empty text if a flag set the value."""
    if param is None:
        return ""
    source = getattr(ctx.get_parameter_source(param.name), "name", "")
    if source == "ENVIRONMENT":
        return f"the environment variable {param.envvar or variable_of(ctx.info_name, param)}"
    if source == "DEFAULT_MAP":
        return f"{key_of(param)} in [{ctx.info_name}] of {file_of(ctx)}"
    return ""


def _configurable_commands(ctx: typer.Context) -> dict[str, list[Parameter]]:
    """Return the parameters of each command that has a table."""
    commands: Mapping[str, Any] = getattr(ctx.find_root().command, "commands", {})
    found = {name: command for name, command in commands.items() if isinstance(command, ConfiguredCommand)}
    if not found and isinstance(ctx.command, ConfiguredCommand):
        found = {ctx.info_name or "": ctx.command}
    return {name: cast(list[Parameter], list(command.params)) for name, command in found.items()}


# --------------------------------------------------------------------------------------------- dry runs


def is_dry_run(ctx: typer.Context | None = None) -> bool:
    """Return whether ``clockwork config`` runs the command. The command must then only check its options."""
    ctx = ctx or _current_context()
    return bool(ctx is not None and ctx.meta.get(_DRY_RUN))


def set_dry_run(ctx: typer.Context) -> None:
    """Make the commands of this context stop after they have checked their options."""
    ctx.meta[_DRY_RUN] = True


def _current_context() -> typer.Context | None:
    from typer._click.globals import get_current_context

    return cast(typer.Context | None, get_current_context(silent=True))


# ----------------------------------------------------------------------------------------------- values


def parser_input(param: Parameter, value: Any) -> Any:
    """Convert a value from a TOML file to the form that the parser of the parameter expects.

    Raises:
        ValueError: the value has a wrong type. The message contains the value and the expected type.
    """
    if param.nargs != 1 or getattr(param, "multiple", False):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise ValueError(f'is {_shown(value)}; expected an array of strings, for example ["a", "b"]')
    kind = param.type_descriptor.annotation
    parsed = param.type_descriptor.parameter_info.parser is not None
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"is {_shown(value)}; expected true or false, without quotes")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not parsed and kind in (int, float):
        if number and (kind is float or isinstance(value, int)):
            return value
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f"is {_shown(value)}; expected {expected}, without quotes")
    if isinstance(value, str):
        return value
    if number and param.metavar in (_DURATION, _SIZE):
        return str(value)
    raise ValueError(f"is {_shown(value)}; expected a string, in quotes")


def file_value(param: Parameter, value: Any, is_set: bool) -> Any:
    """Convert an effective value to its form in a file. Return None if a file cannot contain the value.

    ``is_set`` is false if the value is the default.
    """
    match value:
        case None:
            return _NONE if is_set and param.type_descriptor.parameter_info.parser is not None else None
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
            return [file_value(param, item, is_set) for item in value]
    raise TypeError(f"{key_of(param)} has a value that no file can hold: {value!r}")


def toml(value: Any) -> str:
    """Return a value as TOML."""
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


def _shown(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float() | list():
            return toml(value) if not isinstance(value, list) or value else "[]"
        case dict():
            return "a table"
    return str(value)
