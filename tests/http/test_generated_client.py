"""Generators of clients can read the OpenAPI document, and a generated client works.

The generator cannot be installed beside Clockwork, because its requirements contradict ours. To run its test, install
it with ``pipx install openapi-python-client``.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.processes import save_dense, serve
from clockwork import __version__
from clockwork.oip.openapi import document

GENERATOR = shutil.which("openapi-python-client")

USE = """
import sys
sys.path.insert(0, sys.argv[2])
from generated import Client
from generated.api.default import infer, model_metadata
from generated.models import Error, InferHead

client = Client(base_url=sys.argv[1])
tensor = {"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [0.5] * 32}
answer = infer.sync(model="dense", client=client, body=InferHead.from_dict({"inputs": [tensor]}))
output = answer.outputs[0]
print(output.shape, len(output.data), answer.parameters.total_ms > 0)
print(model_metadata.sync(model="dense", client=client).inputs[0].name)
answer = infer.sync(model="nobody", client=client, body=InferHead.from_dict({"inputs": [tensor]}))
print(type(answer).__name__, answer.status_name)
"""


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects in the document."""
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from schemas(member)
    elif isinstance(value, list):
        for member in value:
            yield from schemas(member)


def test_the_document_suffices_for_generators_of_clients() -> None:
    found: Any = json.loads(msgspec.json.encode(document(__version__)))
    for schema in schemas(found):
        if schema.get("type") == "array":
            assert "items" in schema or "prefixItems" in schema
        if "content" in schema:
            for content_type, content in schema["content"].items():
                assert "schema" in content, content_type
                if content_type == "application/octet-stream":
                    assert (content["schema"]["type"], content["schema"]["format"]) == ("string", "binary")


@pytest.mark.skipif(GENERATOR is None, reason="pipx install openapi-python-client")
def test_a_generated_client_infers(tmp_path: Path) -> None:
    assert GENERATOR is not None
    path = tmp_path / "openapi.json"
    path.write_bytes(msgspec.json.encode(document(__version__)))
    command = [GENERATOR, "generate", f"--path={path}", f"--output-path={tmp_path / 'generated'}", "--meta=none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=True)
    assert "arning" not in done.stdout + done.stderr
    python = Path(GENERATOR).resolve().parent / "python"
    with serve(str(save_dense(tmp_path / "dense.onnx")), "--http=127.0.0.1:0") as process:
        found = process.out.wait_for(r"^clockwork serves HTTP on (\S+)$")[1]
        process.address()
        command = [str(python), "-c", USE, f"http://{found}", str(tmp_path)]
        used = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert used.stdout.splitlines() == ["[1, 5] 5 True", "x", "Error UNKNOWN_MODEL"], used.stderr
