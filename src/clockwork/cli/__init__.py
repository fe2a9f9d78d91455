"""The command line ``clockwork``. Only this package may import all other packages.

Every program starts with `run`. A command is a function that raises an exception if an error occurs. `run` prints the
error as one line, and returns the exit code. The exit codes are 0 for success, 1 for a failure, 2 for wrong usage, and
130 for an interrupted command.

Modules with commands import large modules (numpy, ONNX Runtime, the network) inside functions, so that
``clockwork --help`` starts fast.
"""

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from clockwork.cli.init_process import leave_process_one
from clockwork.log_writer import fill_standard_streams

TRACEBACK_VARIABLE: Final = "CLOCKWORK_TRACEBACK"
"""Name of an environment variable. If the variable is set, internal errors are printed with their traceback."""


def run(arguments: Sequence[str]) -> int:
    """Run a command, and return its exit code. ``arguments`` are the arguments after the program's name."""
    import typer

    from clockwork.cli import logs
    from clockwork.cli.app import app
    from clockwork.errors import ClockworkError

    logs.set_format(logs.HUMAN)
    try:
        command = typer.main.get_command(app)
        code = command.main(args=list(arguments) or ["--help"], prog_name="clockwork", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:  # the command line has a wrong option or argument
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "clockwork"
        return _fail(
            f"{path}: {_one_line(error.format_message()).removesuffix('.')} (see {path} --help)", error.exit_code
        )
    except ClockworkError as error:
        hint = f" (clockwork explain {error.request_id} shows the details)" if error.request_id else ""
        return _fail(f"clockwork: {_one_line(str(error))}{hint}", 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the program that reads stdout (for example head) has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"clockwork: {_one_line(str(error))}", 1)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the program ``clockwork`` with the arguments of this process."""
    fill_standard_streams()
    leave_process_one()
    if not os.environ.get(TRACEBACK_VARIABLE):
        sys.excepthook = _unexpected
    sys.exit(run(sys.argv[1:]))


def _fail(line: str, code: int) -> int:
    from clockwork.cli import logs

    logs.report(line)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an unexpected exception in one line, as a defect of Clockwork.

    Ctrl-C before a command has started is no defect.
    """
    if issubclass(kind, KeyboardInterrupt):
        return
    text = _one_line(f"{kind.__name__}: {error}")
    _fail(f"clockwork: internal error: {text} (set {TRACEBACK_VARIABLE}=1 for the traceback)", 1)
