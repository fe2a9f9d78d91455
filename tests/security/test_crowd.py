"""Another client is still served while ten thousand connections are idle and five hundred are slow."""

import json
import re
import resource
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest

from cli.processes import QUICK, clockwork

IDLE, SLOW, REQUESTS = 10_000, 500, 20
NEEDED = IDLE + SLOW + 500


def infer(port: int) -> int:
    """Send one image to an emulated model on a new connection; return the HTTP status."""
    image = bytes(4 * 3 * 224 * 224)
    binary = {"binary_data_size": len(image)}
    tensor = {"name": "data", "datatype": "FP32", "shape": [1, 3, 224, 224], "parameters": binary}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    client = HTTPConnection("127.0.0.1", port, timeout=60)
    client.request(
        "POST", "/v2/models/resnet50-v100/infer", head + image, {"Inference-Header-Content-Length": str(len(head))}
    )
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.status


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < NEEDED, reason=f"needs a limit of {NEEDED} open files"
)
def test_a_client_is_served_while_thousands_of_connections_are_idle_or_slow() -> None:
    quick = [option for option in QUICK if not option.startswith("--http")]
    emulated = ("--emulate=1", "--profile=resnet50-v100", "--http=127.0.0.1:0", "--listen=127.0.0.1:0")
    with clockwork("serve", *emulated, *quick) as server:
        server.address()
        port = int(server.out.wait_for(r"HTTP on 127.0.0.1:(\d+)")[1])
        crowd = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crowd.py")), str(port), str(IDLE), str(SLOW)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == f"here {IDLE + SLOW}\n"
            assert [infer(port) for _ in range(REQUESTS)] == [200] * REQUESTS
        finally:
            crowd.kill()
            crowd.communicate()
    assert not [line for line in server.err.seen if re.search("Traceback|Too many open files", line)]
