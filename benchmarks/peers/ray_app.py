"""A Ray Serve application that serves ONNX models with sessions of bare ONNX Runtime, for `bench_ray_serve.py`.

    python ray_app.py --keep 8 --temporary /tmp/ray model.onnx ...

The program starts Ray on this machine, and prints the HTTP address when it serves. SIGTERM ends it. One request is a
POST whose body is the tensor. The header ``serve_multiplexed_model_id`` names the model, and the header
``x-request-timeout-seconds`` contains the time that remains. Ray ends a request after this time. A response begins with
`COLD` or `WARM`, and the rest is the output.

The application uses what Ray's documentation recommends for throughput and for time limits:

- ``@serve.multiplexed`` keeps the ``--keep`` models that were used last. A load runs in a thread, so requests to other
  models continue. If a request times out while its model is loaded, the load is completed for later requests.
- ``@serve.batch`` collects the requests that wait. The requests of a batch to the same model are executed together.
- ``RAY_SERVE_THROUGHPUT_OPTIMIZED=1`` is set. With ``--ingress direct``, clients connect to the replica itself. With
  ``--ingress haproxy``, HAProxy passes requests on to the replica. With ``--ingress proxy``, Ray's proxy in Python
  passes requests on to the replica.
- ``max_ongoing_requests`` and ``max_queued_requests`` refuse requests that would wait too long. The defaults are a
  compromise: 2 and 2 were better at 1.5 times the rate of bare ONNX Runtime, and 16 and 16 slightly better at 0.6 times
  this rate. The replica does not execute a request whose time has passed.
- The access log and the dashboard are disabled.
"""

import argparse
import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLD = b'{"cold_start":true}'
WARM = b'{"cold_start":false}'
TIMED_OUT = 408
"""Status of Ray Serve's responses to requests that time out."""

INGRESSES = ("direct", "haproxy", "proxy")
OBJECT_STORE_BYTES = 200 << 20


class Session:
    """A session of ONNX Runtime with one thread. The model in the file has been optimised before."""

    def __init__(self, path: str) -> None:
        from clockwork.runtimes.ort import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        described = self._session.get_inputs()[0]
        self._input = described.name
        self._shape = (-1, *described.shape[1:])

    def run(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Execute tensors as one batch, and return the outputs."""
        arrays = [np.frombuffer(body, np.float32).reshape(self._shape) for body in bodies]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return [output.tobytes() for output in self._session.run(None, {self._input: rows})[0]]


@dataclass
class Waiting:
    """A request that waits in the replica. ``expires`` is in seconds of the replica's monotonic clock."""

    session: Session
    body: bytes
    expires: float


def application(given: argparse.Namespace) -> Any:
    """Return the application."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    files = {path.stem: str(path) for path in given.models}

    class Models:
        def __init__(self) -> None:
            self.loads: Counter[str] = Counter()  # number of completed loads of each model
            self.loader, self.executor = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

        @serve.multiplexed(max_num_models_per_replica=given.keep)  # type: ignore[untyped-decorator]
        async def session(self, name: str) -> Session:
            loaded = await asyncio.get_running_loop().run_in_executor(self.loader, Session, files[name])
            self.loads[name] += 1
            return loaded

        @serve.batch(max_batch_size=given.batch, batch_wait_timeout_s=given.wait_ms / 1e3)  # type: ignore[untyped-decorator]
        async def outputs(self, batch: list[Waiting]) -> list[bytes | None]:
            found: list[bytes | None] = [None] * len(batch)
            groups: dict[int, list[int]] = {}
            for at, waiting in enumerate(batch):
                groups.setdefault(id(waiting.session), []).append(at)
            loop = asyncio.get_running_loop()
            for group in groups.values():
                now = time.monotonic()
                if chosen := [at for at in group if batch[at].expires > now]:
                    bodies = [batch[at].body for at in chosen]
                    outputs = await loop.run_in_executor(self.executor, batch[chosen[0]].session.run, bodies)
                    for at, output in zip(chosen, outputs, strict=True):
                        found[at] = output
            return found

        async def __call__(self, request: Request) -> Response:
            expires = time.monotonic() + float(request.headers["x-request-timeout-seconds"])
            name = request.headers["serve_multiplexed_model_id"]
            body = await request.body()
            loads = self.loads[name]
            session = await asyncio.shield(asyncio.ensure_future(self.session(name)))
            cold = self.loads[name] != loads
            output = await self.outputs(Waiting(session, body, expires))
            if output is None:
                return Response(status_code=TIMED_OUT)
            return Response((COLD if cold else WARM) + output, media_type="application/octet-stream")

    options = {"max_ongoing_requests": given.ongoing, "max_queued_requests": given.queued}
    return serve.deployment(Models, num_replicas=1, ray_actor_options={"num_cpus": 1}, **options).bind()


def free_port() -> int:
    """Return a TCP port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(ingress: str, port: int, directory: Path) -> dict[str, str]:
    """Return the environment variables with which Ray is started. ``port`` is the replica's port for direct ingress."""
    found = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    found |= {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0"}  # no client is connected at the end
    found |= {"RAY_SERVE_ENABLE_DIRECT_INGRESS": str(int(ingress != "proxy"))}
    found |= {f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT": str(port + add) for end, add in (("MIN", 0), ("MAX", 100))}
    if ingress == "haproxy":
        names = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "SERVER_STATE_FILE": "server-state"}
        found |= {f"RAY_SERVE_HAPROXY_{name}": str(directory / file) for name, file in names.items()}
        found |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory)}
        found |= {"RAY_SERVE_HAPROXY_NBTHREAD": "1"}
    return found


def options() -> argparse.ArgumentParser:
    """Return a parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="optimised models; a file's name is the model's name")
    parser.add_argument("--temporary", type=Path, required=True, help="directory of Ray's files; a short path")
    parser.add_argument("--keep", type=int, required=True, help="number of models that are loaded at most")
    parser.add_argument("--ingress", choices=INGRESSES, default=INGRESSES[0])
    parser.add_argument("--batch", type=int, default=3, help="largest batch")
    parser.add_argument("--wait-ms", type=float, default=0.0, help="longest wait for a full batch")
    parser.add_argument("--ongoing", type=int, default=3, help="max_ongoing_requests of the replica")
    parser.add_argument("--queued", type=int, default=3, help="max_queued_requests of each proxy")
    return parser


def main() -> None:
    """Serve until SIGTERM arrives."""
    given = options().parse_args()
    port, replica_port = free_port(), free_port()
    os.environ.update(environment(given.ingress, replica_port, given.temporary))
    import ray
    from ray import serve

    ray.init(
        num_cpus=1, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, _temp_dir=str(given.temporary),
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=logging)
    serve.run(application(given))
    print(f"127.0.0.1:{replica_port if given.ingress == 'direct' else port}", flush=True)
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
