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


class Desk:
    """A reception in which requests wait until the test has them handled, and the requests that are pending."""

    def __init__(self, *, busy: bool = True) -> None:
        self.busy = busy
        self.pending = Quota(CONFIG)
        self.handles: list[Any] = []
        self.waiting: list[Waiting] = []
        self.handled: list[tuple[int, int]] = []
        self.unhandled = NativeInbox(
            cast(Reception, self), CONFIG, self._refuse_full, lambda client, request, *_: self._handle(client, request)
        )

    def put(self, handle: Any, model: str, slo: int | None) -> Any:
        if not self.busy:
            handle()
            return None
        self.handles.append(handle)
        self.waiting.append(Waiting())
        return self.waiting[-1]

    def ask(self, client: int, number: int, nbytes: int = 10) -> str:
        refused: Any = self.unhandled.put(client, InferRequest(number, "m", ()), bytes(nbytes), 0, None)
        if refused is None:
            return ""
        assert (refused.client_id, refused.response.id) == (client, number)
        return str(refused.response.message)

    def _refuse_full(self, client_id: int, message: InferRequest, nbytes: int, waiting: Quota) -> Respond | None:
        text = self.pending.reason_to_refuse(client_id, nbytes, beside=waiting)
        return refusal_response(client_id, message, Status.SKIPPED_BY_CONTROLLER, text) if text else None

    def _handle(self, client: int, request: InferRequest) -> None:
        self.handled.append((client, request.id))


def test_payloads_that_wait_are_limited_for_a_client_and_in_all() -> None:
    desk = Desk()
    assert desk.ask(1, 1, 100) == ""
    assert desk.ask(1, 2, 51).startswith("this connection has too many pending requests: 1 requests with 100 B")
    assert desk.ask(1, 3, 50) == ""
    assert desk.ask(2, 1, 101).startswith("the server is full: 2 requests with 150 B")
    assert desk.ask(2, 2, 100) == ""
    assert len(desk.unhandled) == 3


def test_requests_that_wait_count_together_with_those_that_are_pending() -> None:
    desk = Desk()
    desk.pending.add(1, 100)
    assert desk.ask(2, 1) == ""
    assert "too many pending requests" in desk.ask(1, 1, 60)
    for number in range(3):
        assert desk.ask(1, 10 + number) == ""
    assert "too many pending requests" in desk.ask(1, 20)
    assert desk.ask(3, 1) == ""
    assert "the server is full" in desk.ask(3, 2)


def test_a_request_that_is_handled_or_withdrawn_makes_room() -> None:
    desk = Desk()
    assert desk.ask(1, 1, 100) == ""
    assert desk.ask(1, 1, 50) == ""  # the controller refuses the id, if the other is pending then
    assert desk.ask(1, 2, 1) != ""
    assert desk.unhandled.withdraw(1, 1)
    assert [it.withdrawn for it in desk.waiting] == [1, 1]
    assert not desk.unhandled.withdraw(1, 1)
    assert desk.ask(1, 3, 150) == ""
    desk.handles[2]()
    assert desk.handled == [(1, 3)]
    assert len(desk.unhandled) == 0
    assert not desk.unhandled.withdraw(1, 3)


def test_a_client_that_leaves_takes_all_its_requests_with_it() -> None:
    desk = Desk()
    for client, number in ((1, 1), (1, 1), (1, 2), (2, 1)):
        assert desk.ask(client, number) == ""
    desk.unhandled.leave(1)
    assert [it.withdrawn for it in desk.waiting] == [1, 1, 1, 0]
    assert len(desk.unhandled) == 1


def test_a_request_that_need_not_wait_is_not_counted() -> None:
    desk = Desk(busy=False)
    for number in range(20):
        assert desk.ask(1, number, 140) == ""
    assert len(desk.handled) == 20
    assert len(desk.unhandled) == 0
