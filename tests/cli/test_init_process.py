"""Clockwork as process 1 of a container, tested in a PID namespace."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.processes import Lines, save_dense
from clockwork.host.child_process import this_program

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def _has_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not _has_namespaces(), reason="this host permits no PID namespaces (unshare --pid)")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def as_process_one(
    script: str, *arguments: str, stdin: int | None = None
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a shell script as process 1 of a namespace; it becomes ``clockwork`` with the arguments."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*NAMESPACE, "sh", "-c", script, "sh", *this_program(), *arguments]
    with subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as unshare:
        try:
            while not (found := children(unshare.pid)):
                time.sleep(0.01)
            yield unshare, found[0]
        finally:
            unshare.kill()


def test_serve_as_process_one_reaps_orphans_and_ends_on_sigterm(tmp_path: Path) -> None:
    model = str(save_dense(tmp_path / "dense.onnx"))
    serve = ("serve", model, "--listen=127.0.0.1:0", "--http=none", "--profile-seconds=0.01", "--no-profile-cache")
    # The subshell ends at once, so process 1 inherits cat, which ends when its stdin is closed.
    script = 'exec 3<&0; (cat <&3 >/dev/null 3<&- &); exec "$@" 3<&- </dev/null'
    with as_process_one(script, *serve, stdin=subprocess.PIPE) as (unshare, one):
        assert unshare.stdout is not None
        assert unshare.stdin is not None
        Lines(unshare.stdout).wait_for("is serving 1 model")
        (orphan,) = [child for child in children(one) if Path(f"/proc/{child}/comm").read_text() == "cat\n"]
        unshare.stdin.close()
        deadline = time.monotonic() + 30
        while Path(f"/proc/{orphan}").exists():
            assert time.monotonic() < deadline, "the orphan has not been reaped"
            time.sleep(0.01)
        os.kill(one, signal.SIGTERM)
        assert unshare.wait(30) == 0


def test_the_exit_code_of_a_command_is_that_of_process_one() -> None:
    with as_process_one('exec "$@"', "serve") as (unshare, _):
        assert unshare.wait(30) == 2
