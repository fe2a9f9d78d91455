"""What gRPC's C core is told by its environment."""

import grpc
import pytest

from clockwork.grpc_frontend.core import EXPERIMENTS, read_sockets_in_one_thread


def test_the_release_of_grpcio_that_is_locked_was_measured() -> None:
    environment: dict[str, str] = {}
    assert read_sockets_in_one_thread(environment)
    assert environment == {EXPERIMENTS: "-event_engine_listener"}


def test_an_operators_value_stays() -> None:
    environment = {EXPERIMENTS: ""}
    assert not read_sockets_in_one_thread(environment)
    assert environment == {EXPERIMENTS: ""}


def test_a_later_release_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "__version__", "1.86.0rc1")
    environment: dict[str, str] = {}
    assert not read_sockets_in_one_thread(environment)
    assert environment == {}
