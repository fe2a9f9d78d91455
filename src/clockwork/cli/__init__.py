"""The command line: the composition root, and the only room that sees all others.

Rules of the file: one entry, `run`, and one place where an error becomes a line. A command is a function that raises
what is wrong; nothing else here ends the process or prints a traceback. Exit codes: 0 as asked, 1 failed, 2 asked
wrongly, 130 interrupted.

Each command has a module. Modules import what is heavy (numpy, ONNX Runtime, the network) inside their functions, so
that ``clockwork --help`` is quick.
"""

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from clockwork.log_writer import fill_standard_streams

TRACEBACK_VARIABLE: Final = "CLOCKWORK_TRACEBACK"
"""Environment variable: if it is set, unexpected errors come with their traceback."""


def run(arguments: Sequence[str]) -> int:
    """Run a command line, without the program's name; returns the exit code."""
    import typer

    from clockwork.cli import logs
    from clockwork.cli.app import app
    from clockwork.errors import ClockworkError

    logs.want(logs.HUMAN)
    try:
        command = typer.main.get_command(app)
        code = command.main(args=list(arguments) or ["--help"], prog_name="clockwork", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:  # it was asked wrongly
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "clockwork"
        return _fail(
            f"{path}: {_one_line(error.format_message()).removesuffix('.')} (see {path} --help)", error.exit_code
        )
    except ClockworkError as error:
        return _fail(f"clockwork: {_one_line(str(error))}", 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"clockwork: {_one_line(str(error))}", 1)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The program ``clockwork``."""
    fill_standard_streams()
    if not os.environ.get(TRACEBACK_VARIABLE):
        sys.excepthook = _unexpected
    sys.exit(run(sys.argv[1:]))


def _fail(line: str, code: int) -> int:
    from clockwork.cli import logs

    logs.say(line)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A defect of Clockwork itself, or Ctrl-C before there was anything to end."""
    if issubclass(kind, KeyboardInterrupt):
        return
    text = _one_line(f"{kind.__name__}: {error}")
    _fail(f"clockwork: internal error: {text} (set {TRACEBACK_VARIABLE}=1 to see where)", 1)
