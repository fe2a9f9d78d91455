"""The timeline can be read over HTTP and over the native protocol."""

import pytest

from clockwork.client import Client
from clockwork.errors import InvalidRequestError
from oip.conformance import A, B, Server, ask, infer


def test_http_and_the_native_client_return_the_same_actions(server: Server) -> None:
    assert infer(server, "two", A, B, id="on-the-timeline", parameters={"timeout": 9_000_000}).status == 200
    reply = ask(server, "GET", "/v2/clockwork/timeline?past_ms=60000&limit=1000")
    assert reply.status == 200, reply.body
    found = reply.json()
    last = next(action for action in reversed(found["ended"]) if "on-the-timeline" in action["requests"])
    assert (last["kind"], last["model"], last["status"]) == ("infer", "two", "SUCCESS")
    assert last["sent_ms"] <= last["begin_ms"] < last["end_ms"] <= last["arrived_ms"] <= found["now_ms"]
    assert last["device"] in found["devices"]
    with Client(server.native) as client:
        timeline = client.timeline(last["number"] - 1, past=60)
        assert timeline.ended[0].requests == tuple(last["requests"])
        assert (timeline.ended[0].begin or 0) / 1e6 == pytest.approx(last["begin_ms"])
        assert client.timeline(timeline.latest, horizon=0).ended == ()
        with pytest.raises(InvalidRequestError, match="limit is 0"):
            client.timeline(limit=0)


@pytest.mark.parametrize("query", ["after=-1", "limit=0", "limit=1001", "past_ms=x", "horizon_ms=3600001", "what=x"])
def test_a_wrong_query_of_the_timeline_gets_400(server: Server, query: str) -> None:
    reply = ask(server, "GET", f"/v2/clockwork/timeline?{query}")
    assert reply.status == 400, reply.body


def test_the_timeline_can_only_be_read(server: Server) -> None:
    assert ask(server, "POST", "/v2/clockwork/timeline", {}).status == 405
