"""Paths, parameters, and the bodies of repository requests."""

import pytest

from clockwork.errors import InvalidRequestError
from clockwork.oip.failures import RequestFailedError
from clockwork.oip.parameters import requested_slo
from clockwork.oip.rest import MethodNotAllowedError, Route, repository_head, route

RIGHT = {
    "GET /": Route("page"),
    "GET /dashboard/main.js": Route("asset", file="main.js"),
    "GET /v2/clockwork/events": Route("events"),
    "GET /v2": Route("server"),
    "GET /v2/": Route("server"),
    "GET /v2/openapi.json": Route("openapi"),
    "GET /v2/health/live": Route("live"),
    "GET /v2/health/ready": Route("ready"),
    "GET /v2/models/stats": Route("all_stats"),
    "GET /v2/clockwork/scaling": Route("scaling"),
    "GET /v2/models/a.b": Route("model", "a.b"),
    "GET /v2/models/m/versions/1": Route("model", "m", "1"),
    "GET /v2/models/m/versions/12": Route("model", "m", "12"),
    "GET /v2/models/m/ready": Route("model_ready", "m"),
    "GET /v2/models/m/versions/1/ready": Route("model_ready", "m", "1"),
    "GET /v2/models/m/config": Route("config", "m"),
    "GET /v2/models/m/versions/1/stats": Route("stats", "m", "1"),
    "POST /v2/models/m/infer": Route("infer", "m"),
    "POST /v2/models/m/versions/1/infer": Route("infer", "m", "1"),
    "POST /v2/repository/index": Route("index"),
    "GET /metrics": Route("metrics"),
    "POST /v2/repository/models/m/load": Route("load", "m"),
    "GET /v2/logging": Route("log_settings"),
    "HEAD /v2/logging": Route("log_settings"),
    "POST /v2/logging": Route("change_log_settings"),
}
WRONG = {
    "GET /v1/models": 404,
    "GET /dashboard/a/b": 404,
    "POST /": 405,
    "GET /v2/models": 404,
    "GET /v2/models//infer": 404,
    "GET /v2/models/m/nothing": 404,
    "POST /v2/models/m/infer/more": 404,
    "POST /v2/repository/models/m": 404,
    "GET /v2/models/m/infer": 405,
    "POST /v2": 405,
    "DELETE /v2/models/m": 405,
    "GET /v2/repository/index": 405,
    "POST /v2/models/m/generate": 501,
    "POST /v2/models/m/versions/1/generate_stream": 501,
    "GET /v2/models/m/generate": 405,
    "PUT /v2/logging": 405,
    "GET /v2/trace/setting": 501,
    "POST /v2/models/m/trace/setting": 501,
    "GET /v2/systemsharedmemory/status": 501,
    "GET /v2/cudasharedmemory/region/r/status": 501,
    "POST /v2/systemsharedmemory/region/r/register": 501,
    "POST /v2/cudasharedmemory/unregister": 501,
    "GET /v2/systemsharedmemory/unregister": 405,
    "POST /v2/systemsharedmemory/register": 404,
    "GET /v2/systemsharedmemory/region/r": 404,
    "GET /v2/sharedmemory/status": 404,
    "POST /metrics": 405,
}


@pytest.mark.parametrize("line", RIGHT)
def test_a_known_path_has_an_operation(line: str) -> None:
    assert route(*line.split()) == RIGHT[line]


@pytest.mark.parametrize("line", WRONG)
def test_other_paths_and_methods_are_refused(line: str) -> None:
    with pytest.raises(RequestFailedError) as caught:
        route(*line.split())
    assert caught.value.failure.http == WRONG[line]
    assert isinstance(caught.value, MethodNotAllowedError) == (WRONG[line] == 405)


def test_a_repository_request_may_have_no_body() -> None:
    assert repository_head(b"").parameters == {}
    assert repository_head(b'{"ready": true}').ready
    assert not repository_head(b'{"ready": null, "parameters": null}').ready
    assert repository_head(b'{"parameters": {"path": "m.onnx"}}').parameters == {"path": "m.onnx"}
    for body in (b"{", b"[]", b'{"ready": 1}', b"[" * 100_000):
        with pytest.raises(RequestFailedError):
            repository_head(body)


@pytest.mark.parametrize("value", [1e16, -1, "nan", 2**63 - 1])
def test_a_wrong_number_gets_an_error_with_the_accepted_range(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"it must be a number from 0 to 1e\+15"):
        requested_slo({"slo_ms": value})


def test_every_path_of_a_model_named_as_a_path_is_reachable() -> None:
    for name in ("stats", "versions", "infer", "ready", "config", "models", "v2"):
        base = f"/v2/models/{name}"
        found = route("GET", f"{base}/versions/1")
        assert (found.operation, found.model) == ("model", name)
        for action in ("ready", "config", "stats"):
            assert route("GET", f"{base}/{action}").model == name
            assert route("GET", f"{base}/versions/1/{action}").model == name
        assert route("POST", f"{base}/infer") == Route("infer", name)
        assert route("POST", f"/v2/repository/models/{name}/load") == Route("load", name)
