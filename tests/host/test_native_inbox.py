"""Requests of native clients that wait in the inbox, and their limits."""

from typing import Any, cast

from clockwork.controller.config import ControllerConfig
from clockwork.controller.events import Respond
from clockwork.controller.quota import Quota
from clockwork.controller.responses import refusal_response
from clockwork.host.native_inbox import NativeInbox
from clockwork.host.reception import Reception
from clockwork.messages.requests import InferRequest
from clockwork.messages.status import Status

CONFIG = ControllerConfig(max_pending=6, max_pending_bytes=250, max_client_pending=4, max_client_bytes=150)


class Waiting:
    def __init__(self) -> None:
        self.withdrawn = 0

    def withdraw(self) -> bool:
        self.withdrawn += 1
        return True


class FakeReception:
    """A reception whose requests wait until the test handles them, and the quota of the pending requests."""

    def __init__(self, *, busy: bool = True) -> None:
        self.busy = busy
        self.pending = Quota(CONFIG)
        self.handles: list[Any] = []
        self.waiting: list[Waiting] = []
        self.handled: list[tuple[int, int]] = []
        self.inbox = NativeInbox(
            cast(Reception, self), CONFIG, self._refuse_full, lambda client, request, *_: self._handle(client, request)
        )

    def put(self, handle: Any, model: str, slo: int | None, version: str) -> Any:
        if not self.busy:
            handle()
            return None
        self.handles.append(handle)
        self.waiting.append(Waiting())
        return self.waiting[-1]

    def ask(self, client: int, number: int, nbytes: int = 10) -> str:
        refused: Any = self.inbox.put(client, InferRequest(number, "m", ()), bytes(nbytes), 0, None)
        if refused is None:
            return ""
        assert (refused.client_id, refused.response.id) == (client, number)
        return str(refused.response.message)

    def _refuse_full(self, client_id: int, message: InferRequest, nbytes: int, waiting: Quota) -> Respond | None:
        full = self.pending.reason_to_refuse(client_id, nbytes, beside=waiting)
        return refusal_response(client_id, message, Status.SKIPPED_BY_CONTROLLER, full.text) if full else None

    def _handle(self, client: int, request: InferRequest) -> None:
        self.handled.append((client, request.id))


def test_waiting_payloads_are_limited_per_client_and_in_total() -> None:
    reception = FakeReception()
    assert reception.ask(1, 1, 100) == ""
    assert reception.ask(1, 2, 51).startswith("this connection has too many pending requests: 1 requests with 100 B")
    assert reception.ask(1, 3, 50) == ""
    assert reception.ask(2, 1, 101).startswith("the server is full: 2 requests with 150 B")
    assert reception.ask(2, 2, 100) == ""
    assert len(reception.inbox) == 3


def test_waiting_and_pending_requests_count_together() -> None:
    reception = FakeReception()
    reception.pending.add(1, 100)
    assert reception.ask(2, 1) == ""
    assert "too many pending requests" in reception.ask(1, 1, 60)
    for number in range(3):
        assert reception.ask(1, 10 + number) == ""
    assert "too many pending requests" in reception.ask(1, 20)
    assert reception.ask(3, 1) == ""
    assert "the server is full" in reception.ask(3, 2)


def test_a_handled_or_withdrawn_request_frees_its_share_of_the_limits() -> None:
    reception = FakeReception()
    assert reception.ask(1, 1, 100) == ""
    assert reception.ask(1, 1, 50) == ""  # if the first is still pending later, the controller refuses the second
    assert reception.ask(1, 2, 1) != ""
    assert reception.inbox.withdraw(1, 1)
    assert [waiting.withdrawn for waiting in reception.waiting] == [1, 1]
    assert not reception.inbox.withdraw(1, 1)
    assert reception.ask(1, 3, 150) == ""
    reception.handles[2]()
    assert reception.handled == [(1, 3)]
    assert len(reception.inbox) == 0
    assert not reception.inbox.withdraw(1, 3)


def test_all_requests_of_a_client_are_withdrawn_when_it_leaves() -> None:
    reception = FakeReception()
    for client, number in ((1, 1), (1, 1), (1, 2), (2, 1)):
        assert reception.ask(client, number) == ""
    assert reception.inbox.withdraw(1)
    assert [waiting.withdrawn for waiting in reception.waiting] == [1, 1, 1, 0]
    assert len(reception.inbox) == 1


def test_a_request_that_is_handled_at_once_is_not_counted() -> None:
    reception = FakeReception(busy=False)
    for number in range(20):
        assert reception.ask(1, number, 140) == ""
    assert len(reception.handled) == 20
    assert len(reception.inbox) == 0
