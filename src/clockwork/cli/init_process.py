"""The duties of process 1 of a container.

The kernel makes process 1 the parent of every orphan, so process 1 must reap orphans. The kernel also ignores signals
that process 1 does not handle, so a second Ctrl-C would not end process 1. Therefore, if this program is process 1, it
continues in a child process. Process 1 then only forwards signals to the child and reaps processes. Process 1 ends when
the child ends.
"""

import os
import signal
from typing import Final

_FAULTS: Final = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}
_JOB_CONTROL: Final = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_NOT_FORWARDED: Final = _FAULTS | _JOB_CONTROL | {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}


def leave_process_one() -> None:
    """Continue in a child process if this is process 1. In process 1, this function never returns."""
    if os.getpid() != 1:
        return
    signals = signal.valid_signals() - _NOT_FORWARDED
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the kernel discards exit codes if this signal is ignored
    child = os.fork()
    if child:
        os._exit(_forward_and_reap(child, signals))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forward_and_reap(child: int, signals: set[signal.Signals]) -> int:
    """Return the exit code of the child when it has ended.

    If a signal ended the child, the exit code is the signal's number plus 128.
    """
    while True:
        info = signal.sigwaitinfo(signals)
        if info.si_signo == signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                return code if code >= 0 else 128 - code
        elif info.si_code <= 0:  # a process sent this signal; the terminal sends its signals to the child directly
            os.kill(child, info.si_signo)


def _reap(child: int) -> int | None:
    """Reap all processes that have ended. Return the child's exit code if the child has ended."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
