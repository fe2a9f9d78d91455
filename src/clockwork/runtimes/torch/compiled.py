"""What a model file says of compiled code in it, and whether this machine can run that.

Rules of the file: nothing here runs the code. It is in the archive beside the program that it was compiled from, which
has the names, types and shapes of inputs and outputs, and the weights: the code is without. So such a file is an
exported program like any other, with one thing more.
"""

import hashlib
import platform
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from zipfile import BadZipFile, ZipFile

import msgspec
import torch
from msgspec import Struct

from clockwork.errors import InvalidModelError
from clockwork.runtimes.hardware import read_cpuinfo
from clockwork.runtimes.torch.archive import COMPILED
from clockwork.runtimes.torch.program import Program
from clockwork.units import MIB, Bytes, show_bytes

DESCRIPTION: Final = f"{COMPILED}code.json"
"""In the archive, below its own name."""

LIBRARY: Final = f"{COMPILED}code.so"
"""In the archive, below its own name."""

FORMAT: Final = 1
"""Of the description."""

LIBRARY_BYTES_MAX: Final[Bytes] = 256 * MIB
"""Of the code, without weights; that of a transformer encoder of two layers has 0.3 MB."""

DESCRIPTION_BYTES_MAX: Final[Bytes] = 16 * MIB
"""Of the description, which has a hundred bytes for each of the weights."""

HOW: Final = "compile it anew, with clockwork export --compile on a machine like this one"

_ELF64: Final = b"\x7fELF\x02\x01"
_HEADER: Final = struct.Struct("<32xQQ6xHHHHH")
"""Of a file in ELF-64: where segments and sections are described, then how long and how many descriptions are."""
_SEGMENT: Final = struct.Struct("<8xQ16xQ16x")
"""Where it begins in the file, and its size there; see elf(5)."""
_EXTENSION: Final = re.compile(
    r"abm|adx|aes|amx\w*|avx\w*|bmi[12]|f16c|fma4?|gfni|movbe|pclmulqdq|pni|popcnt|"
    r"sha_ni|sse\w*|ssse\w*|tbm|vaes|vpclmulqdq|xop"
)
"""Of the CPU's features on x86, those that a compiler makes instructions of; elsewhere all count."""


class Description(Struct, frozen=True):
    """What code was compiled for."""

    format: int
    torch: str
    """The release of PyTorch, as in ``torch.__version__``."""
    device: str
    """``cpu``."""
    platform: str
    """``linux``."""
    machine: str
    """``x86_64``."""
    vectors: str
    """What PyTorch calls the vector instructions, for people: ``AVX512 AVX512_VNNI``."""
    extensions: tuple[str, ...]
    """Features of the CPU that the compiler could count on; see `extensions`."""
    sha256: str
    """Of the code."""
    weights: dict[str, str] = {}
    """What the code takes for granted of each of the program's weights; see `granted`."""

    @property
    def target(self) -> str:
        """For people: ``x86_64 with AVX512 AVX512_VNNI, PyTorch 2.13.0``."""
        vectors = f" with {self.vectors}" if self.vectors else ""
        return f"{self.machine}{vectors}, PyTorch {release(self.torch)}"


class Code(Struct, frozen=True):
    """Compiled code, and what it was compiled for."""

    description: Description
    binary: bytes


def extensions(cpuinfo: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The CPU's features that instructions depend on, in order."""
    fields = read_cpuinfo() if cpuinfo is None else cpuinfo
    if "flags" in fields:
        return tuple(sorted(it for it in set(fields["flags"].split()) if _EXTENSION.fullmatch(it)))
    return tuple(sorted(set(fields.get("Features", "").split())))


def read(path: Path) -> Code | None:
    """The compiled code in a file that `clockwork.runtimes.torch.archive.read` has checked; None if there is none.

    Raises:
        InvalidModelError: it is not whole, or not for this machine.
    """
    name = path.name
    try:
        with ZipFile(path) as archive:
            entries = {it.partition("/")[2]: it for it in archive.namelist()}
            if DESCRIPTION not in entries and LIBRARY not in entries:
                return None
            if DESCRIPTION not in entries or LIBRARY not in entries:
                raise InvalidModelError(f"{name!r} has a part of compiled code only: it is cut off; {HOW}")
            described = _entry(name, archive, entries[DESCRIPTION], DESCRIPTION_BYTES_MAX)
            description = msgspec.json.decode(described, type=Description)
            check(name, description)
            library = _entry(name, archive, entries[LIBRARY], LIBRARY_BYTES_MAX)
    except (BadZipFile, msgspec.DecodeError) as error:
        raise InvalidModelError(f"the compiled code of {name!r} is corrupt: {error}; {HOW}") from None
    if hashlib.sha256(library).hexdigest() != description.sha256 or not whole(library):
        raise InvalidModelError(f"the compiled code of {name!r} is corrupt: it is not what its description says; {HOW}")
    return Code(description, library)


def whole(library: bytes) -> bool:
    """Whether all of a library is there, as far as its headers tell: the loader would read beyond its end."""
    if not library.startswith(_ELF64) or len(library) < _HEADER.size:
        return False
    segments, sections, each, count, each_section, sections_count, _ = _HEADER.unpack_from(library)
    if each != _SEGMENT.size or max(segments + each * count, sections + each_section * sections_count) > len(library):
        return False
    found = (_SEGMENT.unpack_from(library, segments + each * i) for i in range(count))
    return all(begin + size <= len(library) for begin, size in found)


def check(name: str, description: Description, here: Description | None = None) -> None:
    """Whether this machine can run what was compiled so.

    Raises:
        InvalidModelError: it cannot; says what differs.
    """
    here = this_machine() if here is None else here
    if description.format != FORMAT:
        raise InvalidModelError(
            f"the compiled code of {name!r} is described in format {description.format}, and this is format {FORMAT}; "
            f"{HOW}"
        )
    for what, wanted, found in (
        ("for devices of kind", description.device, here.device),
        ("for", f"{description.machine} with {description.platform}", f"{here.machine} with {here.platform}"),
        ("with PyTorch", release(description.torch), release(here.torch)),
    ):
        if wanted != found:
            raise InvalidModelError(f"{name!r} was compiled {what} {wanted}, and here is {found}; {HOW}")
    missing = [it for it in description.extensions if it not in here.extensions]
    if missing:
        raise InvalidModelError(
            f"{name!r} was compiled for a CPU with {', '.join(missing)}, which this one does not have; {HOW}"
        )


def granted(program: Program) -> dict[str, str]:
    """Type, shape and strides of a program's weights, by name: code is compiled for these."""
    places = zip(program.weight_names, program.layout.places, strict=True)
    return {name: f"{it.dtype} {list(it.shape)} {list(it.stride)}" for name, it in places}


def check_weights(code: Code, program: Program) -> None:
    """Whether the program's weights are what the code takes them for.

    Raises:
        InvalidModelError: they are not.
    """
    wanted, found = code.description.weights, granted(program)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InvalidModelError(
                f"the code was compiled for another program: for weights {name!r} of {wanted.get(name, 'no kind')}, "
                f"and here they are {found.get(name, 'not there')}; {HOW}"
            )


def this_machine(device: str = "cpu", vectors: str = "", sha256: str = "") -> Description:
    """What code has to be compiled for, to run here."""
    return Description(
        format=FORMAT,
        torch=str(torch.__version__),
        device=device,
        platform=sys.platform,
        machine=platform.machine(),
        vectors=vectors,
        extensions=extensions(),
        sha256=sha256,
    )


def release(version: str) -> str:
    """``2.13.0`` of ``2.13.0+cpu``: all builds of one have the interface that compiled code calls."""
    return version.partition("+")[0]


def _entry(name: str, archive: ZipFile, entry: str, limit: Bytes) -> bytes:
    size = archive.getinfo(entry).file_size
    if size > limit:
        raise InvalidModelError(f"{entry} of {name!r} has {show_bytes(size)}; at most {show_bytes(limit)} are accepted")
    return archive.read(entry)
