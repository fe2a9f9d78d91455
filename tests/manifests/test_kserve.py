"""KServe's manifests fit its schemas, and the runtime for many models does what KServe's agent requests.

A test plays the agent, because the agent is a program in Go. The rules of the agent and of the controller are those of
KServe's `pkg/agent`, `pkg/apis/serving/v1alpha1` and `pkg/controller/v1alpha1/trainedmodel`.
"""

import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from cli.processes import clockwork, save_dense
from manifests.documents import DEPLOY, documents, of_kind
from manifests.schemas import needs_schemas, validate

FILES = sorted(DEPLOY.glob("kserve*.yaml"))
AGENT_PROTOCOLS = ("s3://", "gs://", "https://", "http://")
"""The only protocols that KServe accepts in the storageUri of a TrainedModel."""

QUICK = ("--profile-seconds=0.01", "--max-batch=2", "--slo=20s", "--no-profile-cache", "--log-format=human")


@needs_schemas
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kserve_s_objects_fit_its_schemas(path: Path) -> None:
    manifests = documents(path.read_text())
    assert all(manifest["apiVersion"].startswith("serving.kserve.io/") for manifest in manifests)
    validate(manifests)


def test_the_objects_for_many_models_fit_together() -> None:
    runtime, service, *trained = documents((DEPLOY / "kserve-multi-model.yaml").read_text())
    assert (runtime["kind"], runtime["spec"]["multiModel"]) == ("ClusterServingRuntime", True)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert "storageUri" not in model, "KServe starts its agent only for a service without a model"
    assert runtime["spec"]["containers"][0]["ports"][0]["containerPort"] == 8080, "the agent uses this port"
    assert trained
    for one in trained:
        assert one["spec"]["inferenceService"] == service["metadata"]["name"]
        assert one["spec"]["model"]["storageUri"].startswith(AGENT_PROTOCOLS)
        assert one["spec"]["model"]["framework"] in [it["name"] for it in runtime["spec"]["supportedModelFormats"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_service_states_its_resources_because_kserve_s_defaults_replace_those_of_the_runtime(path: Path) -> None:
    for service in of_kind(documents(path.read_text()), "InferenceService"):
        resources = service["spec"]["predictor"]["model"]["resources"]
        assert resources["requests"] == resources["limits"]
        assert float(resources["limits"]["cpu"]).is_integer()


class Agent:
    """What KServe's agent does in a pod: it downloads models, and sends loads and unloads to the server."""

    def __init__(self, models: Path, address: str) -> None:
        self.models = models
        self.address = address

    def add(self, name: str, seed: int = 0) -> int:
        """Download a model and load it. The agent writes a file with the hash of the model's spec beside the model."""
        save_dense(self.models / name / "model.onnx", seed)
        spec = json.dumps({"storageUri": f"s3://models/{name}", "framework": "onnx", "memory": "64Mi"})
        (self.models / name / f"SUCCESS.{hashlib.sha256(spec.encode()).hexdigest()}").write_text(spec)
        return self._post(name, "load")

    def remove(self, name: str) -> int:
        """Delete a model's files, and only then unload the model."""
        shutil.rmtree(self.models / name)
        return self._post(name, "unload")

    def replace(self, name: str, seed: int) -> None:
        """Do what the agent does when a TrainedModel has changed."""
        assert (self.remove(name), self.add(name, seed)) == (200, 200)

    def _post(self, name: str, action: str) -> int:
        return self._ask(f"/v2/repository/models/{name}/{action}", {})[0]

    def _ask(self, path: str, content: Any = None) -> tuple[int, Any]:
        body = None if content is None else json.dumps(content).encode()
        request = Request(f"http://{self.address}{path}", body, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=60) as response:
                return int(response.status), json.loads(response.read() or b"null")
        except HTTPError as error:
            return error.code, None

    def infer(self, name: str) -> list[float]:
        inputs = [{"name": "x", "shape": [1, 32], "datatype": "FP32", "data": 32 * [1.0]}]
        status, answer = self._ask(f"/v2/models/{name}/infer", {"inputs": inputs})
        assert status == 200
        output: list[float] = answer["outputs"][0]["data"]
        return output

    def is_ready(self, path: str) -> bool:
        return self._ask(path)[0] == 200

    def until_ready(self, path: str) -> None:
        while not self.is_ready(path):
            time.sleep(0.05)


def arguments(directory: Path) -> list[str]:
    """Return the arguments of the runtime for many models, with directories and ports of this machine."""
    (container,) = documents((DEPLOY / "kserve-multi-model.yaml").read_text())[0]["spec"]["containers"]
    here = {"/mnt/models": str(directory / "models"), "/var/lib/clockwork": str(directory / "state")}
    found = []
    for argument in container["args"]:
        text = re.sub(r"(0\.0\.0\.0|127\.0\.0\.1):\d+", "127.0.0.1:0", argument)
        for there, place in here.items():
            text = text.replace(there, place)
        found.append(text)
    (directory / "models").mkdir(exist_ok=True)
    return [*found, *QUICK]


def test_the_server_of_many_models_does_what_the_agent_requests(tmp_path: Path) -> None:
    with clockwork(*arguments(tmp_path)) as server:
        agent = Agent(tmp_path / "models", server.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1])
        agent.until_ready("/v2/health/ready")
        assert agent.add("squeezenet") == 200
        assert agent.add("my-Model_2") == 200
        assert agent.is_ready("/v2/models/squeezenet/ready")
        assert agent.remove("squeezenet") == 200
        assert not agent.is_ready("/v2/models/squeezenet/ready")
        before = agent.infer("my-Model_2")
        agent.replace("my-Model_2", seed=1)
        assert agent.infer("my-Model_2") != before
        assert agent.remove("my-Model_2") == 200
        assert agent.is_ready("/v2/health/ready"), "a server without models is ready"


def test_a_restarted_container_serves_the_models_again_without_the_agent(tmp_path: Path) -> None:
    with clockwork(*arguments(tmp_path)) as server:
        agent = Agent(tmp_path / "models", server.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1])
        agent.until_ready("/v2/health/ready")
        assert [agent.add(name) for name in ("kept", "removed", "half-removed")] == 3 * [200]
        assert agent.remove("removed") == 200
        server.send(signal.SIGKILL)
        server.ended()
    shutil.rmtree(tmp_path / "models/half-removed")
    with clockwork(*arguments(tmp_path)) as server:
        agent = Agent(tmp_path / "models", server.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1])
        agent.until_ready("/v2/models/kept/ready")
        agent.until_ready("/v2/health/ready")
        assert not agent.is_ready("/v2/models/removed/ready")
        assert not agent.is_ready("/v2/models/half-removed/ready")
        assert agent.add("another") == 200


def test_the_hook_after_the_start_waits_until_the_server_listens() -> None:
    (container,) = documents((DEPLOY / "kserve-multi-model.yaml").read_text())[0]["spec"]["containers"]
    program, option, script = container["lifecycle"]["postStart"]["exec"]["command"]
    assert (program, option) == ("python", "-c")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert script.count("8080") == 1
        command = [sys.executable, "-c", script.replace("8080", str(port))]
        with subprocess.Popen(command) as hook:
            with pytest.raises(subprocess.TimeoutExpired):
                hook.wait(0.5)
            listener.listen()
            assert hook.wait(30) == 0
