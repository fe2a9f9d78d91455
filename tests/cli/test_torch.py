"""PyTorch programs on the command line: exported, checked and served by real processes."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest

from cli.processes import save_dense, serve
from clockwork.cli import run
from clockwork.client import AsyncClient, Client
from clockwork.host.child_process import this_program
from runtimes.torch.programs import Conv, saved_conv

import torch  # isort: skip - `programs` skips these tests without PyTorch

NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dense = torch.nn.Linear(8, 3)
    def forward(self, x, scale):
        return self.dense(x) * scale

class Fixed(torch.nn.Module):
    def forward(self, x):
        return x.reshape(2, 8) if x.shape[0] == 2 else x

class Data(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def broken():
    raise KeyError("weights.bin")

ready = Net()
number = 5
"""


def eager(image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        output: np.ndarray = Conv().eval()(torch.from_numpy(image))["prob"].numpy()
    return output


def images(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 3, 16, 16), np.float32)


def ran(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*this_program(), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def check_outputs_against_eager(directory: Path, file: str, *options: str) -> None:
    with serve(str(directory / file), "--model-slo=m=20s", *options) as process, Client(process.address()) as client:
        x, scale = np.random.default_rng(0).random((2, 8), np.float32), np.full((2, 3), 2, np.float32)
        found = client.model("m").infer({"x": x, "scale": scale}, slo=20)["output"]
    torch.manual_seed(0)
    with torch.no_grad():
        wanted = torch.nn.Linear(8, 3)(torch.from_numpy(x)) * 2
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_a_compiled_program_is_served_with_allow_compiled(nets: Path) -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler is installed")
    done = ran(nets, "export", "nets:Net", *INPUTS, "--compile", "-o", "m.pt2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "m.pt2: compiled for " in done.stdout
    assert done.stdout.endswith("; serve it with --allow-compiled\n")
    with serve("m.pt2") as process:
        assert process.ended() == 1
    assert [line for line in process.err.seen if "start the worker with --allow-compiled" in line]
    check_outputs_against_eager(nets, "m.pt2", "--allow-compiled")
    checked = ran(nets, "check-model", "m.pt2", "--max-batch", "2", "--allow-compiled")
    assert "note     compiled ahead for " in checked.stdout


def test_without_a_compiler_no_file_is_written(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = ran(nets, "export", "nets:Net", *INPUTS, "--compile", "-o", "m.pt2")
    assert done.returncode == 1
    assert done.stderr.startswith("clockwork: --compile needs a C++ compiler")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in nets.iterdir() if path.suffix == ".pt2" or path.name.startswith(".")] == []


INPUTS = ("--input", "1x8", "--input", "scale=1x3")


@pytest.mark.parametrize("where", ["nets:Net", "nets.py:Net", "nets:ready"])
def test_a_module_is_exported_and_checked(nets: Path, where: str) -> None:
    done = ran(nets, "export", where, *INPUTS, "-o", "m.pt2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "m.pt2: the batch dimension is free\n"
    checked = ran(nets, "check-model", "m.pt2", "--max-batch", "2", "--json")
    assert checked.returncode == 0, checked.stderr
    found = json.loads(checked.stdout)
    assert found["info"]["batchable"]
    assert [info["name"] for info in found["info"]["inputs"]] == ["x", "scale"]
    assert found["info"]["runtime"] == f"torch {torch.__version__}"
    assert set(found["infer"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nets:Net", *INPUTS, "--no-batch"], "Net.pt2: the batch dimension is fixed, as requested"),
        (
            ["nets:Fixed", "--input", "4x8"],
            "fixed, because with a free one torch.export cannot export the module: Constraints",
        ),
    ],
)
@pytest.mark.usefixtures("nets")
def test_export_prints_why_the_batch_dimension_is_fixed(
    arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", *arguments]) == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nets:Nat", *INPUTS], 1, "nets has no 'Nat'; it has Net, Fixed, Data, broken, ready"),
        (["nots:Net", *INPUTS], 1, "cannot import nots: ModuleNotFoundError: No module named 'nots'"),
        (["nots.py:Net", *INPUTS], 1, "cannot import nots.py: FileNotFoundError: nots.py does not exist"),
        (["nets:broken", *INPUTS], 1, "nets:broken() failed: KeyError: 'weights.bin'"),
        (["nets:number", *INPUTS], 1, "nets:number is a int; expected a torch.nn.Module, or a function or class"),
        (["nets:Fixed", "--input", "4x8", "--batch"], 1, "torch.export cannot export the module: Constraints violated"),
        (["nets:Data", "--input", "1x8"], 1, "torch.export cannot export the module: "),
        (["nets", *INPUTS], 2, "'nets' has no factory; write MODULE:FACTORY"),
        (["nets:Net", "--input", "1,8"], 2, "invalid input '1,8'; examples: 1x3x224x224, tokens=1x64:int64"),
        (["nets:Net", "--input", "1x8:f32"], 2, "unknown type 'f32'; expected one of: bool, uint8"),
        (["nets:Net", *INPUTS, "-o", "no/m.pt2"], 1, "cannot write no/m.pt2"),
    ],
)
@pytest.mark.usefixtures("nets")
def test_a_failed_export_prints_one_line(
    arguments: Sequence[str], code: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", *arguments]) == code
    errors = capfd.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1


def test_one_worker_serves_programs_and_onnx_models(tmp_path: Path) -> None:
    conv, dense = saved_conv(tmp_path / "conv.pt2"), save_dense(tmp_path / "dense.onnx")
    with serve(str(conv), str(dense), "--http=127.0.0.1:0") as process:
        address = process.address()
        with Client(address) as client:
            for rows in (1, 2):
                found = client.model("conv").infer({"image": images(rows, rows)}, slo=20)
                np.testing.assert_allclose(found["prob"], eager(images(rows, rows)), rtol=1e-5, atol=1e-6)
            assert client.model("dense").infer({"x": np.ones((1, 32), np.float32)}, slo=20)["y"].shape == (1, 5)
        asyncio.run(ask_at_once(address, 16))
        ask_over_http(process.out.wait_for(r"HTTP on (\S+)$")[1])


async def ask_at_once(address: str, count: int) -> None:
    async with AsyncClient(address) as client:
        model = client.model("conv")
        answers = await asyncio.gather(*(model.infer({"image": images(1, seed)}, slo=20) for seed in range(count)))
    for seed, answer in enumerate(answers):
        np.testing.assert_allclose(answer["prob"], eager(images(1, seed)), rtol=1e-5, atol=1e-6)


def ask_over_http(address: str) -> None:
    image = images(1, 3)
    tensor = {"name": "image", "datatype": "FP32", "shape": list(image.shape), "data": image.ravel().tolist()}
    request = Request(
        f"http://{address.removeprefix('http://')}/v2/models/conv/infer",
        json.dumps({"inputs": [tensor], "parameters": {"slo_ms": 20_000}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=30) as reply:
        outputs = {output["name"]: output for output in json.load(reply)["outputs"]}
    found = np.array(outputs["prob"]["data"]).reshape(outputs["prob"]["shape"])
    np.testing.assert_allclose(found, eager(image), rtol=1e-4)


def test_a_broken_program_ends_serve_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"nothing")
    with serve(str(tmp_path / "m.pt2"), "--runtime=torch") as process:
        assert process.ended() == 1
    assert [line for line in process.err.seen if "'m.pt2' is not an exported PyTorch program" in line]


DOCS = Path(__file__).parents[2] / "docs"


def python_of(page: str) -> str:
    found = re.search(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_module_in_torch_md_can_be_exported_and_served(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(python_of("torch.md"))
    done = ran(tmp_path, "export", "nets.py:Net", "--input", "x=1x8", "-o", "net.pt2")
    assert done.returncode == 0, done.stderr
    with serve(str(tmp_path / "net.pt2")) as process, Client(process.address()) as client:
        result = client.model("net").infer({"x": np.ones((1, 8), np.float32)}, slo=20)
        assert result[client.ls()[0].outputs[0].name].shape == (1, 3)


def test_the_export_in_from_torchserve_md_makes_a_model_that_is_batched(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = (
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 9, 8), torch.nn.AdaptiveAvgPool2d(1), "
        "torch.nn.Flatten(), torch.nn.Softmax(-1))\n"
    )
    program = model + python_of("from-torchserve.md")
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = ran(tmp_path, "check-model", "resnet50.onnx", "--max-batch=2", "--json")
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)["info"]
    assert [tensor["name"] for tensor in info["inputs"] + info["outputs"]] == ["data", "prob"]
    assert info["batchable"]
