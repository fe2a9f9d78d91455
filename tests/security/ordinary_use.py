"""Uses Clockwork as an ordinary user does: ``ordinary_use.py DIRECTORY SECONDS``. test_silence.py runs this program.

A server serves a model over all protocols for ``SECONDS``, and clients send requests. The program also runs
``check-model``, ``status``, and a simulation with plots.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import tritonclient.grpc as triton

from cli.processes import clockwork, save_dense
from clockwork.client import Client
from clockwork.host.child_process import this_program

SCENARIO = """
name = "small"
duration_s = 1
warmup_s = 0
[[models]]
name = "resnet50"
profile = "resnet50-v100"
[[workload]]
kind = "poisson"
rate = 10
"""
ROW = np.ones((1, 32), np.float32)


def over_http(where: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": ROW.shape, "data": ROW.flatten().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    with urlopen(Request(f"http://{where}/v2/models/dense/infer", body), timeout=30) as answer:
        assert answer.status == 200


def over_grpc(where: str) -> None:
    with triton.InferenceServerClient(where) as client:
        tensor = triton.InferInput("x", ROW.shape, "FP32")
        tensor.set_data_from_numpy(ROW)
        assert client.infer("dense", [tensor]).as_numpy("y").shape == (1, 5)


def main(directory: Path, seconds: float) -> None:
    model, scenario = save_dense(directory / "dense.onnx"), directory / "small.toml"
    scenario.write_text(SCENARIO)
    ports = [f"--{protocol}=127.0.0.1:0" for protocol in ("listen", "http", "grpc")]
    with clockwork("serve", str(model), *ports, "--profile-seconds=0.01", "--max-batch=2", "--slo=20s") as process:
        address, began = process.address(), time.monotonic()
        over_http(process.out.wait_for(r"HTTP on (\S+)$")[1])
        over_grpc(process.out.wait_for(r"gRPC on (\S+)$")[1])
        with Client(address) as client:
            assert client.infer("dense", {"x": ROW})["y"].shape == (1, 5)
        for command in (
            ["check-model", str(model), "--max-batch=1"],
            ["status", "--address", address],
            ["sim", str(scenario), "--plots", str(directory / "plots")],
        ):
            subprocess.run(this_program(*command), check=True, stdout=subprocess.DEVNULL, timeout=120)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        process.popen.terminate()
        assert process.ended() == 0, process.err.seen


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
