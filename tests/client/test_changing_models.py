"""The native clients and the command line load, promote and unload versions while the server serves."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from client.live import run
from clockwork.cli import run as command
from clockwork.client import AsyncClient, Client
from clockwork.errors import InvalidRequestError, RequestRefusedError, UnknownModelError
from oip.test_model_control import add_version, explicit

ROW = {"x": np.ones((1, 4), np.float32)}


def test_a_rollout_a_canary_by_label_a_rollback_and_an_unload(tmp_path: Path) -> None:
    def rollout(address: str) -> None:
        with Client(address) as client:
            assert client.load("net") == ["net"]
            assert client.infer("net", ROW).version == "1"
            add_version(tmp_path, "net", 2)
            client.load("net", keep=True)
            client.promote("net", "1")
            client.promote("net", "2", label="canary")
            assert client.model("net").infer(ROW).version == "1"
            assert client.model("net", version="canary").infer(ROW).version == "2"
            assert [(each.version, each.default, each.labels) for each in client.ls()] == [
                ("1", True, ()),
                ("2", False, ("canary",)),
            ]
            client.promote("net", "2")
            assert client.infer("net", ROW).version == "2"
            client.promote("net", "1")
            assert client.infer("net", ROW).version == "1"
            assert client.unload("net", "2") == ["2"]
            with pytest.raises(UnknownModelError, match="model 'net' has no version 'canary'; served versions: 1"):
                client.infer("net", ROW, version="canary")
            assert client.unload("net") == ["1"]
            with pytest.raises(UnknownModelError, match="model 'nobody' is unknown"):
                client.unload("nobody")
            with pytest.raises(UnknownModelError, match="model 'nobody' is unknown"):
                client.promote("nobody", "1")

    async def test() -> None:
        async with explicit(tmp_path) as (host, _):
            await asyncio.to_thread(rollout, str(host.client_address))

    add_version(tmp_path, "net", 1)
    run(test())


def test_a_load_beyond_the_limit_of_pending_loads_is_refused_and_may_be_retried(tmp_path: Path) -> None:
    async def test() -> None:
        async with explicit(tmp_path, max_loads=0) as (host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(RequestRefusedError, match="which is the limit; retry later"):
                await client.load("net")

    add_version(tmp_path, "net", 1)
    run(test())


def test_a_load_by_name_that_no_repository_can_serve_says_why(tmp_path: Path) -> None:
    async def test() -> None:
        async with explicit(tmp_path) as (host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(InvalidRequestError, match="'nobody'"):
                await client.load("nobody")

    run(test())


def test_a_server_without_a_repository_loads_again_by_name(tmp_path: Path) -> None:
    async def test() -> None:
        async with explicit(tmp_path, repository=False) as (host, _), AsyncClient(str(host.client_address)) as client:
            with pytest.raises(InvalidRequestError, match=r"'net' is unknown; .*give the path of its file"):
                await client.load("net")
            assert await client.load("", "zoo/net.onnx") == ["net"]
            assert await client.unload("net") == ["1"]
            assert await client.load("net") == ["net"]
            assert (await client.model("net").infer(ROW)).version == "1"

    run(test())


def test_the_commands_change_the_served_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def commands(address: str) -> None:
        def output(*arguments: str) -> str:
            assert command([*arguments, "--address", address]) == 0, capsys.readouterr().err
            return capsys.readouterr().out

        assert output("reload", "net") == "net\n"
        assert output("load", "zoo/other.onnx", "--keep") == "other\n"
        add_version(tmp_path, "net", 2)
        (tmp_path / "net" / "config.pbtxt").write_text("version_policy { all { } }")
        assert output("reload", "net") == "net\n"
        assert output("promote", "net", "1") == ""
        assert output("promote", "net", "2", "--label", "canary") == ""
        assert "canary" in output("ls")
        assert output("unload", "net:1") == "net:1\n"
        assert "net:1 is UNAVAILABLE (unloaded)" in output("status")
        assert output("unload", "net", "--no-wait") == "net:2\n"
        assert command(["promote", "net", "7", "--address", address]) == 1
        assert capsys.readouterr().err.startswith("clockwork: model 'net' is unknown; served models: other")

    async def test() -> None:
        async with explicit(tmp_path) as (host, _):
            await asyncio.to_thread(commands, str(host.client_address))

    add_version(tmp_path, "net", 1)
    run(test())
