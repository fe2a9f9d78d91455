"""Validates manifests strictly against schemas that packages contain.

Kubernetes has the schemas of two versions. KEDA, the Prometheus Operator and KServe have one version each. Strictly
means that a key that the schema does not name is an error. `make test-kubernetes` installs the packages.
"""

import ast
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from manifests.documents import Manifest

VERSIONS = ("1.30", "1.35")
"""Versions of Kubernetes."""

OPERATORS = {
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
}
"""Module with the schema of each kind of object that an operator defines."""

HAS_SCHEMAS = find_spec("kubernetes_validate") is not None

needs_schemas = pytest.mark.skipif(not HAS_SCHEMAS, reason="schemas are not installed; make test-kubernetes does it")


def validate(manifests: list[Manifest]) -> None:
    """Raise an error if a manifest does not fit its schema."""
    for manifest in manifests:
        _validate(json.dumps(manifest, sort_keys=True))


@cache
def _validate(text: str) -> None:
    manifest = json.loads(text)
    group = manifest["apiVersion"].partition("/")[0]
    if group == "serving.kserve.io":
        _validate_kserve(manifest)
    elif manifest["kind"] in OPERATORS:
        _validate_operator(manifest)
    else:
        _validate_kubernetes(manifest)


def _validate_kubernetes(manifest: Manifest) -> None:
    import kubernetes_validate  # type: ignore[import-not-found, unused-ignore]

    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def _validate_operator(manifest: Manifest) -> None:
    model = getattr(__import__(OPERATORS[manifest["kind"]], fromlist=["_"]), manifest["kind"])
    parsed = model.model_validate(manifest).model_dump(by_alias=True, exclude_none=True, mode="json")
    assert keys(manifest) <= keys(parsed), "a key is not in the schema"


def keys(value: Any, at: str = "") -> set[str]:
    """Return the paths of all keys in a document."""
    if isinstance(value, dict):
        return {f"{at}.{key}" for key in value}.union(*(keys(inner, f"{at}.{key}") for key, inner in value.items()))
    return set().union(*(keys(inner, f"{at}[]") for inner in value)) if isinstance(value, list) else set()


# --------------------------------------------------------------------------------------------- KServe

PLAIN: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object}


def _validate_kserve(manifest: Manifest) -> None:
    """Validate the part that KServe defines with the types of its SDK, and the pod with those of Kubernetes."""
    version = manifest["apiVersion"].rpartition("/")[2].capitalize()
    _check_type(f"{version}{manifest['kind']}", manifest, manifest["kind"])
    spec = manifest["spec"]
    if "containers" in spec:
        part = {key: spec[key] for key in ("containers", "volumes") if key in spec}
        _validate_pod(part)
    if resources := spec.get("predictor", {}).get("model", {}).get("resources"):
        _validate_pod({"containers": [{"name": "c", "image": "i", "resources": resources}]})


def _validate_pod(spec: Manifest) -> None:
    _validate_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec})


def _check_type(name: str, value: Any, at: str) -> None:
    if inner := re.fullmatch(r"list\[(.*)\]", name):
        assert isinstance(value, list), at
        for number, element in enumerate(value):
            _check_type(inner[1], element, f"{at}[{number}]")
    elif inner := re.fullmatch(r"dict\(str, (.*)\)", name):
        assert isinstance(value, dict), at
        for key, element in value.items():
            _check_type(inner[1], element, f"{at}.{key}")
    elif name in PLAIN:
        assert isinstance(value, PLAIN[name]), f"{at} must be of type {name}"
    elif (found := _types_of_sdk(name)) is not None:
        for key, element in value.items():
            assert key in found, f"{at} has no key {key}"
            _check_type(found[key], element, f"{at}.{key}")


@cache
def _types_of_sdk(name: str) -> dict[str, str] | None:
    """Return the type of each key of a class in KServe's SDK. The result is None for a class of Kubernetes.

    The source is parsed instead of imported, because the SDK imports a web server.
    """
    spec = find_spec("kserve")
    assert spec is not None
    assert spec.submodule_search_locations
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    file = Path(spec.submodule_search_locations[0]) / "models" / f"{words}.py"
    if not file.exists():
        assert not re.match(r"V\d(alpha|beta)\d", name), f"{name} is not in KServe's SDK"
        return None
    (kind,) = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in kind.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if node.targets[0].id in ("openapi_types", "attribute_map")
    }
    return {key: tables["openapi_types"][attribute] for attribute, key in tables["attribute_map"].items()}
