"""The command ``clockwork config``, which shows and checks the effective configuration of another command."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from clockwork.cli.configuration import (
    ConfiguredCommand,
    Parameter,
    file_of,
    file_value,
    is_configurable,
    key_of,
    prefix_of,
    read_file,
    set_dry_run,
    toml,
    variable_of,
)
from clockwork.cli.options import AsJson, examples
from clockwork.host.child_environment import CONFIG_VARIABLE

EXAMPLES: Final = examples(
    "clockwork config serve --config clockwork.toml",
    "clockwork config serve models/resnet50.onnx --slo 25ms > clockwork.toml",
    "clockwork config --config clockwork.toml",
)


def config(
    ctx: typer.Context,
    command: Annotated[
        str | None,
        typer.Argument(
            metavar="[COMMAND]",
            help="serve, controller or worker, followed by its options; by default every command with a table in the "
            "file.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--config", envvar=CONFIG_VARIABLE, metavar="FILE", show_default="none", help="TOML file with options."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the effective configuration of a command and the source of each value, and check it.

    The output is a valid configuration file. The shown command is not run. The exit code is 2 if an option is wrong,
    and 1 for other errors.
    """
    commands = _commands(ctx)
    set_dry_run(ctx)
    if command is not None and command not in commands:
        raise typer.BadParameter(
            f"unknown command {command!r}; expected one of: {', '.join(commands)}, followed by its options",
            ctx=ctx,
            param_hint="COMMAND",
        )
    chosen = [command] if command is not None else _commands_in_file(file, commands)
    options = [] if file is None else [f"--config={file}"]
    contexts = [(name, _context(ctx, commands[name], name, [*options, *ctx.args])) for name in chosen]
    effective = {name: _effective(sub) for name, sub in contexts}
    if json:
        from clockwork.cli.output import show_json

        show_json({name: _json_values(values) for name, values in effective.items()})
    else:
        print("\n\n".join(_show(name, values) for name, values in effective.items()), flush=True)
    for name, sub in contexts:
        with sub:
            commands[name].invoke(sub)


_Effective = list[tuple[Parameter, Any, str]]
"""For each parameter, its value as in a configuration file, and its source. The value is None if a configuration file
cannot set the parameter.
"""


def _commands(ctx: typer.Context) -> dict[str, ConfiguredCommand]:
    all_commands: dict[str, Any] = getattr(ctx.find_root().command, "commands", {})
    return {name: command for name, command in all_commands.items() if isinstance(command, ConfiguredCommand)}


def _commands_in_file(file: str | None, commands: dict[str, ConfiguredCommand]) -> list[str]:
    if file is None:
        raise typer.BadParameter(
            f"no command is named; name one of: {', '.join(commands)}, or give a file with --config",
            param_hint="COMMAND",
        )
    known = {name: cast(list[Parameter], list(command.params)) for name, command in commands.items()}
    return list(read_file(Path(file), known))


def _context(ctx: typer.Context, command: ConfiguredCommand, name: str, arguments: list[str]) -> typer.Context:
    return cast(typer.Context, command.make_context(name, arguments, parent=cast(Any, ctx.parent)))


def _effective(ctx: typer.Context) -> _Effective:
    values: _Effective = []
    for param in cast(list[Parameter], ctx.command.params):
        if not is_configurable(param) or param.name not in ctx.params:
            continue
        source = getattr(ctx.get_parameter_source(param.name), "name", "DEFAULT")
        value = file_value(param, ctx.params[param.name], source != "DEFAULT")
        values.append((param, value, _source(ctx, param, source)))
    return values


def _source(ctx: typer.Context, param: Parameter, source: str) -> str:
    match source:
        case "COMMANDLINE":
            return "flag"
        case "ENVIRONMENT":
            return str(param.envvar or variable_of(ctx.info_name or "", param))
        case "DEFAULT_MAP":
            return str(file_of(ctx))
    return "default"


def _show(command: str, values: _Effective) -> str:
    lines = [f"[{command}]"]
    pairs = []
    for param, value, source in values:
        if value is None:
            default = getattr(param, "show_default", None)
            pairs.append((f"# {key_of(param)}:", default if isinstance(default, str) else "none"))
        else:
            pairs.append((f"{key_of(param)} = {toml(value)}", f"# {source}"))
    width = max((len(left) for left, _ in pairs), default=0)
    lines += [f"{left:<{width}}  {right}" for left, right in pairs]
    return "\n".join([*lines, *_unread_variables(command, values)])


def _json_values(values: _Effective) -> dict[str, Any]:
    return {key_of(param): {"value": value, "from": source} for param, value, source in values}


def _unread_variables(command: str, values: _Effective) -> list[str]:
    """Return a TOML comment for each environment variable that has the command's prefix but matches no option."""
    prefix = f"{prefix_of(command)}_"
    known = [variable_of(command, param) for param, _, _ in values]
    unread = sorted(name for name in os.environ if name.startswith(prefix) and name not in known)
    near = {name: get_close_matches(name, known, 1) for name in unread}
    return [
        f"# {name} is not an option's variable" + (f"; did you mean {matches[0]}?" if matches else "")
        for name, matches in near.items()
    ]
