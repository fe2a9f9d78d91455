"""Options from one TOML file and from the environment: ``clockwork serve``, ``controller`` and ``worker``.

Rules of the file: it knows no option by name. A command of the class `ConfiguredCommand` has a table of its own name,
with a key for each option and argument: whatever option is added has its key, and its environment variable, by that.
Flags go before the environment, that before the file, that before the defaults; Typer does that part.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, cast

import typer
from typer.core import TyperCommand

from clockwork.cli.parameters import Parameter, is_set_by_users, key_of, value_for

CONFIG_VARIABLE: Final = "CLOCKWORK_CONFIG"
"""Environment variable: the file, if no ``--config`` says which."""

FILE_BYTES_MOST: Final = 1 << 20
"""A longer file is no configuration."""

_FILE: Final = "clockwork.config_file"
_CHECK: Final = "clockwork.only_check"


class ConfiguredCommand(TyperCommand):
    """A command whose options may also come from a file and from the environment."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Typer makes it."""
        super().__init__(*args, **kwargs)
        self.context_settings["auto_envvar_prefix"] = prefix_of(self.name or "")
        for param in self.params:
            if not param.envvar:
                param.show_envvar = False  # type: ignore[attr-defined] # one rule for all is said once

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; what is wrong names the place where it stands."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            place = _place(ctx, cast(Parameter | None, error.param))
            if place:
                raise typer.BadParameter(error.message, ctx=ctx, param_hint=place) from None
            raise


def prefix_of(command: str) -> str:
    """``CLOCKWORK_SERVE``: what the environment variables of a command begin with."""
    return f"CLOCKWORK_{command.upper().replace('-', '_')}"


def variable_of(command: str, param: Parameter) -> str:
    """The environment variable of an option."""
    return f"{prefix_of(command)}_{(param.name or '').upper()}"


def use_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take defaults from the file; a callback of ``--config``, before any other option is looked at.

    Raises:
        typer.BadParameter: the file is no TOML, or has what no command knows.
    """
    if path is not None:
        known = _configurable(ctx)
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
        help="Take options from this TOML file; see docs/operations.md.",
    ),
]


def read_file(path: Path, commands: Mapping[str, "Iterable[Parameter]"]) -> dict[str, dict[str, Any]]:
    """The tables of a file, each as its command's parameters by name.

    Raises:
        typer.BadParameter: it cannot be read, or has a table, a key, or a kind of value that is not known.
    """
    tables: dict[str, dict[str, Any]] = {}
    for table, content in _toml(path).items():
        if table not in commands:
            hint = _nearest(table, [f"[{name}]" for name in commands], f"[{table}]")
            what = f"a table [{table}]" if isinstance(content, dict) else f"{table!r} outside of a table"
            raise _wrong(f"{path}: there is {what}, which nothing reads: {hint}")
        if not isinstance(content, dict):
            raise _wrong(f"{path}: {table} must be a table: write [{table}], and its keys below")
        tables[table] = _table(path, table, content, commands[table])
    return tables


def only_checked(ctx: typer.Context | None = None) -> bool:
    """Whether the command is to end before it does anything: it is run by ``clockwork config``."""
    ctx = ctx or _current()
    return bool(ctx is not None and ctx.meta.get(_CHECK))


def only_check(ctx: typer.Context) -> None:
    """Have commands that are invoked in this context end before they do anything."""
    ctx.meta[_CHECK] = True


def file_of(ctx: typer.Context) -> Path | None:
    """The file that was read."""
    found: Path | None = ctx.meta.get(_FILE)
    return found


def _table(path: Path, table: str, content: dict[str, Any], params: "Iterable[Parameter]") -> dict[str, Any]:
    known = {key_of(param): param for param in params if is_set_by_users(param)}
    values: dict[str, Any] = {}
    for written, value in content.items():
        key = written.replace("_", "-")
        if key not in known:
            raise _wrong(f"{path}: [{table}] has a key {written!r}, which nothing reads: {_nearest(key, known)}")
        name = known[key].name or ""
        if name in values:
            raise _wrong(f"{path}: [{table}] has {key} twice, with a hyphen and with an underscore: keep one")
        try:
            values[name] = value_for(known[key], value)
        except ValueError as error:
            raise _wrong(f"{path}: [{table}] {written}: {error}") from None
    return values


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MOST + 1)
        if len(data) > FILE_BYTES_MOST:
            raise _wrong(f"{path} has more than the {FILE_BYTES_MOST} bytes that are read")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise _wrong(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(f"{path} is no TOML: {error}") from None


def _nearest(found: str, known: Iterable[str], like: str = "") -> str:
    """What was probably meant."""
    names = sorted(known)
    near = get_close_matches(like or found, names, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"


def _wrong(text: str) -> typer.BadParameter:
    return typer.BadParameter(text, param_hint="--config")


def _place(ctx: Any, param: Parameter | None) -> str:
    """Where a value stands that is no flag; empty, if it is one."""
    if param is None:
        return ""
    source = getattr(ctx.get_parameter_source(param.name), "name", "")
    if source == "ENVIRONMENT":
        return f"the environment variable {param.envvar or variable_of(ctx.info_name, param)}"
    if source == "DEFAULT_MAP":
        return f"{key_of(param)} in [{ctx.info_name}] of {file_of(ctx)}"
    return ""


def _configurable(ctx: typer.Context) -> dict[str, list[Parameter]]:
    """The commands that have a table, and what they take."""
    commands: Mapping[str, Any] = getattr(ctx.find_root().command, "commands", {})
    found = {name: it for name, it in commands.items() if isinstance(it, ConfiguredCommand)}
    if not found and isinstance(ctx.command, ConfiguredCommand):
        found = {ctx.info_name or "": ctx.command}
    return {name: cast(list[Parameter], list(it.params)) for name, it in found.items()}


def _current() -> typer.Context | None:
    from typer._click.globals import get_current_context

    return cast(typer.Context | None, get_current_context(silent=True))


def environment_of_children() -> dict[str, str]:
    """The environment without what configures commands: a child is told by its arguments, and by nothing else."""
    ours = tuple(f"{prefix_of(command)}_" for command in ("serve", "controller", "worker"))
    return {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE and not name.startswith(ours)}
