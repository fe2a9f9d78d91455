"""A parser of container files understands the Containerfile, and its stages fit together. No image is built."""

from io import BytesIO
from typing import Any

import pytest

from manifests.documents import DEPLOY

parser = pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed; make test-kubernetes")

INSTRUCTIONS = {"COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR"} | {
    "CMD",
    "ENTRYPOINT",
    "EXPOSE",
    "HEALTHCHECK",
    "STOPSIGNAL",
}


def stages() -> dict[str, list[dict[str, Any]]]:
    """Return the instructions of each stage, the last of which is the default."""
    found: dict[str, list[dict[str, Any]]] = {}
    parsed = parser.DockerfileParser(fileobj=BytesIO((DEPLOY / "Containerfile").read_bytes())).structure
    instructions = [entry for entry in parsed if entry["instruction"] != "COMMENT"]
    assert {entry["instruction"] for entry in instructions} <= INSTRUCTIONS
    for entry in instructions:
        if entry["instruction"] == "FROM":
            base, _, name = entry["value"].split()
            assert base == "python:3.11-slim" or base in found
            found[name] = []
        else:
            found[next(reversed(found))].append(entry)
    return found


def test_the_stages_use_only_stages_before_them() -> None:
    found = stages()
    assert list(found) == ["build", "build-cuda", "image", "cuda", "cpu"]
    names = list(found)
    for number, name in enumerate(names):
        for entry in found[name]:
            if entry["instruction"] == "COPY" and entry["value"].startswith("--from="):
                assert entry["value"].split()[0].removeprefix("--from=") in names[:number]


def test_each_image_gets_the_environment_of_its_own_build() -> None:
    found = stages()
    for name, build in (("cuda", "build-cuda"), ("cpu", "build")):
        copies = [entry["value"] for entry in found[name] if entry["instruction"] == "COPY"]
        assert copies == [f"--from={build} /opt/clockwork /opt/clockwork"]


def test_no_variable_of_an_image_gives_a_pod_all_gpus() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in (DEPLOY / "Containerfile").read_text()
