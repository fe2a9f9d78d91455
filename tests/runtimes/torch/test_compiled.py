"""Programs with compiled code: outputs, memory, threads, and files that are refused."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from runtimes.torch.programs import Busy, Conv, Of, rewritten, saved_conv

import torch  # isort: skip - `programs` skips these tests without PyTorch

from clockwork.errors import InvalidModelError, InvalidRequestError, ServerError
from clockwork.runtimes.torch import TorchRuntime, native
from clockwork.runtimes.torch.compiled import DESCRIPTION, LIBRARY, Code, extensions, this_machine
from clockwork.runtimes.torch.compiling import check_compiler
from clockwork.runtimes.torch.exporting import Example, export
from clockwork.units import MIB

MACHINE = this_machine()


@pytest.fixture(scope="module")
def runtime() -> TorchRuntime:
    return TorchRuntime(allow_compiled=True)


def images(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((rows, 3, 16, 16), np.float32)


def eager(image: Any) -> list[Any]:
    with torch.no_grad():
        return [output.numpy() for output in Conv().eval()(torch.from_numpy(image)).values()]


def check(loaded: Any, rows: int, seed: int = 0) -> None:
    image = images(rows, seed)
    for found, wanted in zip(loaded.execute({"image": image}), eager(image), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_compiled_program_has_the_signature_of_the_program(
    runtime: TorchRuntime, compiled_conv: Path, tmp_path: Path
) -> None:
    found = runtime.load_model(compiled_conv).info
    plain = runtime.load_model(saved_conv(tmp_path / "m.pt2")).info
    for name in ("inputs", "outputs", "batchable", "weights_bytes", "runtime"):
        assert getattr(found, name) == getattr(plain, name)
    assert found.digest != plain.digest
    assert found.note.startswith(f"compiled ahead for {MACHINE.machine}")
    assert plain.note == ""


def test_batches_of_all_sizes_get_the_outputs_of_the_module(runtime: TorchRuntime, compiled_conv: Path) -> None:
    loaded = runtime.load_model(compiled_conv).load_weights(0)
    for rows in range(1, 17):
        check(loaded, rows, seed=rows)


def test_shapes_are_checked_before_the_code_is_called(runtime: TorchRuntime, compiled_conv: Path) -> None:
    loaded = runtime.load_model(compiled_conv).load_weights(0)
    with pytest.raises(InvalidRequestError, match="dimension 2 of input 'image' is 8; with"):
        loaded.execute({"image": np.zeros((1, 3, 8, 16), np.float32)})


def test_copies_have_their_own_weights_and_can_be_reloaded(runtime: TorchRuntime, compiled_conv: Path) -> None:
    host = runtime.load_model(compiled_conv)
    first, second = host.load_weights(0), host.load_weights(1)
    check(first, 2)
    first.close()
    check(second, 2)
    with pytest.raises(ServerError, match="no longer on the device"):
        first.execute({"image": images(1)})
    again = host.load_weights(0)
    check(again, 3)
    second.close()
    check(again, 1)


def test_devices_execute_while_others_load_and_evict(runtime: TorchRuntime, compiled_conv: Path) -> None:
    host = runtime.load_model(compiled_conv)
    wanted = {rows: eager(images(rows)) for rows in range(1, 17)}

    def device(number: int) -> None:
        for rows, outputs in wanted.items():
            loaded = host.load_weights(number)
            for _ in range(5):
                for found, expected in zip(loaded.execute({"image": images(rows)}), outputs, strict=True):
                    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            loaded.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(device, range(4)))


def test_an_output_that_is_part_of_the_weights_outlives_them(runtime: TorchRuntime, compiled_busy: Path) -> None:
    loaded = runtime.load_model(compiled_busy).load_weights(0)
    _, bias = loaded.execute({"x": np.zeros((1, 2048), np.float32)})
    loaded.close()
    np.testing.assert_array_equal(bias, Busy().dense.bias.detach().numpy())


@pytest.mark.parametrize("count", [1, 3])
def test_code_uses_the_threads_of_a_device_in_any_calling_thread(count: int, compiled_busy: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("threads.py")), str(compiled_busy), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == count - 1


def refused(path: Path, words: str, runtime: TorchRuntime) -> None:
    with pytest.raises(InvalidModelError, match=words):
        runtime.load_model(path)


def test_compiled_code_is_refused_unless_allowed(compiled_conv: Path) -> None:
    refused(compiled_conv, "'m.pt2' contains native code, .* start the worker with --allow-compiled", TorchRuntime())


def described(path: Path, directory: Path, **changes: Any) -> Path:
    """Return a copy with another description."""

    def change(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | changes).encode() if name == DESCRIPTION else content

    return rewritten(path, change, directory=directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"torch": "2.12.1+cpu"},
            r"was compiled with PyTorch 2.12.1; this machine has 2.*; compile it again with clockwork",
        ),
        ({"device": "cuda"}, "was compiled for devices of kind cuda; this machine has cpu"),
        ({"machine": "riscv64"}, f"was compiled for riscv64 with linux; this machine has {MACHINE.machine} with linux"),
        ({"extensions": [*MACHINE.extensions, "avx9000"]}, "for a CPU with avx9000, which this CPU lacks"),
        ({"format": 2}, "a description of format 2; the supported format is 1"),
        ({"format": "1"}, "the compiled code of 'changed.pt2' is corrupt: Expected `int`, got `str`"),
        ({"sha256": "0" * 64}, "corrupt: it does not match its description"),
        ({"vectors": "x" * (17 * MIB)}, "code.json of 'changed.pt2' is .*; the limit is 16.0 MiB"),
        ({"weights": {}}, "compiled for another program: weights 'conv.bias' are .* and missing in the code"),
    ],
)
def test_code_for_another_machine_is_refused_before_it_is_executed(
    changes: dict[str, Any],
    words: str,
    runtime: TorchRuntime,
    compiled_conv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "path_of", lambda code: pytest.fail("mapped"))
    refused(described(compiled_conv, tmp_path, **changes), words, runtime)


def truncated(code: bytes) -> bytes:
    return code[: len(code) // 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, content: None if name == LIBRARY else content, "has only a part of its compiled code"),
        (
            lambda name, content: truncated(content) if name == LIBRARY else content,
            "corrupt: it does not match its description",
        ),
        (
            lambda name, content: content.replace(b"aten.relu", b"aten.tanh"),
            "output 'prob' of the compiled code differs by",
        ),
    ],
)
def test_incomplete_code_or_code_of_another_program_is_refused(
    change: Callable[[str, bytes], bytes | None], words: str, runtime: TorchRuntime, compiled_conv: Path, tmp_path: Path
) -> None:
    refused(rewritten(compiled_conv, change, directory=tmp_path), words, runtime)


def with_code(path: Path, directory: Path, code: bytes) -> Path:
    """Return a copy with other code and a matching description."""
    other = rewritten(path, lambda name, content: code if name == LIBRARY else content, directory=directory)
    digest = hashlib.sha256(code).hexdigest()
    (directory / "again").mkdir()
    return described(other, directory / "again", sha256=digest)


def content(path: Path, entry: str) -> bytes:
    with ZipFile(path) as archive:
        (name,) = (member for member in archive.namelist() if member.endswith(entry))
        return archive.read(name)


def without_interface(code: bytes) -> bytes:
    return code.replace(b"AOTInductorModelContainerCreate", b"AOTInductorModelContainerCreatf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncated, "corrupt: it does not match its description"),
        (lambda code: code[:40], "corrupt: it does not match its description"),
        (without_interface, "cannot use the compiled code: "),
    ],
)
def test_a_library_without_compiled_code_is_refused(
    change: Callable[[bytes], bytes], words: str, runtime: TorchRuntime, compiled_conv: Path, tmp_path: Path
) -> None:
    refused(with_code(compiled_conv, tmp_path, change(content(compiled_conv, LIBRARY))), words, runtime)


def test_code_of_a_program_with_other_weights_is_refused(
    runtime: TorchRuntime, compiled_conv: Path, compiled_busy: Path, tmp_path: Path
) -> None:
    code = {entry: content(compiled_busy, entry) for entry in (LIBRARY, DESCRIPTION)}
    changed = rewritten(compiled_conv, code.get, directory=tmp_path)
    words = (
        "compiled for another program: weights 'conv.bias' are torch.float32 .* in the program and missing in the code"
    )
    refused(changed, words, runtime)


def test_code_is_mapped_once_and_each_content_has_its_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_mapped", {})
    first, second, other = (
        Code(this_machine(sha256=digest), digest.encode()) for digest in ("first", "first", "other")
    )
    assert native.path_of(first) == native.path_of(second)
    assert Path(native.path_of(first)).read_bytes() == b"first"
    assert Path(native.path_of(other)).read_bytes() == b"other"
    monkeypatch.setattr(native, "MAX_LIBRARIES", 2)
    with pytest.raises(ServerError, match=r"the limit of 2 libraries of compiled code is reached; restart the worker"):
        native.path_of(Code(this_machine(sha256="third"), b""))


def test_extensions_are_the_cpu_features_that_instructions_depend_on() -> None:
    assert extensions({"flags": "fpu sse2 avx512f hypervisor amx_tile md_clear fma"}) == (
        "amx_tile",
        "avx512f",
        "fma",
        "sse2",
    )
    assert extensions({"Features": "fp asimd sve"}) == ("asimd", "fp", "sve")


def test_compiling_needs_a_cpp_compiler() -> None:
    from torch._inductor import config

    words = r"--compile needs a C\+\+ compiler: install g\+\+"
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(InvalidRequestError, match=words):
        check_compiler()


@pytest.mark.usefixtures("compiled_conv")
def test_the_error_names_an_operator_that_compiled_code_cannot_call() -> None:
    exported = export(Of(lambda module, x: torch.linalg.svdvals(x)), [Example((1, 4, 4), torch.float32)])
    with pytest.raises(InvalidRequestError, match="the program uses aten::_linalg_svd, which compiled code can call"):
        exported.compiled()
