"""Reads manifests of Kubernetes, and checks that the objects of a release fit together, which no schema can check."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm/clockwork"
RENDERED = {"single": DEPLOY / "kubernetes.yaml", "fleet": DEPLOY / "kubernetes-fleet.yaml"}

Manifest = dict[str, Any]

END_S = 10
"""Longest time in seconds in which a worker ends after the drain."""


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C is ten times as fast, where PyYAML has it."""


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.load_all(text, LOADER) if document]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield each manifest that has pods, with its only container."""
    for manifest in of_kind(manifests, "Deployment", "StatefulSet", "DaemonSet"):
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        yield manifest, container


def lines(container: Manifest) -> str:
    """Return the arguments of a container, one per line."""
    return "\n".join(container["args"])


def check(manifests: list[Manifest]) -> None:
    """Check that the objects of a release fit together, and that the pods are as safe as the documentation states."""
    by_name = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(by_name) == len(manifests)
    for manifest, container in pod_specs(manifests):
        _check_names(manifest)
        _check_security(manifest["spec"]["template"]["spec"], container)
        _check_volumes(manifest, container)
        _check_ports(container)
        _check_end(manifest["spec"]["template"]["spec"], container)
        if manifest["kind"] == "StatefulSet":
            assert ("Service", manifest["spec"]["serviceName"]) in by_name
        if controller := re.findall(r"^--controller=(.*):(\d+)$", lines(container), re.M):
            ((name, port),) = controller
            service = by_name["Service", name]["spec"]
            assert service["publishNotReadyAddresses"], "workers connect before the controller is ready"
            assert [entry["port"] for entry in service["ports"]] == [int(port)]
    _check_selectors(manifests)
    for manifest in of_kind(manifests, "ScaledObject"):
        target = manifest["spec"]["scaleTargetRef"]
        assert "replicas" not in by_name[target["kind"], target["name"]]["spec"]


def _check_names(manifest: Manifest) -> None:
    """Check the lengths of names and labels. The label with the revision of a StatefulSet adds 11 characters."""
    assert len(manifest["metadata"]["name"]) <= (52 if manifest["kind"] == "StatefulSet" else 63)
    metadata = manifest["spec"]["template"]["metadata"]
    assert all(len(value) <= 63 for value in metadata["labels"].values())
    assert manifest["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()


def _check_security(spec: Manifest, container: Manifest) -> None:
    """Check the rules of the Pod Security Standard "restricted", and that the pod has the QoS class Guaranteed."""
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec["automountServiceAccountToken"]
    assert not spec["enableServiceLinks"], "variables such as CLOCKWORK_PORT would be set"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["limits"])
    assert float(resources["limits"]["cpu"]).is_integer()


def _check_volumes(manifest: Manifest, container: Manifest) -> None:
    claims = {claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in manifest["spec"]["template"]["spec"]["volumes"]} | claims
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert "/tmp" in writable
    for directory in re.findall(r"^--(?:state-dir|profile-cache|model-cache)=(.*)$", lines(container), re.M):
        assert any(directory.startswith(f"{path}/") for path in writable)


def _check_ports(container: Manifest) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert all(len(name) <= 15 for name in ports)
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    listens = re.findall(r"^--(?:listen|http|grpc|worker-listen|health)=0\.0\.0\.0:(\d+)$", lines(container), re.M)
    assert sorted(map(int, listens)) == sorted(ports.values())


def _check_end(spec: Manifest, container: Manifest) -> None:
    """Check that the grace period covers the hook before the end, the drain, and the end of the worker."""
    waits = drain = 0
    if "lifecycle" in container:
        waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        drain = int(re.findall(r"^--drain-limit=(\d+)s$", lines(container), re.M)[0])
    assert spec["terminationGracePeriodSeconds"] >= waits + drain + END_S


def _check_selectors(manifests: list[Manifest]) -> None:
    """Check that each selector selects the pods or the Service that it should, and no others."""
    labels = [manifest["spec"]["template"]["metadata"]["labels"] for manifest, _ in pod_specs(manifests)]
    for manifest in of_kind(manifests, "Service", "PodDisruptionBudget"):
        selector = manifest["spec"]["selector"]
        assert sum(selector.get("matchLabels", selector).items() <= one.items() for one in labels) == 1
    for manifest in of_kind(manifests, "NetworkPolicy"):
        selectors = [manifest["spec"]["podSelector"]]
        selectors += [
            peer["podSelector"]
            for rule in manifest["spec"]["ingress"]
            for peer in rule.get("from", ())
            if "podSelector" in peer
        ]
        for selector in selectors:
            assert sum(selector["matchLabels"].items() <= one.items() for one in labels) == 1
        ports = {port["name"] for _, container in pod_specs(manifests) for port in container["ports"]}
        assert {port["port"] for rule in manifest["spec"]["ingress"] for port in rule["ports"]} <= ports
    for manifest in of_kind(manifests, "ServiceMonitor"):
        selector = manifest["spec"]["selector"]["matchLabels"]
        services = [
            one for one in of_kind(manifests, "Service") if selector.items() <= one["metadata"]["labels"].items()
        ]
        assert [port["name"] for service in services for port in service["spec"]["ports"]].count("http") == 1
