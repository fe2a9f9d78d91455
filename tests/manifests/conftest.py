"""`make test-kubernetes` passes ``--kubernetes``, so that no test is skipped for lack of helm or of schemas."""

import pytest

from manifests.helm import HELM
from manifests.schemas import HAS_SCHEMAS


@pytest.fixture(scope="session", autouse=True)
def complete(request: pytest.FixtureRequest) -> None:
    """Fail if the option ``--kubernetes`` is given and a part of the environment is missing."""
    if request.config.getoption("--kubernetes"):
        assert HELM is not None, "helm is not installed"
        assert HAS_SCHEMAS, "the schemas are not installed"
