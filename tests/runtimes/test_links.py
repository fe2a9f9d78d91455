"""Links out of a model's directory are followed only if the operator named the directory, or allows their target."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from cli.processes import QUICK, clockwork
from clockwork.client import Client
from clockwork.errors import InvalidModelError
from clockwork.repository.model_root import resolve
from clockwork.runtimes.links import LinkPolicy
from clockwork.runtimes.onnx import OnnxRuntime
from onnx_graphs import dense, saved, saved_with_external_data


def hugging_face(root: Path) -> Path:
    """Make a model as in the cache of Hugging Face, whose files are links to blobs; return its directory."""
    file = saved_with_external_data(dense(), root / "blobs/model.onnx", "model.onnx_data")
    snapshot = root / "snapshots/1a2b"
    snapshot.mkdir(parents=True)
    for number, name in enumerate((file.name, "model.onnx_data")):
        (root / "blobs" / name).rename(root / f"blobs/{number}")
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    return snapshot


def linked_data(root: Path) -> Path:
    """Make a model whose external data alone is a link; return its directory."""
    file = saved_with_external_data(dense(), root / "model/model.onnx")
    (root / "data").mkdir()
    (file.parent / "weights.bin").rename(root / "data/weights.bin")
    (file.parent / "weights.bin").symlink_to(root / "data/weights.bin")
    return file.parent


@pytest.mark.parametrize(("make", "target"), [(hugging_face, "blobs"), (linked_data, "data")])
def test_a_link_is_followed_if_the_operator_named_it_or_allows_its_target(
    make: object, target: str, tmp_path: Path
) -> None:
    assert callable(make)
    directory = make(tmp_path)
    (tmp_path / "other").mkdir()
    digests = set()
    for policy in (LinkPolicy(named=(directory,)), LinkPolicy(targets=(tmp_path / target,))):
        runtime = OnnxRuntime()
        runtime.links = policy
        digests.add(runtime.load_model(directory).info.digest)
    assert len(digests) == 1
    for policy in (LinkPolicy(), LinkPolicy(targets=(tmp_path / "other",)), LinkPolicy(named=(tmp_path / "other",))):
        runtime = OnnxRuntime()
        runtime.links = policy
        with pytest.raises(InvalidModelError, match="start the worker with --allow-links-to"):
            runtime.load_model(directory)


def test_a_link_in_a_directory_beyond_a_named_one_is_not_followed(tmp_path: Path) -> None:
    directory = hugging_face(tmp_path)
    named = tmp_path / "named"
    named.mkdir()
    (named / "1").symlink_to(directory)
    runtime = OnnxRuntime()
    runtime.links = LinkPolicy(targets=(tmp_path / "snapshots",))
    with pytest.raises(InvalidModelError, match="is a link that points out of its directory"):
        runtime.load_model(named)


def test_a_path_below_the_model_root_may_be_an_allowed_link(tmp_path: Path) -> None:
    saved(dense(), tmp_path / "elsewhere/a.onnx")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a.onnx").symlink_to(tmp_path / "elsewhere/a.onnx")
    with pytest.raises(InvalidModelError, match=r"is outside of the worker's model root \(--allow-links-to allows"):
        resolve(tmp_path / "root", "a.onnx")
    allowed = LinkPolicy(targets=(tmp_path / "elsewhere",))
    assert resolve(tmp_path / "root", "a.onnx", allowed) == tmp_path / "root/a.onnx"


def test_a_model_in_another_mount_namespace_is_served_if_the_operator_named_it(tmp_path: Path) -> None:
    file = saved(dense(), tmp_path / "model.onnx")
    script = f"mount -t tmpfs tmpfs /mnt && mkdir /mnt/car && cp {file} /mnt/car && echo ready && exec sleep 60"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            if other.stdout.readline() != "ready\n":
                pytest.skip("this user may not make mount namespaces")
            link = tmp_path / "models"
            link.symlink_to(Path("/proc", str(other.pid), "root", "mnt", "car"))
            assert resolve(tmp_path, "models", LinkPolicy(named=(link,))) == link
            with pytest.raises(InvalidModelError, match="check the path"):
                resolve(tmp_path, "models")
            runtime = OnnxRuntime()
            runtime.links = LinkPolicy(named=(link,))
            assert runtime.load_model(link).info.batchable
        finally:
            other.kill()


def test_serve_follows_links_in_the_directories_that_it_is_given(tmp_path: Path) -> None:
    directory = hugging_face(tmp_path)
    (tmp_path / "mounted").symlink_to(directory)
    models = (f"one={directory}", f"two={directory}/model.onnx", f"three={tmp_path}/mounted")
    with clockwork("serve", *models, "--listen=127.0.0.1:0", *QUICK) as process, Client(process.address()) as client:
        assert [model.name for model in client.ls()] == ["one", "three", "two"]
        result = client.model("two").infer({"x": np.ones((1, 32), np.float32)})
        assert result["y"].shape == (1, 5)
