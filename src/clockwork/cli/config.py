"""``clockwork config``: what a command would do, and why, without doing it."""

import os
from difflib import get_close_matches
from typing import Annotated, Any, Final, cast

import typer

from clockwork.cli.configuration import (
    CONFIG_VARIABLE,
    ConfiguredCommand,
    file_of,
    only_check,
    prefix_of,
    read_file,
    variable_of,
)
from clockwork.cli.options import AsJson, examples
from clockwork.cli.parameters import Parameter, is_set_by_users, key_of, toml, written

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
            help="serve, controller or worker, and then its options; none: all that the file has a table for.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--config", envvar=CONFIG_VARIABLE, metavar="FILE", show_default="none", help="The TOML file."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the configuration that a command would run with, and where each value comes from; and check it.

    What is printed is a file again. Nothing is started. The exit code is 2 if an option is wrong, 1 if something else
    is, as the command would say.
    """
    commands = _commands(ctx)
    only_check(ctx)
    if command is not None and command not in commands:
        raise typer.BadParameter(
            f"{command!r} is none of {', '.join(commands)}: say first which, and then its options",
            ctx=ctx,
            param_hint="COMMAND",
        )
    chosen = [command] if command is not None else _in_file(file, commands)
    given = [] if file is None else [f"--config={file}"]
    found = [(name, _context(ctx, commands[name], name, [*given, *ctx.args])) for name in chosen]
    effective = {name: _effective(sub) for name, sub in found}
    if json:
        from clockwork.cli.output import show_json

        show_json({name: _plain(values) for name, values in effective.items()})
    else:
        print("\n\n".join(_show(name, values) for name, values in effective.items()), flush=True)
    for name, sub in found:
        with sub:
            commands[name].invoke(sub)


_Effective = list[tuple[Parameter, Any, str]]
"""Each parameter, its value as a file has it (None: there is nothing to write), and where it comes from."""


def _commands(ctx: typer.Context) -> dict[str, ConfiguredCommand]:
    all_commands: dict[str, Any] = getattr(ctx.find_root().command, "commands", {})
    return {name: it for name, it in all_commands.items() if isinstance(it, ConfiguredCommand)}


def _in_file(file: str | None, commands: dict[str, ConfiguredCommand]) -> list[str]:
    from pathlib import Path

    if file is None:
        raise typer.BadParameter(
            f"say which: {', '.join(commands)}; or give a file with --config", param_hint="COMMAND"
        )
    known = {name: cast(list[Parameter], list(it.params)) for name, it in commands.items()}
    return list(read_file(Path(file), known))


def _context(ctx: typer.Context, command: ConfiguredCommand, name: str, arguments: list[str]) -> typer.Context:
    return cast(typer.Context, command.make_context(name, arguments, parent=cast(Any, ctx.parent)))


def _effective(ctx: typer.Context) -> _Effective:
    made: _Effective = []
    for param in cast(list[Parameter], ctx.command.params):
        if not is_set_by_users(param) or param.name not in ctx.params:
            continue
        source = getattr(ctx.get_parameter_source(param.name), "name", "DEFAULT")
        value = written(param, ctx.params[param.name], source != "DEFAULT")
        made.append((param, value, _source(ctx, param, source)))
    return made


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
            shown = getattr(param, "show_default", None)
            pairs.append((f"# {key_of(param)}:", shown if isinstance(shown, str) else "none"))
        else:
            pairs.append((f"{key_of(param)} = {toml(value)}", f"# {source}"))
    width = max((len(left) for left, _ in pairs), default=0)
    lines += [f"{left:<{width}}  {right}" for left, right in pairs]
    return "\n".join([*lines, *_strangers(command, values)])


def _plain(values: _Effective) -> dict[str, Any]:
    return {key_of(param): {"value": value, "from": source} for param, value, source in values}


def _strangers(command: str, values: _Effective) -> list[str]:
    """Environment variables that look as if they were meant for the command, and are not read."""
    prefix = f"{prefix_of(command)}_"
    known = [variable_of(command, param) for param, _, _ in values]
    strangers = sorted(name for name in os.environ if name.startswith(prefix) and name not in known)
    near = {name: get_close_matches(name, known, 1) for name in strangers}
    return [f"# {name} is not read" + (f": did you mean {it[0]}?" if it else "") for name, it in near.items()]
