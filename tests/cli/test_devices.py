"""``--device`` and the sizes that only GPUs have, on a machine without a GPU."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.processes import save_dense
from clockwork.cli import run
from clockwork.cli.parsers import size_or_zero
from clockwork.cli.runtimes import DeviceOptions, make_runtime_on_gpus, runtime_on_gpus
from clockwork.cli.worker_process import LocalWorker
from clockwork.runtimes import nvidia
from clockwork.runtimes.nvidia import NO_DRIVER, Gpu, NvidiaGpus
from clockwork.runtimes.onnx import gpus as onnx_gpus
from clockwork.units import GIB, MIB

Capture = pytest.CaptureFixture[str]
H100 = Gpu("NVIDIA H100", 80 * GIB, 70 * GIB, "default", False, 345, 1980)


def error_of(capsys: Capture, *arguments: str, code: int = 2) -> str:
    assert run([*arguments]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize("option", ["pinned-size", "workspace-size", "io-size"])
def test_sizes_of_gpus_are_refused_for_cpus(command: str, option: str, capsys: Capture) -> None:
    output = error_of(capsys, command, f"--{option}=1GiB")
    assert f"--{option} needs --device cuda" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["worker", "--device=tpu"], "invalid kind of device 'tpu'; expected one of: cpu, cuda"),
        (["worker", "--device=cuda"], "does not know its models when it starts; give onnx or torch"),
        (["worker", "--device=cuda", "--threads-per-device=2"], "2 threads per device are not possible on GPUs"),
        (["worker", "--device=cuda", "--emulate=1", "--profile=resnet50-v100"], "emulated devices are not GPUs"),
        (["worker", "--device=cuda", "--runtime=onnx", "--io-size=1GiB"], "--io-size has no effect on ONNX Runtime"),
        (
            ["worker", "--device=cuda", "--runtime=onnx", "--pinned-size=0"],
            "--pinned-size has no effect on ONNX",
        ),
        (["check-env", "--device=cuda", "--threads-per-device=2"], "2 threads per device are not possible on GPUs"),
    ],
)
def test_contradictory_options_are_refused(arguments: list[str], words: str, capsys: Capture) -> None:
    assert words in error_of(capsys, *arguments)


def test_the_models_determine_the_runtime_of_the_gpus(tmp_path: Path) -> None:
    assert runtime_on_gpus("auto", [Path("a.pt2"), Path("b.pt2")]) == "torch"
    assert runtime_on_gpus("auto", [Path("a.onnx")]) == "onnx"
    assert runtime_on_gpus("onnx", []) == "onnx"
    with pytest.raises(typer.BadParameter, match="one runtime uses all memory of a GPU, and these models need both"):
        runtime_on_gpus("auto", [Path("a.pt2"), Path("a.onnx")])


def test_pinned_memory_may_be_zero() -> None:
    assert size_or_zero("0") == size_or_zero(0) == 0
    assert size_or_zero("2GiB") == size_or_zero(2 * GIB) == 2 * GIB


def test_options_come_from_a_file(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[worker]\ndevice = "cuda"\nruntime = "torch"\npinned-size = 0\nworkspace-size = "1GiB"\nio-size = "64MiB"\n'
    )
    assert run(["config", "worker", "--config", str(file), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)["worker"]
    found = {key: output[key]["value"] for key in ("device", "runtime", "pinned-size", "workspace-size", "io-size")}
    assert found == {
        "device": "cuda",
        "runtime": "torch",
        "pinned-size": "0GiB",
        "workspace-size": "1GiB",
        "io-size": "64MiB",
    }


COMMON: dict[str, Any] = {
    "model_root": Path("/m"),
    "devices": 2,
    "threads_per_device": 1,
    "runtime": "torch",
    "cache_size": None,
    "page_size": 16 * MIB,
    "model_cache": None,
    "model_cache_size": GIB,
}


def test_the_worker_of_serve_gets_every_option_as_an_argument() -> None:
    worker = LocalWorker(**COMMON, device=DeviceOptions("cuda", 0, GIB, 64 * MIB), max_batch=32)
    assert worker.arguments() == [
        "--model-root=/m",
        "--devices=2",
        "--threads-per-device=1",
        "--runtime=torch",
        f"--page-size={16 * MIB}",
        "--device=cuda",
        "--pinned-size=0",
        f"--workspace-size={GIB}",
        f"--io-size={64 * MIB}",
        "--max-batch=32",
    ]
    plain = LocalWorker(**COMMON)
    assert not [argument for argument in plain.arguments() if argument.startswith(("--device=", "--max-batch"))]


def test_check_env_reports_a_missing_driver(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(nvidia, "find_gpus", lambda: NvidiaGpus(missing=NO_DRIVER))
    assert run(["check-env", "--device=cuda", "--seconds=0.1"]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "gpu driver bad there is no CUDA driver on this machine" in output
    assert "gpu driver (bad): a worker with --device cuda does not start fix: install NVIDIA's driver" in output


def test_check_env_shows_the_gpus(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(nvidia, "find_gpus", lambda: NvidiaGpus((H100,), "580.95.05", "13.0"))
    run(["check-env", "--device=cuda", "--seconds=0.1", "--json"])
    output = json.loads(capsys.readouterr().out)
    assert output["environment"]["gpus"]["gpus"][0]["name"] == "NVIDIA H100"
    found = {finding["name"]: (finding["level"], finding["found"]) for finding in output["findings"][17:]}
    assert found == {
        "gpu driver": ("ok", "580.95.05, CUDA 13.0"),
        "gpus": ("ok", "0: NVIDIA H100, 80.0 GiB, 70.0 GiB free"),
        "gpu compute mode": ("note", "default"),
        "gpu persistence mode": ("warning", "off"),
        "gpu clocks": ("note", "345 MHz now, at most 1980"),
    }


@pytest.mark.parametrize("command", ["worker", "check-model"])
def test_the_error_for_onnx_runtime_without_cuda_names_the_package_to_install(
    command: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    model = save_dense(tmp_path / "m.onnx")
    arguments = ["--runtime=onnx", f"--model-root={tmp_path}"] if command == "worker" else [str(model)]
    output = error_of(capsys, command, "--device=cuda", *arguments, code=1)
    assert "built without CUDA: run pip uninstall onnxruntime and pip install onnxruntime-gpu" in output


def test_onnx_runtime_gets_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [onnx_gpus.CUDA])
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr(nvidia, "find_gpus", lambda: NvidiaGpus((H100, H100), "580", "13.0"))
    monkeypatch.setattr(onnx_gpus, "make_arena", lambda device, nbytes: taken.append(nbytes))
    runtime, cache = make_runtime_on_gpus(
        "onnx", 2, DeviceOptions("cuda"), cache_size=None, page_size=GIB, max_batch=16
    )
    assert (cache, taken) == (54 * GIB, [56 * GIB, 56 * GIB])
    assert runtime.device_kind == "cuda NVIDIA H100"
    taken.clear()
    options = DeviceOptions("cuda", workspace=3 * GIB)
    assert make_runtime_on_gpus("onnx", 1, options, cache_size=10 * GIB, page_size=GIB, max_batch=16)[1] == 10 * GIB
    assert taken == [13 * GIB]


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed: make test-torch")
def test_pytorch_gets_the_sizes_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments_of_runtime: dict[str, Any] = {}

    class Runtime:
        cache_bytes = 5 * GIB

        def __init__(self, devices: int, page: int, cache: int | None, pinned: int, **more: int) -> None:
            arguments_of_runtime.update(devices=devices, page=page, cache=cache, pinned=pinned, **more)

    monkeypatch.setattr("clockwork.runtimes.torch.cuda.runtime.CudaRuntime", Runtime)
    options = DeviceOptions("cuda", pinned=0, io=64 * MIB)
    assert make_runtime_on_gpus("torch", 2, options, cache_size=None, page_size=16 * MIB, max_batch=32)[1] == 5 * GIB
    assert arguments_of_runtime == {
        "devices": 2,
        "page": 16 * MIB,
        "cache": None,
        "pinned": 0,
        "max_batch": 32,
        "batching": None,
        "io_bytes": 64 * MIB,
    }
