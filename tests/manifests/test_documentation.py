"""The values and manifests of the documentation render, and fit the schemas."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.documents import CHART, DEPLOY, check, documents, pod_specs
from manifests.helm import helm, needs_helm
from manifests.schemas import HAS_SCHEMAS, needs_schemas, validate

DOCS = DEPLOY.parent / "docs"
BLOCK = re.compile(r"^( *)<!-- ([\w: -]+) -->\n *```yaml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, Any]]:
    """Return the marked blocks of YAML of a page, with their marks."""
    found = BLOCK.findall((DOCS / page).read_text())
    return [(mark, yaml.safe_load(re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))) for indent, mark, text in found]


def merge(base: Any, more: Any) -> Any:
    """Return values as Helm merges two files."""
    if not (isinstance(base, dict) and isinstance(more, dict)):
        return more
    return base | {key: merge(base.get(key), value) for key, value in more.items()}


@needs_helm
def test_the_values_of_the_page_about_kubernetes_render_one_after_the_other(tmp_path: Path) -> None:
    values: dict[str, Any] = {}
    file = tmp_path / "clockwork.yaml"
    found = blocks("kubernetes.md")
    for mark, text in found:
        values = merge(values, text) if mark == "values: more" else text
        file.write_text(yaml.safe_dump(values))
        done = helm("template", "clockwork", str(CHART), f"--values={file}")
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        manifests = documents(done.stdout)
        check(manifests)
        if HAS_SCHEMAS:
            validate(manifests)
    assert [mark for mark, _ in found].count("values") == 2
    kinds = {manifest["kind"] for manifest in manifests}
    assert {"NetworkPolicy", "ScaledObject", "ServiceMonitor", "PrometheusRule", "ConfigMap"} <= kinds
    for _, container in pod_specs(manifests):
        assert container["image"] == "REGISTRY/clockwork:0.1.0-cuda"


@needs_schemas
@pytest.mark.parametrize("page", ["autoscale.md", "kserve.md"])
def test_the_manifests_of_a_page_fit_the_schemas(page: str) -> None:
    validate([manifest for _, manifest in blocks(page) if "apiVersion" in manifest])


def test_commands_of_the_documentation_name_objects_and_files_that_exist() -> None:
    rendered = documents((DEPLOY / "kubernetes-fleet.yaml").read_text())
    rendered += documents((DEPLOY / "kubernetes.yaml").read_text())
    names = {(one["kind"].lower(), one["metadata"]["name"]) for one in rendered}
    text = "\n".join((DOCS / page).read_text() for page in ("kubernetes.md", "kserve.md", "autoscale.md"))
    objects = re.findall(r"\b(deployment|statefulset|service)[/ ](clockwork[\w-]*)", text)
    assert len(objects) >= 5
    assert set(objects) <= names
    files = re.findall(r"(?:-f|--values|helm upgrade --install \S+) (deploy/\S+)", text)
    assert len(files) >= 4
    assert all((DEPLOY.parent / file).exists() for file in files)
