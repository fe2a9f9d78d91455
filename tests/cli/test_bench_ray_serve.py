"""The comparison with Ray Serve: the parts that run without Ray, not its measurements."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockwork.units import SECOND

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = BENCHMARKS / "peers" / "bench_ray_serve.py"
KEYS = {
    "server", "fits", "round", "load", "settled", "goodput_per_s", "late", "offered_per_s", "capacity_per_s",
    "in_time_of_offered", "in_time_of_capacity", "late_successes", "success_ms_p50", "success_ms_p99",
    "refusal_ms_p50", "refusal_ms_p99", "refused", "timed_out", "broken", "expired_in_client", "cold_successes",
    "cold_ms_p50", "cold_ms_p99", "least_recent", "least_recent_in_time", "lost", "double", "unknown", "wrong",
    "errors", "error_reasons", "generator_behind_ms_p99",
}  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(PROGRAM.parent)


@pytest.fixture
def ledger() -> Any:
    from load_ledger import Ledger, Template

    return Ledger(
        2, [Template("m-0", "x", np.zeros((1, 2), np.float32), np.ones((1, 4), np.float32))], b"\0", SECOND, 4
    )


def test_clockwork_is_measured_without_ray(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    tiny = ["--servers", "clockwork", "--networks", "mlp", "--each", "4", "--seconds", "0.2", "--loads", "0.001"]
    command = [sys.executable, str(PROGRAM), *tiny, "--cycles", "2", "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(out.read_text())
    assert [row["fits"] for row in found["rows"]] == ["all", "half"]
    for row in found["rows"]:
        assert set(row) == KEYS
        assert (row["double"], row["unknown"], row["wrong"], row["errors"]) == (0, 0, 0, 0), row
    (idle,) = found["idle_cold_starts"]
    assert (idle["requests"], idle["failed"], idle["wrong"]) == (8, 0, 0)
    assert idle["cold"] > 0
    assert idle["mlp"]["ms_p99"] >= idle["mlp"]["ms_p50"] > 0


def test_help_describes_the_options_of_both_programs() -> None:
    for program in (PROGRAM, PROGRAM.with_name("ray_app.py")):
        shown = subprocess.run([sys.executable, str(program), "--help"], check=True, capture_output=True, text=True)
        assert "--ingress" in shown.stdout


def test_the_least_recent_models_are_those_that_an_lru_cache_has_evicted() -> None:
    from peer_load import outside

    assert outside(bytes([0, 1, 0, 2, 0, 1]), keep=2) == [True, True, False, True, False, True]


@pytest.mark.parametrize(("mark", "cold"), [("COLD", 1), ("WARM", 0)])
def test_a_response_of_the_ray_application_states_whether_the_model_was_cold(ledger: Any, mark: str, cold: int) -> None:
    import ray_app
    from load_ledger import SUCCESS
    from peer_load import PeerLink, RayWire

    wire = RayWire("127.0.0.1:9", ledger)
    link = PeerLink(wire)
    ledger.offer(0, 2, 0)
    body = getattr(ray_app, mark) + np.ones(4, np.float32).tobytes()
    link.request(1, [])
    link.on_data(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body, 7)
    link.close()
    wire.close()
    assert list(wire.cold) == [0, cold]
    assert ledger.outcome[1] == SUCCESS


def test_a_request_that_ray_ends_after_its_time_limit_is_timed_out(ledger: Any) -> None:
    from load_ledger import TIMED_OUT
    from peer_load import PeerLink, RayWire

    wire = RayWire("127.0.0.1:9", ledger)
    link = PeerLink(wire)
    ledger.offer(0, 2, 0)
    link.request(0, [])
    link.on_data(b"HTTP/1.1 408 Request Timeout\r\ntransfer-encoding: chunked\r\n\r\n4\r\nlate\r\n", 7)
    assert ledger.open == 2
    link.on_data(b"0\r\n\r\n", 8)
    link.request(1, [])
    link.on_data(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n", 9)
    link.close()
    wire.close()
    assert list(ledger.outcome) == [TIMED_OUT, TIMED_OUT]
    assert list(ledger.answered) == [8, 9]
    assert ledger.unknown == 0


def test_a_request_to_ray_names_the_model_and_the_time_that_remains(ledger: Any) -> None:
    from peer_load import RayWire

    wire = RayWire("127.0.0.1:9", ledger)
    before, after = wire._heads[0]
    wire.close()
    head = (before + wire._slo(96_000_000) + after).decode()
    assert "\r\nserve_multiplexed_model_id: m-0\r\n" in head
    assert head.endswith("\r\nx-request-timeout-seconds: 0.0960\r\n\r\n")


def test_the_tables_show_the_servers_of_one_load_in_successive_lines() -> None:
    from peer_table import idle, loads

    numbers = dict.fromkeys(KEYS, 1)
    rows = [
        numbers | {"server": server, "fits": fits, "round": 0, "load": load, "in_time_of_offered": 0.5}
        for fits, server, load in [("all", "a", 1.0), ("all", "a", 2.0), ("all", "b", 1.0), ("half", "a", 1.0)]
    ]
    rows[1]["cold_ms_p50"] = None
    lines = [line.split(" | ") for line in loads(rows).splitlines()[2:]]
    assert [line[:3] for line in lines] == [
        ["| all", "1 x", "a"], ["| all", "1 x", "b"], ["| all", "2 x", "a"], ["| half", "1 x", "a"]
    ]  # fmt: skip
    assert lines[0][4] == "1 (50 %)"
    assert [line[-2] for line in lines] == ["1, 1", "1, 1", "-", "1, 1"]
    times = {"ms_p50": 1.4, "ms_p99": 2.0}
    assert idle([{"server": "a", "cold": 7, "mlp": times} | times]).splitlines()[-1] == "| a | 7 | 1, 2 | 1, 2 |"
