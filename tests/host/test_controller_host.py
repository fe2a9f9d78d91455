"""The controller's host on loopback: invalid and broken peers, and the files on disk."""

import asyncio
import fcntl
import logging
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from client.live import ScriptedWorker, controller, run, serving
from clockwork.client import AsyncClient
from clockwork.errors import ConnectionLostError, ServerError
from clockwork.host.controller import ControllerHost
from clockwork.host.profile_store import ProfileStore
from clockwork.messages.actions import Infer, LoadWeights
from clockwork.messages.link import ROLE_CLIENT, ROLE_WORKER, Hello
from clockwork.messages.profile import Measurement, ModelProfile, ProfileKey
from clockwork.messages.requests import InferRequest, InferResponse
from clockwork.messages.results import ErrorResult
from clockwork.messages.status import Status
from clockwork.messages.tensors import TensorSpec, spec
from clockwork.net.address import Address
from clockwork.net.dial import dial
from clockwork.scheduling.base import Scheduler
from clockwork.wire.codec import decode_response
from clockwork.wire.frame import encode_frame, preamble

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)


async def say(address: Address, data: bytes) -> bytes:
    """Send bytes; return everything that is received until the connection is closed."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


async def still_serves(host: ControllerHost) -> None:
    async with AsyncClient(str(host.client_address)) as client:
        np.testing.assert_array_equal((await client.infer("m", {"x": ROW}))["y"], 2 * ROW)


INVALID_BYTES = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "garbage": bytes(range(255, 0, -1)) * 10,
    "old version": preamble(0) + encode_frame(msgspec.msgpack.encode(Hello(ROLE_WORKER, "w9", "")))[0],
    "huge frame": preamble() + struct.pack("<II", 0xFFFFFFFF, 10),
    "header longer than frame": preamble() + struct.pack("<II", 4, 100),
    "not msgpack": preamble() + encode_frame(b"\xc1\xc1\xc1")[0],
    "unknown message": preamble() + encode_frame(msgspec.msgpack.encode([424242, 1]))[0],
    "no greeting": preamble() + encode_frame(msgspec.msgpack.encode(InferRequest(1, "m", ())))[0],
    "unknown role": preamble() + encode_frame(msgspec.msgpack.encode(Hello("king", "w9", "")))[0],
}


@pytest.mark.parametrize("port", ["client", "worker"])
@pytest.mark.parametrize("what", INVALID_BYTES)
def test_an_unknown_protocol_is_refused_without_effect_on_others(port: str, what: str) -> None:
    async def test() -> None:
        async with serving() as (host, _):
            await still_serves(host)
            address = host.client_address if port == "client" else host.worker_address
            await say(address, INVALID_BYTES[what])
            await still_serves(host)

    run(test())


@pytest.mark.parametrize("port", ["client", "worker"])
def test_an_incomplete_frame_does_not_affect_other_clients(port: str) -> None:
    async def test() -> None:
        async with serving() as (host, _):
            address = host.client_address if port == "client" else host.worker_address
            role = ROLE_CLIENT if port == "client" else ROLE_WORKER
            hello = encode_frame(msgspec.msgpack.encode(Hello(role, "w1", "")))[0]
            reader, writer = await asyncio.open_connection(*address)
            writer.write(preamble() + hello + struct.pack("<II", 1000, 10) + b"half")
            writer.write_eof()
            await reader.read()
            writer.close()
            await still_serves(host)

    run(test())


def test_a_role_at_the_wrong_port_gets_an_error() -> None:
    async def test() -> None:
        async with serving() as (host, _):
            with pytest.raises(Exception, match="this port is for the role 'worker'"):
                await AsyncClient(str(host.worker_address)).connect()

    run(test())


async def raw_infer(host: ControllerHost, request: InferRequest, payload: bytes) -> InferResponse:
    """Return the frame of an InferRequest that the client has not checked."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    connection = await dial(
        host.client_address,
        Hello(ROLE_CLIENT, "", "raw"),
        decode=decode_response,
        on_message=lambda connection, message, payload: answer.set_result(message),
        on_closed=lambda connection, reason: None,
    )
    connection.send(request, [payload])
    response = await answer
    connection.close("enough")
    assert isinstance(response, InferResponse)
    return response


@pytest.mark.parametrize(
    ("tensor", "payload", "expected"),
    [
        (TensorSpec("x", "FP32", (1, 4), 16), b"short", "16 bytes, but the request has 5"),
        (TensorSpec("x", "FP32", (1, 4), 5), b"short", "takes 16 bytes, but its size is given as 5"),
        (TensorSpec("x", "FP32", (-1, -4), 16), bytes(16), "negative dimension"),
        (TensorSpec("x", "FP32", (2**62, 2**62), 16), bytes(16), "but its size is given as 16"),
        (TensorSpec("x", "FP33", (1, 4), 16), bytes(16), "unknown datatype 'FP33'"),
        (TensorSpec("x", "FP32", (1,) * 17, 4), bytes(4), "17 dimensions"),
        (TensorSpec("x", "BYTES", (1, 4), 3), b"abc", "at least 4"),
    ],
)
def test_sizes_that_do_not_match_are_an_invalid_request(tensor: TensorSpec, payload: bytes, expected: str) -> None:
    async def test() -> None:
        async with serving() as (host, _):
            response = await raw_infer(host, InferRequest(1, "m", (tensor,)), payload)
            assert response.status == Status.INVALID_REQUEST
            assert expected in response.message
            await still_serves(host)

    run(test())


def test_generated_inputs_are_limited() -> None:
    async def test() -> None:
        async with serving() as (host, _):
            enormous = spec("x", "FP32", (1 << 40, 4))
            response = await raw_infer(host, InferRequest(1, "m", (enormous,), generated=True), b"")
            assert response.status == Status.INVALID_REQUEST
            fine = await raw_infer(host, InferRequest(1, "m", (spec("x", "FP32", (1, 4)),), generated=True), b"")
            assert fine.status == Status.SUCCESS

    run(test())


def test_a_worker_that_dies_and_comes_back_serves_again() -> None:
    def real_infer(action: Any) -> bool:
        return isinstance(action, Infer) and not action.inputs[0].generated

    async def test() -> None:
        async with serving(holds=real_infer) as (host, worker), AsyncClient(str(host.client_address)) as client:
            call = asyncio.create_task(client.infer("m", {"x": ROW}))
            await worker.until(lambda: len(worker.held) == 1)
            assert worker.connection is not None
            worker.connection.close("gone")
            with pytest.raises(Exception, match="no device can serve m now"):
                await call
            again = ScriptedWorker()
            await again.connect(host)
            await again.until(lambda: any(action.__class__.__name__ == "LoadModelFromDisk" for action in again.seen))
            while not (await client.status()).workers[0].ready:
                pass
            np.testing.assert_array_equal((await client.infer("m", {"x": ROW}))["y"], 2 * ROW)

    run(test())


def test_a_second_worker_with_the_same_name_is_refused_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving() as (host, first):
            for _ in range(3):
                with pytest.raises(ConnectionLostError, match="with the name w0 is already connected"):
                    await ScriptedWorker().connect(host)
            refusals = [record for record in caplog.records if "second worker" in record.getMessage()]
            assert [record.levelno for record in refusals] == [logging.ERROR]
            assert first.connection is not None
            assert not first.connection.closing
            await still_serves(host)

    run(test())


def test_a_worker_whose_output_sizes_do_not_match_is_dropped() -> None:
    async def test() -> None:
        async with controller() as host:
            worker = ScriptedWorker()
            answer = worker.answer

            def lie(action: Any, payload: Any = b"") -> None:
                if isinstance(action, Infer):
                    assert worker.connection is not None
                    from client.live import _result

                    result, buffers = _result(action, payload)
                    worker.connection.send(result, [*buffers, b"more"])
                else:
                    answer(action, payload)

            worker.answer = lie  # type: ignore[method-assign]
            await worker.connect(host)
            assert worker.connection is not None
            assert "but the message describes" in await worker.connection.closed

    run(test())


def test_a_cached_profile_is_not_measured_again(tmp_path: Path) -> None:
    async def one_start() -> int:
        async with serving(profile_cache=tmp_path) as (host, worker):
            await still_serves(host)
            return sum(isinstance(action, LoadWeights) for action in worker.seen)

    async def test() -> None:
        assert await one_start() > 1
        assert await one_start() == 1  # for the request, not for the profile

    run(test())


def test_a_named_model_that_fails_to_load_ends_the_start() -> None:
    async def test() -> None:
        async with controller(models=("broken.onnx",)) as host:
            worker = ScriptedWorker(lambda action: type(action).__name__ == "LoadModelFromDisk")
            await worker.connect(host)
            await worker.until(lambda: len(worker.held) == 1)
            assert worker.connection is not None
            error = ErrorResult(worker.held[0][0].id, "LoadModelFromDisk", Status.INVALID_MODEL, "not a model")
            worker.connection.send(error)
            with pytest.raises(ServerError, match=r"cannot serve broken: .* worker w0: not a model"):
                await host.wait()

    run(test())


class Rude(Scheduler):
    """A scheduler that always raises."""

    def infer(self, *_: Any) -> Any:
        raise RuntimeError("I would prefer not to")

    def result(self, *_: Any) -> Any:
        raise RuntimeError("nor this")

    def cancel(self, *_: Any) -> Any:
        raise RuntimeError("nor that")


def test_a_scheduler_that_raises_fails_only_the_request_at_hand(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(Rude()) as (host, _), AsyncClient(str(host.client_address)) as client:
            await client.ls()
            with (
                caplog.at_level(logging.CRITICAL),
                pytest.raises(ServerError, match="the scheduler failed"),
            ):
                await client.infer("m", {"x": ROW})
            assert (await client.status()).models[0].failed == 1

    run(test())


def test_a_port_in_use_is_reported_in_one_sentence() -> None:
    async def test() -> None:
        async with controller() as host:
            from clockwork.net.server import listen

            with pytest.raises(ServerError, match=f"cannot listen on {host.client_address}: .*in use"):
                await listen(
                    host.client_address,
                    role=ROLE_CLIENT,
                    decode=decode_response,
                    on_connected=lambda connection: None,
                    on_message=lambda connection, message, payload: None,
                    on_closed=lambda connection, reason: None,
                )

    run(test())


KEY = ProfileKey("abc", "runtime 1", "cpu x1")
PROFILE = ModelProfile(Measurement((3, 1, 2)), {1: Measurement((10, 20)), 2: Measurement((30,))}, 2, ((4,),))


def test_profiles_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "new")
    assert store.load() == {}
    store.save(KEY, PROFILE)
    store.save(KEY, PROFILE)
    assert ProfileStore(tmp_path / "new").load() == {KEY: PROFILE}
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "\x00\xff"])
def test_a_broken_profile_is_ignored(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken.json").write_text(text)
    store = ProfileStore(tmp_path)
    store.save(KEY, PROFILE)
    with caplog.at_level(logging.WARNING):
        assert store.load() == {KEY: PROFILE}
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (ModelProfile(Measurement((0,)), {1: Measurement((0, 0))}), "times must be 1 to"),
        (ModelProfile(Measurement((1,)), {1: Measurement((1 << 62,))}), "times must be 1 to"),
        (ModelProfile(Measurement((1,)), {1: Measurement((-5,))}), "times must be 1 to"),
        (ModelProfile(Measurement(()), {1: Measurement((1,))}), "a list of times is empty"),
        (ModelProfile(Measurement((1,)), {2: Measurement((1,))}), "no time for batch size 1"),
        (ModelProfile(Measurement((1,)), {1: Measurement((1,)), -4: Measurement((1,))}), "batch sizes must be"),
        (ModelProfile(Measurement((1,)), {1: Measurement((1,))}, 1, ((-1, 4),)), "dimensions must be"),
    ],
)
def test_a_profile_with_impossible_values_is_ignored(
    tmp_path: Path, profile: ModelProfile, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = ProfileStore(tmp_path)
    store.save(replace(KEY, digest="other"), profile)
    store.save(KEY, PROFILE)
    assert store.load() == {KEY: PROFILE}
    assert why in caplog.text


def test_a_profile_that_is_not_a_regular_file_is_ignored_and_blocks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.tmp")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "directory.json").mkdir()
    store = ProfileStore(tmp_path)
    store.save(KEY, PROFILE)
    assert store.load() == {KEY: PROFILE}
    assert caplog.text.count("is ignored") == 3


def test_temporary_files_of_killed_processes_are_removed_and_those_in_use_are_kept(tmp_path: Path) -> None:
    (tmp_path / "killed.tmp").write_text("")
    with (tmp_path / "used.tmp").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ProfileStore(tmp_path).load()
        assert [path.name for path in tmp_path.iterdir()] == ["used.tmp"]


def test_a_directory_of_profiles_that_cannot_be_read_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert ProfileStore(tmp_path / "file").load() == {}
    assert "cannot be read, so models are measured: Not a directory" in caplog.text


def test_a_directory_without_write_permission_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        ProfileStore(tmp_path / "file" / "under").save(KEY, PROFILE)
    assert "cannot be saved" in caplog.text
