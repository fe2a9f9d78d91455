"""``clockwork top`` in a terminal and in a pipe: keys, orders, a restart of the server, and the end."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

import pytest
from msgspec.structs import replace

from cli.processes import QUICK, Process, clockwork, save_dense, serve
from cli.test_screens import few_models, readings
from clockwork.cli import run
from clockwork.cli.top import SORT_NAMES, WINDOW_NAMES
from clockwork.cli.top_report import SORTS, WINDOWS, Reading, TopModel, merged, short_name, sorted_models, top_of
from clockwork.host.child_process import this_program
from clockwork.messages.counts import RecentCounts

LIMIT = 60  #: seconds that a test waits for a screen
ON, OFF = "\x1b[?1049h", "\x1b[?1049l"
"""The sequences that enter and leave the second screen of a terminal."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("top") / "dense.onnx")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[str]:
    with serve(str(model)) as process:
        yield process.address()


class Terminal:
    """A pseudo-terminal of 80 columns and 24 lines in which ``clockwork top`` runs."""

    def __init__(self, *arguments: str) -> None:
        self.main, other = pty.openpty()
        termios.tcsetwinsize(other, (24, 80))
        self.other = other
        self.before = termios.tcgetattr(other)
        # these variables would replace the size of the terminal
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*this_program(), "top", *arguments],
            stdin=other,
            stdout=other,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"},
        )
        self.text = ""

    def press(self, keys: str) -> None:
        os.write(self.main, keys.encode())

    def wait_for(self, pattern: str) -> None:
        """Wait until the pattern appears. Then forget what was shown."""
        end = time.monotonic() + LIMIT
        while (found := re.search(pattern, self.text)) is None:
            self._more(1)
            waits = time.monotonic() < end and self.process.poll() is None
            assert waits, f"no {pattern!r} in {self.text[-4000:]!r}"
        self.text = self.text[found.end() :]

    def ended(self) -> int:
        """Wait for the end of the process. Return its exit code."""
        end = time.monotonic() + LIMIT
        while self.process.poll() is None:
            self._more(0.1)
            assert time.monotonic() < end, self.text[-4000:]
        self._more(0.1)  # the last output
        return self.process.returncode

    def _more(self, limit: float) -> None:
        """Wait for output, at most this many seconds."""
        if select([self.main], [], [], limit)[0]:
            self.text += os.read(self.main, 65536).decode(errors="replace")


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    found = Terminal(*arguments)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait(30)
        assert found.process.stderr is not None
        found.process.stderr.close()
        os.close(found.main)
        os.close(found.other)


def test_keys_change_the_order_and_the_window_and_end_the_screen(server: str) -> None:
    with terminal("-a", server, "--interval=100ms") as screen:
        screen.wait_for(re.escape(ON))
        screen.wait_for("serving, scheduler clockwork")
        screen.wait_for("by rate, 10s")
        screen.press("n")
        screen.wait_for("by name, 10s")
        screen.press("w")
        screen.wait_for("by name, 5min")
        screen.press("\x1b[A")  # an arrow key changes nothing
        screen.press("m")
        screen.wait_for("by missed, 5min")
        assert termios.tcgetattr(screen.other) != screen.before
        screen.press("q")
        assert screen.ended() == 0
        assert OFF in screen.text
        assert termios.tcgetattr(screen.other) == screen.before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_screen_and_restores_the_terminal(server: str, number: signal.Signals) -> None:
    with terminal("-a", server) as screen:
        screen.wait_for("by rate")
        screen.process.send_signal(number)
        assert screen.ended() == 0
        assert OFF in screen.text
        assert termios.tcgetattr(screen.other) == screen.before
        assert screen.process.stderr is not None
        assert screen.process.stderr.read() == b""


def test_the_screen_fits_a_new_size_of_the_terminal(server: str) -> None:
    with terminal("-a", server, "--interval=100ms") as screen:
        screen.wait_for("by rate")
        termios.tcsetwinsize(screen.other, (24, 60))
        os.kill(screen.process.pid, signal.SIGWINCH)
        screen.wait_for("by rate, [^…]*…")  # the line of keys is cut
        screen.press("q")
        assert screen.ended() == 0


def test_the_screen_connects_again_after_a_restart_of_the_server(model: Path) -> None:
    with serve(str(model)) as first:
        address = first.address()
        with terminal("-a", address, "--interval=100ms") as screen:
            screen.wait_for("serving, scheduler clockwork")
            first.send(signal.SIGTERM)
            assert first.ended() == 0
            screen.wait_for("connecting again")
            with restarted(model, address) as second:
                second.address()
                screen.wait_for("(?s)serving, scheduler(?:(?!connecting again).)*?by rate")
                screen.press("q")
                assert screen.ended() == 0


@contextmanager
def restarted(model: Path, address: str) -> Iterator[Process]:
    with clockwork("serve", f"--listen={address}", *QUICK, str(model)) as process:
        yield process


def test_without_a_server_the_command_fails_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", "--once", "-a", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    with terminal("-a", "127.0.0.1:1") as screen:
        assert screen.ended() == 1
        assert ON not in screen.text


def test_in_a_pipe_one_screen_is_printed_and_the_reason_is_stated(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["top", "-a", server, "--interval=100ms"]) == 0
    shown = capsys.readouterr()
    assert "stdout is not a terminal; printing one screen (--once)" in shown.err
    assert "dense" in shown.out
    assert run(["top", "-a", server, "--once", "--interval=100ms"]) == 0
    assert not capsys.readouterr().err


def test_json_contains_the_numbers_of_the_screen(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", "-a", server, "--json", "--interval=100ms"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["ready"], found["at_risk"]) == ("serving", True, 0)
    (device,) = found["devices"]
    assert 0 <= device["busy"] <= 1.5
    assert device["planned"] == 0
    assert [each["model"] for each in found["models"]] == ["dense"]
    assert set(found["models"][0]["last_10_s"]) == set(RecentCounts.__struct_fields__)


def test_an_interval_below_the_limit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", "--interval=10ms", "-a", "127.0.0.1:1"]) == 1
    assert "--interval is 10 ms; it must be at least 100 ms" in capsys.readouterr().err


def counts(rate: float = 0, refused: int = 0, late: int = 0, p99: int = 0) -> RecentCounts:
    return RecentCounts(per_second=rate, refused=refused, late=late, p99=p99)


@pytest.mark.parametrize(
    ("sort", "order"),
    [("rate", "cab"), ("missed", "abc"), ("refused", "abc"), ("late", "bac"), ("p99", "cba"), ("name", "abc")],
)
def test_models_are_sorted_by_each_order(sort: str, order: str) -> None:
    _, reading = readings([])
    models = {"b": counts(1, 2, 3, 2), "c": counts(3, 0, 0, 3), "a": counts(1, 9, 0, 1)}
    top = replace(
        top_of(reading, None, folded=True),
        models=tuple(TopModel(name, found, RecentCounts()) for name, found in models.items()),
    )
    assert "".join(model.model for model in sorted_models(top, sort, "10s")) == order
    assert "".join(model.model for model in sorted_models(top, sort, "5min")) == "abc"


def test_the_options_have_the_orders_and_windows_of_the_screen() -> None:
    assert tuple(SORTS) == SORT_NAMES
    assert WINDOWS == WINDOW_NAMES
    letters = [letter for letter, _ in SORTS.values()]
    assert len(set(letters)) == len(letters)


def test_rates_of_devices_need_two_readings_of_the_same_server() -> None:
    before, reading = readings(few_models())
    assert [device.busy for device in top_of(reading, before, folded=True).devices] == [0.9, 0.9]
    assert [device.batches_per_s for device in top_of(reading, before, folded=True).devices] == [250, 250]
    assert {device.busy for device in top_of(reading, None, folded=True).devices} == {None}
    restarted = Reading(replace(reading.server, serving_ns=1), None)
    assert {device.busy for device in top_of(restarted, reading, folded=True).devices} == {None}
    assert top_of(restarted, reading, folded=True).at_risk is None


def test_copies_share_a_row_and_their_counts_are_added() -> None:
    _, reading = readings(few_models())
    folded, unfolded = top_of(reading, None, folded=True), top_of(reading, None, folded=False)
    assert (len(folded.models), len(unfolded.models)) == (3, 17)
    assert sum(model.last_5_min.in_time for model in folded.models) == folded.last_5_min.in_time
    assert sum(model.last_5_min.in_time for model in unfolded.models) == folded.last_5_min.in_time


def test_counts_are_merged() -> None:
    one = RecentCounts(10, 1.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    other = RecentCounts(10, 1.5, 1, 2, 3, 4, 5, 6, 70, 80, 0, 0)
    assert merged([one, other]) == RecentCounts(10, 3.0, 2, 4, 6, 8, 10, 12, 70, 80, 9, 10)
    assert merged([]) == RecentCounts()


def test_long_names_are_cut_in_the_middle_and_control_characters_are_replaced() -> None:
    assert short_name("sentence-embeddings-multilingual") == "sentence-emb…-multilingual"
    assert len(short_name("x" * 100)) == 26
    assert short_name("a\x1b[31m") == "a?[31m"
