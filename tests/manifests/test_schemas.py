"""The schemas detect mistakes in each kind of object."""

import copy

import pytest

from manifests.documents import DEPLOY, Manifest, documents
from manifests.helm import needs_helm, template
from manifests.schemas import needs_schemas, validate


def everything() -> dict[str, Manifest]:
    """Return an object of each kind, from a fleet and from the files for KServe."""
    switches = ("keda", "serviceMonitor", "prometheusRule", "networkPolicy", "grafanaDashboard")
    manifests = template(mode="fleet", **{f"{switch}__enabled": "true" for switch in switches})
    for path in DEPLOY.glob("kserve*.yaml"):
        manifests += documents(path.read_text())
    return {manifest["kind"]: manifest for manifest in manifests}


@needs_helm
@needs_schemas
def test_an_unknown_key_or_a_wrong_type_is_an_error_for_each_kind() -> None:
    manifests = everything()
    assert len(manifests) == 13
    for kind, manifest in manifests.items():
        validate([manifest])
        part = "data" if kind == "ConfigMap" else "spec"
        for key, value in (("unexpected", "text"), (next(iter(manifest[part])), {"wrong": [1]})):
            wrong = copy.deepcopy(manifest)
            wrong[part][key] = value
            if (kind, key) != ("ConfigMap", "unexpected"):
                with pytest.raises(Exception, match=r"."):
                    validate([wrong])


@needs_schemas
def test_an_unknown_key_in_a_container_of_kserve_is_an_error() -> None:
    runtime, *_ = documents((DEPLOY / "kserve-multi-model.yaml").read_text())
    runtime["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(Exception, match="readynessProbe"):
        validate([runtime])
