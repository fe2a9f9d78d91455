"""``clockwork serve`` serves models from the layouts of directories that other tools make, under their versions."""

import json
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from cli.processes import QUICK, clockwork, save_dense
from clockwork.client import Client


def reply(address: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(f"http://{address}/v2/{path}", data)) as answer:
        return json.load(answer)


def test_every_layout_is_served_under_the_version_of_its_directory(tmp_path: Path) -> None:
    save_dense(tmp_path / "repo/iris/2/model.onnx")
    (tmp_path / "repo/iris/1").mkdir()
    save_dense(tmp_path / "repo/iris/1/model.onnx", seed=1)
    (tmp_path / "repo/iris/config.pbtxt").write_text("max_batch_size: 2")
    save_dense(tmp_path / "volume/other-name.onnx", seed=2)
    (tmp_path / "volume/lost+found").mkdir()
    save_dense(tmp_path / "mounted/net/7/model.onnx", seed=3)
    models = [str(tmp_path / "repo/iris"), f"one={tmp_path}/repo/iris/1", f"volume={tmp_path}/volume"]
    quick = [option for option in QUICK if not option.startswith("--http")]
    options = ["--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--grpc=127.0.0.1:0", *quick]
    with clockwork("serve", *models, f"mounted={tmp_path}/mounted", *options) as process:
        http = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        grpc = process.out.wait_for(r"^clockwork serves gRPC on (\S+)$")[1]
        with Client(process.address()) as client:
            versions = {model.name: model.version for model in client.ls()}
        assert versions == {"iris": "2", "one": "1", "volume": "1", "mounted": "7"}
        assert reply(http, "models/iris/versions/2/ready") == {"name": "iris", "ready": True}
        assert reply(http, "models/iris")["versions"] == ["2"]
        assert reply(http, "models/iris/stats")["model_stats"][0]["version"] == "2"
        index = reply(http, "repository/index", {})
        assert {entry["name"]: entry["version"] for entry in index} == versions
        with pytest.raises(HTTPError, match="404"):
            reply(http, "models/iris/versions/1")
        row = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [1.0] * 32}]}
        for path in ("models/mounted/infer", "models/mounted/versions/7/infer"):
            assert reply(http, path, row)["model_version"] == "7"
        with pytest.raises(HTTPError, match="404"):
            reply(http, "models/mounted/versions/1/infer", row)
        with urlopen(f"http://{http}/metrics") as metrics:
            assert b'nv_inference_request_success{model="mounted",version="7"} 2.0' in metrics.read()
        check_over_grpc(grpc)


def check_over_grpc(address: str) -> None:
    import numpy as np
    from tritonclient.grpc import InferenceServerClient, InferInput

    with InferenceServerClient(address) as client:
        assert list(client.get_model_metadata("mounted", "7").versions) == ["7"]
        tensor = InferInput("x", [1, 32], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 32), np.float32))
        assert client.infer("mounted", [tensor], "7").get_response().model_version == "7"
