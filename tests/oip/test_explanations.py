"""Recent requests are listed and explained over HTTP, the native protocol and the command line."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from clockwork.cli import run
from clockwork.client import Client
from clockwork.errors import InvalidRequestError
from oip.conformance import A, B, Server, ask, infer

TRACE = f"trace-{os.getpid()}"


def get(server: Server, path: str) -> Any:
    reply = ask(server, "GET", path)
    assert reply.status == 200, reply.body
    return reply.json()


def test_http_lists_and_explains_a_request(server: Server) -> None:
    assert infer(server, "two", A, B, id=TRACE, parameters={"timeout": 9_000_000}).status == 200
    listed = get(server, "/v2/clockwork/requests?outcome=in_time&model=two&limit=5")["requests"]
    assert listed[0]["request_id"] == TRACE
    assert len(listed) <= 5
    found = get(server, f"/v2/clockwork/requests/{TRACE}")
    assert (found["model"], found["outcome"], found["slo_ms"]) == ("two", "in_time", 9000)
    assert found["slo_source"] == "the request parameter timeout, in microseconds"
    assert [step["name"] for step in found["steps"]][:2] == ["plan", "device"]
    assert {"begin", "exec", "completion"} <= {each["name"] for each in found["compared"]}


@pytest.mark.parametrize("request_id", ["a/b", "a b", "ü%2F", "x" * 500])
def test_any_id_can_be_explained_over_http(server: Server, request_id: str) -> None:
    infer(server, "two", A, B, id=request_id)
    path = f"/v2/clockwork/requests/{quote(request_id, safe='')}"
    assert get(server, path)["request_id"] == request_id[:128]


@pytest.mark.parametrize(
    "query",
    [
        *("outcome=slow", "limit=0", "limit=1001", "limit=x", "limit=-1", "what=x", "&".join("abcdefghijkl")),
        "outcome=late&outcome=refused",
    ],
)
def test_a_wrong_query_gets_400(server: Server, query: str) -> None:
    assert ask(server, "GET", f"/v2/clockwork/requests?{query}").status == 400


def test_an_unknown_request_gets_404_and_another_method_405(server: Server) -> None:
    reply = ask(server, "GET", "/v2/clockwork/requests/nobody")
    assert reply.status == 404
    assert reply.json()["error"].startswith("request 'nobody' is not recorded")
    assert ask(server, "POST", "/v2/clockwork/requests/nobody", {}).status == 405
    assert ask(server, "GET", "/v2/clockwork/requests/").status == 200


def test_a_client_explains_its_request_after_the_result_or_the_error(server: Server) -> None:
    row = np.ones((1, 2), np.float32)
    with Client(server.native) as client:
        result = client.infer("two", {"a": row, "b": row}, slo=20)
        assert client.explain(result.request_id).slo_source == "the client's argument slo"
        with pytest.raises(InvalidRequestError) as caught:
            client.infer("two", {"a": row})
        assert client.explain(caught.value.request_id).message == str(caught.value)
        assert client.recent_requests("failed", limit=1)[0].request_id == caught.value.request_id
        with pytest.raises(InvalidRequestError, match="is not recorded"):
            client.explain("nobody")


def test_the_command_lists_and_explains(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> str:
        assert run(["explain", *arguments, "--address", server.native]) == 0
        return capsys.readouterr().out

    infer(server, "two", A, B, id="command\x1b[31m")
    assert "command?[31m" in shown("--outcome", "in_time", "--limit=1000")
    text = shown("command\x1b[31m")
    assert text.startswith("Request command?[31m for two:1, answered ")
    assert "What happened" in text
    assert json.loads(shown("command\x1b[31m", "--json"))["outcome"] == "in_time"
    assert json.loads(shown("--model=without-requests", "--json")) == []
    assert run(["explain", "nobody", "--address", server.native]) == 1
    assert "request 'nobody' is not recorded" in capsys.readouterr().err


def test_the_commands_of_the_docs_page_work(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    infer(server, "two", A, B, id=TRACE)
    page = (Path(__file__).parents[2] / "docs" / "slow-requests.md").read_text()
    ran = 0
    for line in re.findall(r"^\$ (.*)$", page, re.MULTILINE):
        words = shlex.split(re.sub(r"[0-9a-f]{8}-[0-9]+", TRACE, line), comments=True)
        if words[:2] == ["clockwork", "explain"]:
            assert run([*words[1:], "--address", server.native]) == 0
            assert capsys.readouterr().out
            ran += 1
        elif words[0] == "curl":
            assert get(server, words[-1].removeprefix("localhost:8000"))
            ran += 1
    assert ran == 5
