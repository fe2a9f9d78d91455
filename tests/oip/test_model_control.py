"""Triton's model repository extension in the control mode ``explicit``, with Triton's own clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from client.live import LOOPBACK, ScriptedWorker, run, serving
from clockwork.access import Access, Tokens
from clockwork.controller.config import ControlMode
from clockwork.grpc_frontend import serve_grpc
from clockwork.host.controller import ControllerHost
from clockwork.host.model_repositories import RepositoryConfig
from clockwork.http.server import serving_http
from clockwork.messages.actions import Infer, LoadModelFromDisk, UnloadModel
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.scheduling.registry import make_scheduler
from http_raw import Peer, connected

ROW = np.ones((1, 4), np.float32)
CONFIG = json.dumps({"name": "net", "backend": "onnxruntime"})


class Triton:
    """Triton's asynchronous client for one of the protocols. Both clients get the same methods."""

    def __init__(self, protocol: str, address: str) -> None:
        self.protocol = protocol
        self.library: Any = tritonclient.http.aio if protocol == "http" else tritonclient.grpc.aio
        self.client: Any = self.library.InferenceServerClient(address)

    async def index(self) -> list[tuple[str, str, str, str]]:
        found = await self.client.get_model_repository_index()
        if self.protocol == "http":
            return [(each["name"], each.get("version", ""), each["state"], each["reason"]) for each in found]
        return [(each.name, each.version, each.state, each.reason) for each in found.models]

    async def versions(self, name: str) -> list[str]:
        metadata = await self.client.get_model_metadata(name)
        return list(metadata["versions"] if self.protocol == "http" else metadata.versions)

    async def infer(self, name: str, version: str = "") -> str:
        """Execute a request, and return the number of the version that executed it."""
        tensor = self.library.InferInput("x", ROW.shape, "FP32")
        tensor.set_data_from_numpy(ROW)
        result = await self.client.infer(name, [tensor], model_version=version)
        response = result.get_response()
        return str(response["model_version"] if self.protocol == "http" else response.model_version)


def answers_broken(worker: ScriptedWorker) -> Callable[[Any], bool]:
    """Let a worker refuse every load of a model whose file contains the word ``broken``."""

    def holds(action: Any) -> bool:
        if isinstance(action, LoadModelFromDisk) and "broken" in action.path:
            assert worker.connection is not None
            worker.connection.send(
                ErrorResult(action.id, "LoadModelFromDisk", Status.INVALID_MODEL, "it is no ONNX model")
            )
            return True
        return False

    return holds


def add_version(root: Path, name: str, number: int, content: bytes = b"weights") -> None:
    directory = root / name / str(number)
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(content)


@asynccontextmanager
async def explicit(
    root: Path, *, repository: bool = True, **settings: Any
) -> AsyncIterator[tuple[ControllerHost, ScriptedWorker]]:
    """Serve no models in the control mode explicit."""
    guarded: dict[str, Any] = {"repository": RepositoryConfig((root,), root)} if repository else {}
    guarded |= settings.pop("guarded", {})
    scheduler = make_scheduler("clockwork")
    async with serving(scheduler, models=(), control=ControlMode.EXPLICIT, guarded=guarded, **settings) as (
        host,
        worker,
    ):
        worker.holds = answers_broken(worker)
        while not host.is_ready():  # noqa: ASYNC110 - start-up of a server without models can only be polled
            await asyncio.sleep(0.01)
        yield host, worker


def with_triton(
    root: Path, protocol: str, test: Callable[[Triton, ScriptedWorker], Awaitable[None]], **settings: Any
) -> None:
    async def whole() -> None:
        async with (
            explicit(root, **settings) as (host, worker),
            serving_http(host, LOOPBACK) as http,
            serve_grpc(host, LOOPBACK) as grpc,
        ):
            triton = Triton(protocol, str(http if protocol == "http" else grpc.address))
            try:
                await test(triton, worker)
            finally:
                await triton.client.close()

    run(whole())


both = pytest.mark.parametrize("protocol", ["http", "grpc"])


@both
def test_a_model_is_listed_loaded_inferred_by_version_and_unloaded(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        assert await triton.index() == [("net", "", "UNAVAILABLE", "not loaded")]
        assert not await triton.client.is_model_ready("net")
        await triton.client.load_model("net")
        assert await triton.index() == [("net", "1", "READY", "")]
        assert await triton.client.is_model_ready("net", "1")
        assert [await triton.infer("net"), await triton.infer("net", "1")] == ["1", "1"]
        await triton.client.unload_model("net")
        assert await triton.index() == [("net", "1", "UNAVAILABLE", "unloaded")]
        with pytest.raises(InferenceServerException, match="has no ready version: 1 is UNAVAILABLE"):
            await triton.infer("net")
        await triton.client.load_model("net")
        assert await triton.infer("net") == "1"

    add_version(tmp_path, "net", 1)
    with_triton(tmp_path, protocol, test)


@both
def test_a_double_load_of_unchanged_files_succeeds_and_replaces_nothing(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        await triton.client.load_model("net")
        await triton.infer("net")
        served = [action.model for action in worker.seen if isinstance(action, Infer)][-1]
        await triton.client.load_model("net")
        await triton.infer("net")
        assert [action.model for action in worker.seen if isinstance(action, Infer)][-1] == served
        assert await triton.index() == [("net", "1", "READY", "")]

    add_version(tmp_path, "net", 1)
    with_triton(tmp_path, protocol, test)


@both
def test_a_load_of_an_unknown_name_fails_and_says_where_it_was_searched(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        with pytest.raises(InferenceServerException, match="nobody") as caught:
            await triton.client.load_model("nobody")
        assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
        assert not worker_loads(worker)

    with_triton(tmp_path, protocol, test)


def worker_loads(worker: ScriptedWorker) -> list[LoadModelFromDisk]:
    return [action for action in worker.seen if isinstance(action, LoadModelFromDisk)]


@both
def test_an_unload_of_an_unknown_name_does_nothing_and_succeeds(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        await triton.client.unload_model("nobody")
        await triton.client.unload_model("nobody", unload_dependents=True)

    with_triton(tmp_path, protocol, test)


@both
def test_requests_in_flight_finish_when_their_model_is_unloaded(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        await triton.client.load_model("net")
        worker.holds = lambda action: isinstance(action, Infer)
        before = len(worker.held)
        asked = asyncio.ensure_future(triton.infer("net"))
        await worker.until(lambda: len(worker.held) > before)
        unload = asyncio.ensure_future(triton.client.unload_model("net"))
        while (await triton.index())[0][2] != "UNLOADING":  # noqa: ASYNC110 - the index can only be polled
            await asyncio.sleep(0.01)
        with pytest.raises(InferenceServerException, match="1 is UNLOADING"):
            await triton.infer("net")
        assert not asked.done()
        assert not unload.done()
        assert not any(isinstance(action, UnloadModel) for action in worker.seen)
        worker.holds = lambda action: False
        for held in worker.held[before:]:  # measurements may be among them
            worker.answer(*held)
        assert await asked == "1"
        await unload
        assert any(isinstance(action, UnloadModel) for action in worker.seen)

    add_version(tmp_path, "net", 1)
    with_triton(tmp_path, protocol, test)


@both
def test_a_load_with_a_broken_config_fails_and_the_model_goes_on_serving(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        await triton.client.load_model("net")
        with pytest.raises(InferenceServerException, match="config"):
            await triton.client.load_model("net", config="{broken")
        (tmp_path / "net" / "config.pbtxt").write_text("version_policy { specific { versions: [ 7 ] } }")
        with pytest.raises(InferenceServerException, match="7"):
            await triton.client.load_model("net")
        assert await triton.infer("net") == "1"
        add_version(tmp_path, "net", 2, b"")
        (name, version, state, reason), (_, broken, unavailable, why) = await triton.index()
        assert (name, version, state) == ("net", "1", "READY")
        assert reason.startswith("a new load would fail: ")
        assert "7" in reason
        assert (broken, unavailable) == ("2", "UNAVAILABLE")
        assert "is empty" in why

    add_version(tmp_path, "net", 1)
    with_triton(tmp_path, protocol, test)


@both
def test_a_load_that_a_worker_refuses_fails_with_its_reason_in_the_index(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        with pytest.raises(InferenceServerException, match="it is no ONNX model"):
            await triton.client.load_model("broken")
        ((name, version, state, reason),) = await triton.index()
        assert (name, version, state) == ("broken", "1", "UNAVAILABLE")
        assert "it is no ONNX model" in reason

    add_version(tmp_path, "broken", 1)
    with_triton(tmp_path, protocol, test)


@both
def test_a_load_after_a_new_version_has_come_replaces_the_old_one(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        await triton.client.load_model("net")
        assert await triton.versions("net") == ["1"]
        add_version(tmp_path, "net", 2, b"others")
        await triton.client.load_model("net")
        assert await triton.versions("net") == ["2"]
        assert await triton.infer("net") == "2"
        with pytest.raises(InferenceServerException, match="model 'net' has no version '1'; served versions: 2"):
            await triton.infer("net", "1")

    add_version(tmp_path, "net", 1)
    with_triton(tmp_path, protocol, test)


@both
def test_all_versions_that_the_policy_wants_are_served(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        await triton.client.load_model("net")
        assert await triton.versions("net") == ["1", "2", "3"]
        assert [await triton.infer("net", version) for version in ("", "1", "2", "3")] == ["3", "1", "2", "3"]
        statistics = await triton.client.get_inference_statistics("net")
        entries = statistics["model_stats"] if protocol == "http" else statistics.model_stats
        assert len(entries) == 3

    for number in (1, 2, 3):
        add_version(tmp_path, "net", number)
    (tmp_path / "net" / "config.pbtxt").write_text("version_policy { all { } }")
    with_triton(tmp_path, protocol, test)


@both
def test_a_load_may_bring_its_files(protocol: str, tmp_path: Path) -> None:
    async def test(triton: Triton, worker: ScriptedWorker) -> None:
        files = {"file:5/model.onnx": b"weights" * 50_000}
        await triton.client.load_model("brought", config=CONFIG, files=files)
        assert await triton.versions("brought") == ["5"]
        assert await triton.infer("brought") == "5"
        with pytest.raises(InferenceServerException, match="needs the parameter config"):
            await triton.client.load_model("brought", files=files)

    with_triton(tmp_path, protocol, test)


def with_http(root: Path, test: Callable[[Peer, ScriptedWorker], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        async with (
            explicit(root, **settings) as (host, worker),
            serving_http(host, LOOPBACK) as http,
            connected(http) as peer,
        ):
            await test(peer, worker)

    run(whole())


async def post(peer: Peer, path: str, content: Any, **headers: str) -> tuple[int, Any]:
    answer = await peer.ask("POST", path, json.dumps(content).encode(), **headers)
    return answer.status, answer.json()


def test_kserves_agent_loads_and_unloads_a_model_whose_files_have_appeared(tmp_path: Path) -> None:
    async def test(peer: Peer, worker: ScriptedWorker) -> None:
        add_version(tmp_path, "net", 1)
        assert await post(peer, "/v2/repository/models/net/load", {}) == (200, {})
        assert (await peer.ask("GET", "/v2/models/net/ready")).status == 200
        assert await post(peer, "/v2/repository/models/net/unload", {}) == (200, {})
        assert (await peer.ask("GET", "/v2/models/net/ready")).status == 404

    with_http(tmp_path, test)


def test_a_server_without_a_repository_loads_by_path_and_again_by_name(tmp_path: Path) -> None:
    async def test(peer: Peer, worker: ScriptedWorker) -> None:
        path = {"parameters": {"path": "zoo/resnet.onnx"}}
        assert await post(peer, "/v2/repository/models/net/load", path) == (200, {})
        assert await post(peer, "/v2/repository/models/net/unload", {}) == (200, {})
        assert await post(peer, "/v2/repository/models/net/load", {}) == (200, {})
        assert (await peer.ask("GET", "/v2/models/net/ready")).status == 200
        status, body = await post(peer, "/v2/repository/models/net/load", {"parameters": {"config": "{}"}})
        assert (status, body["error"]) == (
            400,
            "the server has no model repository; start it with --model-repository DIR",
        )

    with_http(tmp_path, test, repository=False)


def test_a_load_or_an_unload_that_does_not_wait_is_answered_at_once(tmp_path: Path) -> None:
    async def test(peer: Peer, worker: ScriptedWorker) -> None:
        at_once = {"parameters": {"wait": False}}
        worker.holds = lambda action: isinstance(action, LoadModelFromDisk)
        assert await post(peer, "/v2/repository/models/net/load", at_once) == (200, {})
        _, index = await post(peer, "/v2/repository/index", {})
        assert [entry["state"] for entry in index] == ["LOADING"]
        await worker.until(lambda: bool(worker.held))
        worker.answer(*worker.held[0])
        while (await peer.ask("GET", "/v2/models/net/ready")).status != 200:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
        assert await post(peer, "/v2/repository/models/net/unload", at_once) == (200, {})
        _, index = await post(peer, "/v2/repository/index", {"ready": True})
        assert index == []

    add_version(tmp_path, "net", 1)
    with_http(tmp_path, test)


def test_a_kept_version_serves_beside_the_loaded_one_and_is_unloaded_alone(tmp_path: Path) -> None:
    async def test(peer: Peer, worker: ScriptedWorker) -> None:
        await post(peer, "/v2/repository/models/net/load", {})
        add_version(tmp_path, "net", 2)
        await post(peer, "/v2/repository/models/net/load", {"parameters": {"keep": True}})
        assert (await peer.ask("GET", "/v2/models/net")).json()["versions"] == ["1", "2"]
        version = {"parameters": {"version": "2"}}
        assert await post(peer, "/v2/repository/models/net/unload", version) == (200, {})
        assert (await peer.ask("GET", "/v2/models/net")).json()["versions"] == ["1"]
        status, body = await post(peer, "/v2/repository/models/net/unload", version)
        assert (status, body["error"]) == (404, "model 'net' has no version '2'; served versions: 1")

    add_version(tmp_path, "net", 1)
    with_http(tmp_path, test)


@pytest.mark.parametrize(
    ("action", "parameters", "error"),
    [
        ("load", {"copies": 2}, "load has the unknown parameter 'copies'; known: path, keep, wait, config, file:PATH"),
        ("load", {"path": 5}, "parameter path of the load is of type int; it must be a string"),
        ("load", {"path": "a", "config": "{}"}, "load has the parameters path and 'config'; send one of them"),
        ("unload", {"wait": "no"}, "parameter wait of the unload is of type str; it must be a boolean"),
        ("unload", {"x": 1}, "unload has the unknown parameter 'x'; known: unload_dependents, version, wait"),
    ],
)
def test_wrong_parameters_are_refused(action: str, parameters: dict[str, Any], error: str, tmp_path: Path) -> None:
    async def test(peer: Peer, worker: ScriptedWorker) -> None:
        status, body = await post(peer, f"/v2/repository/models/net/{action}", {"parameters": parameters})
        assert (status, body["error"]) == (400, error)

    with_http(tmp_path, test)


def test_loads_and_unloads_need_the_right_of_an_administrator(tmp_path: Path) -> None:
    reader, admin = "reader-token-0123456", "admin-token-01234567"

    async def test(peer: Peer, worker: ScriptedWorker) -> None:
        for action in ("load", "unload"):
            path = f"/v2/repository/models/net/{action}"
            assert (await post(peer, path, {}, authorization=f"Bearer {reader}"))[0] == 403
            assert (await post(peer, path, {}, authorization=f"Bearer {admin}"))[0] == 200

    add_version(tmp_path, "net", 1)
    with_http(tmp_path, test, guarded={"access": Access(Tokens([reader]), Tokens([admin]))})
