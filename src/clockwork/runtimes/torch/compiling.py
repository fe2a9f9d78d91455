"""From an exported program to compiled code: AOTInductor, for the CPU of this machine.

Rules of the file: the code is made without weights, which lie in one block of memory as those of any other program, and
for any number of threads. A compiler of C++ is needed here, and nowhere else.
"""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import msgspec
import torch
from msgspec.structs import replace

from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.runtimes.torch.compiled import DESCRIPTION, LIBRARY, Code, granted, this_machine
from clockwork.runtimes.torch.failures import FAILURES, describe
from clockwork.runtimes.torch.program import made
from clockwork.runtimes.torch.weights import dense

OPTIONS: Final = {
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.enable_line_tables": False,  # two thirds of the code's bytes
    "cpp.dynamic_threads": True,
}

_HOME: Final = "data/aotinductor/model/"


def compiled(program: Any) -> Code:
    """Compile an ``ExportedProgram``, which takes from ten seconds to minutes.

    Raises:
        InvalidRequestError: there is no compiler, or the program cannot be compiled.
    """
    check_compiler()
    _make_dense(program.state_dict)
    _make_dense(program.constants)
    try:
        with TemporaryDirectory(prefix="clockwork-") as directory, torch.no_grad():
            path = Path(directory) / "code.pt2"
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its documented name
                program, package_path=str(path), inductor_configs=OPTIONS
            )
            code = _code(path)
    except FAILURES as error:
        raise InvalidRequestError(f"AOTInductor cannot compile it: {describe(error)}") from error
    return replace(code, description=replace(code.description, weights=granted(made(program))))


def check_compiler() -> None:
    """Whether there is a compiler of C++.

    Raises:
        InvalidRequestError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        raise InvalidRequestError(
            "there is no compiler of C++, which --compile needs: install g++, or name one in the environment variable "
            "CXX; whoever serves the file needs none"
        ) from error


def add(path: Path, code: Code) -> None:
    """Put compiled code into the file of its program."""
    with ZipFile(path, "a", ZIP_STORED) as archive:
        root = archive.namelist()[0].partition("/")[0]
        for entry, content in ((DESCRIPTION, msgspec.json.encode(code.description)), (LIBRARY, code.binary)):
            archive.writestr(
                ZipInfo(f"{root}/{entry}"), content
            )  # with no date, so that equal files have equal digests


def _make_dense(weights: dict[str, Any]) -> None:
    """Lay weights out as they will lie in a block, because code is compiled for their strides."""
    for name, it in weights.items():
        if isinstance(it, torch.Tensor):
            made = dense(it.detach())
            if made.stride() != it.stride():
                parameter = isinstance(it, torch.nn.Parameter)
                weights[name] = torch.nn.Parameter(made, requires_grad=False) if parameter else made


def _code(package: Path) -> Code:
    """The code in a package of AOTInductor."""
    with ZipFile(package) as archive:
        files = {it.partition("/")[2].removeprefix(_HOME): it for it in archive.namelist() if f"/{_HOME}" in it}
        libraries = [it for it in files if it.endswith(".so")]
        if len(libraries) != 1:
            raise InvalidModelError(f"AOTInductor made {len(libraries)} libraries; one is expected")
        stem = libraries[0].removesuffix(".so")
        library = archive.read(files[libraries[0]])
        told = json.loads(archive.read(files[f"{stem}_metadata.json"]))
        if f"{stem}.json" in files:
            raise InvalidRequestError(
                f"it uses {', '.join(_foreign(archive.read(files[f'{stem}.json'])))}, which compiled code can only "
                "call by way of an interpreter: not supported; export it without --compile"
            )
    digest = hashlib.sha256(library).hexdigest()
    return Code(this_machine(told["AOTI_DEVICE_KEY"], told["AOTI_CPU_ISA"], digest), library)


def _foreign(nodes: bytes) -> list[str]:
    """The operators that have no interface for compiled code."""
    return sorted({str(it["node"]["target"]) for it in json.loads(nodes)["nodes"]})
