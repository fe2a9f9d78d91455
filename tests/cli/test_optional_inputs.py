"""Inputs with a default, served over HTTP, gRPC and the native protocol, alone and to concurrent clients."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from cli.processes import Process, serve
from clockwork.cli import run
from clockwork.client import Client
from clockwork.errors import InvalidRequestError
from onnx_graphs import saved
from runtimes.test_optional_inputs import BIAS, FACTOR, X, alone, scaled


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(scaled(), tmp_path_factory.mktemp("models") / "m.onnx")


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Process]:
    ports = ("--http=127.0.0.1:0", "--grpc=127.0.0.1:0")
    with serve(str(file), *ports, "--max-batch=4", "--profile-seconds=0.01") as process:
        yield process


def clients(server: Process) -> list[tuple[Any, Any]]:
    """Return Triton's client of each protocol, with its module."""
    http = server.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
    grpc = server.out.wait_for(r"^clockwork serves gRPC on (\S+)$")[1]
    return [
        (triton_http.InferenceServerClient(http.removeprefix("http://")), triton_http),
        (triton_grpc.InferenceServerClient(grpc), triton_grpc),
    ]


def test_configuration_and_metadata_name_optional_inputs(
    server: Process, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (http, _), (grpc, _) = clients(server)
    config = http.get_model_config("m")
    wanted = [("x", False), ("factor", True), ("bias", True)]
    assert [(each["name"], each["optional"]) for each in config["input"]] == wanted
    assert [each["dims"] for each in config["input"]] == [[8], [1], [512]]
    assert [(each.name, each.optional) for each in grpc.get_model_config("m").config.input] == wanted
    metadata = http.get_model_metadata("m")["inputs"]
    assert [(each["name"], each.get("optional", False)) for each in metadata] == wanted
    assert [(each.name, list(each.shape)) for each in grpc.get_model_metadata("m").inputs][1] == ("factor", [1])
    with Client(server.address()) as client:
        (model,) = client.ls()
    assert [(info.name, info.optional) for info in model.inputs] == wanted
    assert run(["check-model", str(file), "--max-batch=1"]) == 0
    assert "  input    factor FP32[1] (optional)\n" in capsys.readouterr().out


@pytest.mark.parametrize("sent", [{}, {"factor": FACTOR}, {"bias": BIAS}, {"factor": FACTOR, "bias": BIAS}])
def test_optional_inputs_are_accepted_over_every_protocol(sent: dict[str, Any], server: Process, file: Path) -> None:
    wanted = alone(file, x=X, **sent).tobytes()
    for client, module in clients(server):
        tensors = []
        for name, array in {**sent, "x": X}.items():
            tensors.append(module.InferInput(name, list(array.shape), "FP32"))
            tensors[-1].set_data_from_numpy(array)
        found = client.infer("m", tensors, parameters={"slo_ms": 5000.0}).as_numpy("y")
        assert found.tobytes() == wanted
    with Client(server.address()) as client:
        assert client.infer("m", {"x": X, **sent}, slo=5)["y"].tobytes() == wanted


def test_wrong_optional_inputs_are_refused(server: Process) -> None:
    with Client(server.address()) as client:
        with pytest.raises(InvalidRequestError, match=r"input 'factor' has shape \[2\]; model m takes x "):
            client.infer("m", {"x": X, "factor": np.zeros(2, np.float32)}, slo=5)
        with pytest.raises(InvalidRequestError, match=r"input 'x' is missing; .* factor FP32\[1\] \(optional\)"):
            client.infer("m", {"factor": FACTOR}, slo=5)


def test_no_response_depends_on_the_optional_inputs_of_another_client(server: Process, file: Path) -> None:
    feeds: list[dict[str, Any]] = []
    for i in range(60):
        feeds.append({"x": np.random.default_rng(i).random((1 + i % 2, 8), np.float32)})
        if i % 3:
            feeds[-1]["factor"] = np.array([i], np.float32)
        if i % 5 == 0:
            feeds[-1]["bias"] = np.full(512, i, np.float32)
    exact = {i: alone(file, **feed) for i, feed in enumerate(feeds)}

    def wrong(client_number: int) -> int:
        with Client(server.address()) as client:
            found = [client.infer("m", feeds[i], slo=20)["y"] for i in range(client_number, len(feeds), 3)]
        wanted = [exact[i] for i in range(client_number, len(feeds), 3)]
        # A request without optional inputs may share a batch, which changes the last bits.
        return sum(not np.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(found, wanted, strict=True))

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(wrong, range(3))) == 0
