"""Compiles an exported program with PyTorch's compiler AOTInductor, for the CPU of this machine.

The compiled code contains no weights. The weights stay in one block of memory, as for any other program. The code works
with any number of threads. Only this module needs a C++ compiler.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import msgspec
import torch
from msgspec.structs import replace

from clockwork.errors import InvalidModelError, InvalidRequestError
from clockwork.runtimes import scratch
from clockwork.runtimes.torch.compiled import DESCRIPTION, LIBRARY, Code, this_machine, weight_kinds
from clockwork.runtimes.torch.failures import FAILURES, describe
from clockwork.runtimes.torch.program import to_program
from clockwork.runtimes.torch.weights import dense

OPTIONS: Final = {
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.enable_line_tables": False,  # line tables would triple the size of the code
    "cpp.dynamic_threads": True,
}

_HOME: Final = "data/aotinductor/model/"


def compiled(program: Any) -> Code:
    """Compile an ``ExportedProgram``. The compilation takes from five seconds to minutes.

    Raises:
        InvalidRequestError: there is no C++ compiler, or the program cannot be compiled.
    """
    check_compiler()
    _make_dense(program.state_dict)
    _make_dense(program.constants)
    try:
        with scratch.temporary() as directory, torch.no_grad():
            path = directory / "code.pt2"
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - this is its documented name
                program, package_path=str(path), inductor_configs=OPTIONS
            )
            code = _code(path)
    except FAILURES as error:
        raise InvalidRequestError(f"AOTInductor cannot compile the program: {describe(error)}") from error
    return replace(code, description=replace(code.description, weights=weight_kinds(to_program(program))))


def check_compiler() -> None:
    """Check that a C++ compiler is installed.

    Raises:
        InvalidRequestError: there is no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        raise InvalidRequestError(
            "--compile needs a C++ compiler: install g++, or name one in the environment variable CXX (serving the "
            "file "
            "needs none)"
        ) from error


def add(path: Path, code: Code) -> None:
    """Add compiled code to the file of its program."""
    with ZipFile(path, "a", ZIP_STORED) as archive:
        root = archive.namelist()[0].partition("/")[0]
        for entry, content in ((DESCRIPTION, msgspec.json.encode(code.description)), (LIBRARY, code.binary)):
            archive.writestr(ZipInfo(f"{root}/{entry}"), content)  # no date, so that equal files have equal digests


def _make_dense(weights: dict[str, Any]) -> None:
    """Give the weights the strides that they will have in a block, because code is compiled for these strides."""
    for name, weight in weights.items():
        if isinstance(weight, torch.Tensor):
            packed = dense(weight.detach())
            if packed.stride() != weight.stride():
                parameter = isinstance(weight, torch.nn.Parameter)
                weights[name] = torch.nn.Parameter(packed, requires_grad=False) if parameter else packed


def _code(package: Path) -> Code:
    """Return the code from a package that AOTInductor made."""
    with ZipFile(package) as archive:
        files = {
            entry.partition("/")[2].removeprefix(_HOME): entry for entry in archive.namelist() if f"/{_HOME}" in entry
        }
        libraries = [file for file in files if file.endswith(".so")]
        if len(libraries) != 1:
            raise InvalidModelError(f"AOTInductor made {len(libraries)} libraries instead of one")
        stem = libraries[0].removesuffix(".so")
        library = archive.read(files[libraries[0]])
        metadata = json.loads(archive.read(files[f"{stem}_metadata.json"]))
        if f"{stem}.json" in files:
            raise InvalidRequestError(
                f"the program uses {', '.join(_foreign(archive.read(files[f'{stem}.json'])))}, which compiled code can "
                "call only through an interpreter; export it without --compile"
            )
    digest = hashlib.sha256(library).hexdigest()
    return Code(this_machine(metadata["AOTI_DEVICE_KEY"], metadata["AOTI_CPU_ISA"], digest), library)


def _foreign(nodes: bytes) -> list[str]:
    """Return the names of the operators that compiled code cannot call directly."""
    return sorted({str(node["node"]["target"]) for node in json.loads(nodes)["nodes"]})
