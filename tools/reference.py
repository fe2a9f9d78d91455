"""Generates sections of the documentation: commands, configuration keys and HTTP paths.

A page contains a marker such as ``<!-- generated: commands -->``. `filled_in` replaces the marker by Markdown, which is
generated from the program itself. `docs/conf.py` calls this function for each page of the site. The command
``python tools/reference.py commands`` prints one section.
"""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import typer

from clockwork import __version__
from clockwork.cli.app import app
from clockwork.cli.configuration import ConfiguredCommand, is_configurable, key_of, variable_of
from clockwork.oip.openapi import document

MARKER: Final = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)


def filled_in(page: str, text: str) -> str:
    """Return ``text`` with each marker replaced by its section.

    Raises:
        KeyError: no section has the name in a marker.
    """
    return MARKER.sub(lambda found: SECTIONS[found[1]](), text)


def commands() -> str:
    """Return a section for each command, with its usage, help, options and examples."""
    return "\n".join(line for path, command in _commands() for line in _command(path, command))


def configuration() -> str:
    """Return a table for each command that reads a configuration file.

    The columns are the key, the environment variable, the default and the meaning of an option.
    """
    return "\n".join(
        line
        for path, command in _commands()
        if isinstance(command, ConfiguredCommand)
        for line in _keys(path.rpartition(" ")[2], command)
    )


def http_paths() -> str:
    """Return a table of the paths that the HTTP front end serves. The table is generated from the OpenAPI document."""
    lines = ["| method | path | purpose |", "|---|---|---|"]
    for path, methods in document(__version__).get("paths", {}).items():
        for method, operation in methods.items():
            if isinstance(operation, dict) and "responses" in operation:
                summary = operation.get("summary") or operation.get("operationId", "")
                lines.append(f"| {method.upper()} | `{path}` | {_cell(summary)} |")
    return "\n".join(lines) + "\n"


def _commands() -> Iterator[tuple[str, Any]]:
    """Yield each command with its full name, such as ``clockwork zoo build``. Groups of commands are left out."""

    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path, command
            return
        for name, child in inner.items():
            yield from walk(f"{path} {name}", child)

    return walk("clockwork", typer.main.get_command(app))


def _command(path: str, command: Any) -> Iterator[str]:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    usage = " ".join([path, "[OPTIONS]" * bool(options), *(_argument(param) for param in arguments)])
    text = _paragraphs(command.help or command.short_help or "")
    yield from (f"## {path}", "", "```text", usage, "```", "", text, "")
    if any(_help(param) for param in arguments):
        yield from ("| argument | meaning |", "|---|---|")
        yield from (f"| `{_argument(param)}` | {_cell(_help(param))} |" for param in arguments)
        yield ""
    if options:
        yield from ("| option | default | meaning |", "|---|---|---|")
        yield from (f"| {_names(param)} | {_default(param)} | {_cell(_help(param))} |" for param in options)
        yield ""
    if command.epilog:
        yield from ("```text", command.epilog.replace("\b\n", "").strip(), "```", "")


def _keys(name: str, command: Any) -> Iterator[str]:
    yield from (f"## [{name}]", "", "| key | environment variable | default | meaning |", "|---|---|---|---|")
    for param in command.params:
        if is_configurable(param):
            cells = (f"`{key_of(param)}`", f"`{variable_of(name, param)}`", _default(param), _cell(_help(param)))
            yield f"| {' | '.join(cells)} |"
    yield ""


def _argument(param: Any) -> str:
    name = param.metavar or (param.name or "").upper()
    name = f"{name}..." if param.nargs != 1 and not name.endswith("...") else name
    return name if param.required else f"[{name}]"


def _names(param: Any) -> str:
    names = [*param.opts, *param.secondary_opts]
    value = "" if param.is_flag else f" {param.metavar or 'VALUE'}"
    return ", ".join(f"`{name}{value if name.startswith('--') else ''}`" for name in names)


def _default(param: Any) -> str:
    shown = getattr(param, "show_default", None)
    if isinstance(shown, str):
        return _cell(shown)
    value = param.default
    if value is None or callable(value) or value in (False, (), []):
        return ""
    return f"`{value}`"


def _help(param: Any) -> str:
    return getattr(param, "help", None) or ""


def _paragraphs(text: str) -> str:
    return text.replace("\b\n", "").replace("\f", "").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


SECTIONS: Final[dict[str, Callable[[], str]]] = {
    "commands": commands,
    "configuration": configuration,
    "http-paths": http_paths,
}

if __name__ == "__main__":
    print(SECTIONS[sys.argv[1]]())
