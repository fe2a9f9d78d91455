"""Programs with compiled code: the same answers, memory that comes back, threads, and what is refused."""

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

import torch  # isort: skip - `programs` skips these tests where there is none

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
        return [it.numpy() for it in Conv().eval()(torch.from_numpy(image)).values()]


def check(loaded: Any, rows: int, seed: int = 0) -> None:
    image = images(rows, seed)
    for found, wanted in zip(loaded.execute({"image": image}), eager(image), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_it_is_to_the_controller_what_it_is_without_the_code(
    runtime: TorchRuntime, compiled_conv: Path, tmp_path: Path
) -> None:
    found = runtime.load_model(compiled_conv).info
    plain = runtime.load_model(saved_conv(tmp_path / "m.pt2")).info
    for name in ("inputs", "outputs", "batchable", "weights_bytes", "runtime"):
        assert getattr(found, name) == getattr(plain, name)
    assert found.digest != plain.digest
    assert found.note.startswith(f"compiled ahead for {MACHINE.machine}")
    assert plain.note == ""


def test_batches_of_all_sizes_are_answered_as_the_module_answers_them(
    runtime: TorchRuntime, compiled_conv: Path
) -> None:
    loaded = runtime.load_model(compiled_conv).load_weights(0)
    for rows in range(1, 17):
        check(loaded, rows, seed=rows)


def test_shapes_are_checked_before_the_code_is_called(runtime: TorchRuntime, compiled_conv: Path) -> None:
    loaded = runtime.load_model(compiled_conv).load_weights(0)
    with pytest.raises(InvalidRequestError, match="dimension 2 of input 'image' is 8, but"):
        loaded.execute({"image": np.zeros((1, 3, 8, 16), np.float32)})


def test_copies_have_weights_of_their_own_and_are_loaded_again(runtime: TorchRuntime, compiled_conv: Path) -> None:
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


def test_devices_execute_at_the_same_time_while_others_load_and_evict(
    runtime: TorchRuntime, compiled_conv: Path
) -> None:
    host = runtime.load_model(compiled_conv)

    def device(number: int) -> None:
        for rows in range(1, 17):
            loaded = host.load_weights(number)
            for seed in range(5):
                check(loaded, rows, seed)
            loaded.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(device, range(4)))


def test_an_answer_outlives_the_weights_that_it_is_part_of(runtime: TorchRuntime, compiled_busy: Path) -> None:
    loaded = runtime.load_model(compiled_busy).load_weights(0)
    _, bias = loaded.execute({"x": np.zeros((1, 2048), np.float32)})
    loaded.close()
    np.testing.assert_array_equal(bias, Busy().dense.bias.detach().numpy())


@pytest.mark.parametrize("count", [1, 3])
def test_code_computes_with_the_threads_of_a_device_in_whatever_thread_it_is_called(
    count: int, compiled_busy: Path
) -> None:
    command = [sys.executable, str(Path(__file__).with_name("threads.py")), str(compiled_busy), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == count - 1


def refused(path: Path, words: str, runtime: TorchRuntime) -> None:
    with pytest.raises(InvalidModelError, match=words):
        runtime.load_model(path)


def test_compiled_code_is_not_executed_unless_that_is_allowed(compiled_conv: Path) -> None:
    refused(compiled_conv, "'m.pt2' has compiled code in it, .* start the worker with --allow-compiled", TorchRuntime())


def described(path: Path, directory: Path, **changes: Any) -> Path:
    """A copy with another description."""

    def change(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | changes).encode() if name == DESCRIPTION else content

    return rewritten(path, change, directory=directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"torch": "2.12.1+cpu"},
            r"was compiled with PyTorch 2.12.1, and here is 2.*; compile it anew, with clockwork",
        ),
        ({"device": "cuda"}, "was compiled for devices of kind cuda, and here is cpu"),
        ({"machine": "riscv64"}, f"was compiled for riscv64 with linux, and here is {MACHINE.machine} with linux"),
        ({"extensions": [*MACHINE.extensions, "avx9000"]}, "for a CPU with avx9000, which this one does not have"),
        ({"format": 2}, "described in format 2, and this is format 1"),
        ({"format": "1"}, "the compiled code of 'changed.pt2' is corrupt: Expected `int`, got `str`"),
        ({"sha256": "0" * 64}, "corrupt: it is not what its description says"),
        ({"vectors": "x" * (17 * MIB)}, "code.json of 'changed.pt2' has .*; at most 16.0 MiB are accepted"),
        ({"weights": {}}, "compiled for another program: for weights 'conv.bias' of no kind"),
    ],
)
def test_what_was_compiled_for_another_machine_is_refused_unexecuted(
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
        (lambda name, it: None if name == LIBRARY else it, "has a part of compiled code only"),
        (lambda name, it: truncated(it) if name == LIBRARY else it, "corrupt: it is not what its description says"),
        (lambda name, it: it.replace(b"aten.relu", b"aten.tanh"), "output 'prob' of the compiled code is .* off where"),
    ],
)
def test_code_that_is_not_whole_or_of_another_program_is_refused(
    change: Callable[[str, bytes], bytes | None], words: str, runtime: TorchRuntime, compiled_conv: Path, tmp_path: Path
) -> None:
    refused(rewritten(compiled_conv, change, directory=tmp_path), words, runtime)


def with_code(path: Path, directory: Path, code: bytes) -> Path:
    """A copy with other code, and a description that fits."""
    other = rewritten(path, lambda name, it: code if name == LIBRARY else it, directory=directory)
    digest = hashlib.sha256(code).hexdigest()
    (directory / "again").mkdir()
    return described(other, directory / "again", sha256=digest)


def content(path: Path, entry: str) -> bytes:
    with ZipFile(path) as archive:
        (name,) = (it for it in archive.namelist() if it.endswith(entry))
        return archive.read(name)


def without_interface(code: bytes) -> bytes:
    return code.replace(b"AOTInductorModelContainerCreate", b"AOTInductorModelContainerCreatf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncated, "corrupt: it is not what its description says"),
        (lambda code: code[:40], "corrupt: it is not what its description says"),
        (without_interface, "the compiled code cannot be used: "),
    ],
)
def test_a_library_that_is_no_compiled_code_is_refused(
    change: Callable[[bytes], bytes], words: str, runtime: TorchRuntime, compiled_conv: Path, tmp_path: Path
) -> None:
    refused(with_code(compiled_conv, tmp_path, change(content(compiled_conv, LIBRARY))), words, runtime)


def test_code_of_a_program_with_other_weights_is_refused(
    runtime: TorchRuntime, compiled_conv: Path, compiled_busy: Path, tmp_path: Path
) -> None:
    code = {it: content(compiled_busy, it) for it in (LIBRARY, DESCRIPTION)}
    changed = rewritten(compiled_conv, code.get, directory=tmp_path)
    words = "compiled for another program: for weights 'conv.bias' of no kind, and here they are torch.float32"
    refused(changed, words, runtime)


def test_code_is_mapped_once_and_never_under_the_path_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_mapped", {})
    first, second, other = (Code(this_machine(sha256=it), it.encode()) for it in ("first", "first", "other"))
    assert native.path_of(first) == native.path_of(second)
    assert Path(native.path_of(first)).read_bytes() == b"first"
    assert Path(native.path_of(other)).read_bytes() == b"other"
    monkeypatch.setattr(native, "LIBRARIES_MAX", 2)
    with pytest.raises(ServerError, match=r"2 pieces of compiled code are mapped, .*: restart the worker"):
        native.path_of(Code(this_machine(sha256="third"), b""))


def test_the_extensions_of_a_cpu_are_those_that_instructions_depend_on() -> None:
    assert extensions({"flags": "fpu sse2 avx512f hypervisor amx_tile md_clear fma"}) == (
        "amx_tile",
        "avx512f",
        "fma",
        "sse2",
    )
    assert extensions({"Features": "fp asimd sve"}) == ("asimd", "fp", "sve")


def test_without_a_compiler_nothing_is_compiled() -> None:
    from torch._inductor import config

    words = r"there is no compiler of C\+\+, which --compile needs: install g\+\+"
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(InvalidRequestError, match=words):
        check_compiler()


@pytest.mark.usefixtures("compiled_conv")
def test_an_operator_that_compiled_code_cannot_call_is_named() -> None:
    made = export(Of(lambda it, x: torch.linalg.svdvals(x)), [Example((1, 4, 4), torch.float32)])
    with pytest.raises(InvalidRequestError, match="it uses aten::_linalg_svd, which compiled code can only call"):
        made.compiled()
