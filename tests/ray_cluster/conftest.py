"""A Ray cluster of three nodes on this machine. Without Ray, all tests in this directory are left out."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HAS_RAY = find_spec("ray") is not None
collect_ignore_glob = [] if HAS_RAY else ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster whose head has the label ``role=control``, and whose two other nodes have ``role=work``."""
    import ray
    from ray.cluster_utils import Cluster

    no_memory_monitor = {"RAY_memory_monitor_refresh_ms": "0"}  # other tests may use most of the memory
    directory = Path(tempfile.mkdtemp(prefix="cw-"))  # the path of a socket is short
    (directory / "ray").mkdir()
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(directory)} | no_memory_monitor)
    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 2, "labels": {"role": "control"}, "_system_config": checks}
    cluster = Cluster(initialize_head=True, head_node_args=head | small())
    try:
        for _ in range(2):
            cluster.add_node(**worker_node())
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


def small() -> dict[str, Any]:
    """Return settings of a node that needs little memory and opens no fixed port."""
    return {"include_dashboard": False, "object_store_memory": 80 << 20}


def worker_node() -> dict[str, Any]:
    """Return the settings of a node for two workers."""
    return {"num_cpus": 2, "labels": {"role": "work"}} | small()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the model ``dense.onnx``."""
    from cli.processes import save_dense

    directory = tmp_path_factory.mktemp("models")
    save_dense(directory / "dense.onnx")
    return directory
