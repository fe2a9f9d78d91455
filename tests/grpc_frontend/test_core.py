"""The environment variable that configures gRPC's C core."""

import grpc
import pytest

from clockwork.grpc_frontend.core import EXPERIMENTS, read_sockets_in_one_thread


def test_the_locked_release_of_grpcio_was_measured() -> None:
    environment: dict[str, str] = {}
    assert read_sockets_in_one_thread(environment)
    assert environment == {EXPERIMENTS: "-event_engine_listener"}


def test_a_value_set_by_the_operator_is_kept() -> None:
    environment = {EXPERIMENTS: ""}
    assert not read_sockets_in_one_thread(environment)
    assert environment == {EXPERIMENTS: ""}


def test_a_later_release_is_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "__version__", "1.86.0rc1")
    environment: dict[str, str] = {}
    assert not read_sockets_in_one_thread(environment)
    assert environment == {}
