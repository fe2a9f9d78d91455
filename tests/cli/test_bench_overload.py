"""The benchmark of overload: its program and its counts, not its measurements."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockwork.units import SECOND

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KEYS = {
    "protocol", "size", "load", "settled", "asked_per_s", "offered_per_s", "capacity_per_s", "in_time_of_offered",
    "in_time_of_capacity", "late_successes", "success_ms_p50", "success_ms_p99", "refusal_ms_p50", "refusal_ms_p99",
    "refused", "timed_out", "broken", "expired_in_client", "lost", "double", "unknown", "wrong", "errors",
    "error_reasons", "worker_losses", "recovery_s", "rss_mb", "pss_mb", "generator_behind_ms_p99",
}  # fmt: skip
SLO = 100


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def ledger(size: int, answers: int = 1) -> Any:
    from load_ledger import Ledger, Template

    outputs = [np.full((1, 4), 1.0 + kind, np.float32) for kind in range(answers)]
    templates = [Template("m", "x", np.zeros((1, 2), np.float32), output) for output in outputs]
    return Ledger(size, templates, bytes(range(answers)), SLO, 4)


def test_every_protocol_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "overload.json"
    tiny = ["--sizes", "small", "--seconds", "0.1", "--loads", "0.1", "0.2", "--rounds", "1", "--json", str(out)]
    subprocess.run([sys.executable, str(BENCHMARKS / "bench_overload.py"), *tiny], check=True, capture_output=True)
    found = json.loads(out.read_text())
    measured = [(row["protocol"], row["load"]) for row in found["rows"]]
    assert measured == [(name, load) for name in ("native", "http", "grpc", "bare") for load in (0.1, 0.2)]
    for row in found["rows"]:
        assert set(row) == KEYS
        assert (row["double"], row["unknown"], row["wrong"], row["errors"]) == (0, 0, 0, 0), row
        assert found[f"{row['protocol']}_small_requests_per_s"] == row["capacity_per_s"] > 0


def test_large_requests_over_grpc_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "overload.json"
    tiny = [
        "--sizes",
        "large",
        "--protocols",
        "grpc",
        "--seconds",
        "0.1",
        "--loads",
        "0.2",
        "--rounds",
        "1",
        "--each",
        "1",
    ]
    command = [sys.executable, str(BENCHMARKS / "bench_overload.py"), *tiny, "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert set(row) == KEYS
    assert (row["double"], row["unknown"], row["wrong"], row["errors"]) == (0, 0, 0, 0), row
    assert found["grpc_large_added_ms"] is not None


def test_a_second_response_is_counted_and_changes_nothing() -> None:
    from load_ledger import REFUSED, SUCCESS

    book = ledger(2)
    book.offer(0, 1, 5)
    book.succeed(0, np.ones(4, np.float32).tobytes(), 7)
    book.finish(0, REFUSED, 8)
    book.finish(1, REFUSED, 8)  # this request was never offered
    book.finish(9, REFUSED, 8)  # this request does not exist
    assert (book.outcome[0], book.answered[0], book.double, book.unknown, book.open) == (SUCCESS, 7, 1, 2, 0)


def test_the_response_to_another_request_is_wrong() -> None:
    from load_ledger import SUCCESS, WRONG

    book = ledger(3, answers=2)
    book.offer(0, 3, 0)
    book.succeed(0, np.full(4, 1.0, np.float32).tobytes(), 1)
    book.succeed(1, np.full(4, 1.0, np.float32).tobytes(), 1)
    book.succeed(2, np.full(4, 1.0001, np.float32).tobytes(), 1)  # another batch size may give such a difference
    assert list(book.outcome) == [SUCCESS, WRONG, SUCCESS]


def test_the_latency_of_a_success_counts_from_its_due_time() -> None:
    from bench_overload import summary

    book = ledger(4)
    for seq, due in enumerate((0, 10, 20, 30)):
        book.due[seq] = due
    book.offer(0, 3, 40)
    for seq, at in enumerate((SLO, 10 + SLO + 1)):
        book.succeed(seq, np.ones(4, np.float32).tobytes(), at)
    found = summary(book.arrays(0, 4), capacity=1.0, seconds=1.0)
    assert found["offered_per_s"] == 3
    assert found["in_time_of_offered"] == round(1 / 3, 4)
    assert found["in_time_of_capacity"] == 1
    assert found["late_successes"] == 0.5
    assert found["expired_in_client"] == 1


@pytest.mark.parametrize(("failing", "expected"), [([], 0.0), ([0, 1], 0.2), ([0, 2, 4], 0.5), (range(20), None)])
def test_recovery_ends_with_the_first_of_three_good_windows(failing: Any, expected: float | None) -> None:
    from bench_overload import WINDOW, recovery
    from load_ledger import REFUSED, SUCCESS, Columns

    due = np.arange(20, dtype=np.int64) * WINDOW + 7
    outcome = np.full(20, SUCCESS, np.uint8)
    outcome[list(failing)] = REFUSED
    assert recovery(Columns(due, np.zeros_like(due), due + 1, outcome, SLO), 7) == expected


def test_requests_to_a_server_that_never_responds_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    import load_loop
    from load_http import HttpWire
    from load_ledger import SENT

    monkeypatch.setattr(load_loop, "MAX_BEHIND", 60 * SECOND)
    book = ledger(3)
    book.slo = 60 * SECOND
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wire = HttpWire(f"127.0.0.1:{silent.getsockname()[1]}", book)
        load_loop.open_loop(wire, np.arange(3, dtype=np.int64), patience=SECOND // 5)
        wire.close()
    assert list(book.outcome) == [SENT] * 3


def test_losses_of_the_worker_are_counted_from_the_log(tmp_path: Path) -> None:
    from bench_overload import Target

    log = tmp_path / "log"
    lost = '{"level": "warning", "event": "worker_lost", "worker": "local"}\n'
    log.write_text(lost + '{"level": "error", "event": "worker_died"}\n' + lost)
    size: Any = None
    served: Any = None
    assert Target("http", size, served, log).losses() == 2


def test_the_headers_of_a_call_are_hpack() -> None:
    from load_grpc import fixed_headers, timeout_header

    first, later, plain = fixed_headers(b"h:1")
    assert first.startswith(b"\x83\x86\x44\x2a/inference.GRPCInferenceService/ModelInfer\x41\x03h:1")
    assert later == bytes.fromhex("8386c2c1c0bfbe")
    assert b"\x0f\x10\x10application/grpc" in plain
    assert timeout_header(99_900_000) == b"\x00\x0cgrpc-timeout\x0399m"
