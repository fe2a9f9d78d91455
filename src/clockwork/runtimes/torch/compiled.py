"""Reads compiled code from a model file, and checks whether this machine can run it.

This module does not run the code. The archive also contains the program from which the code was compiled. The program
contains the weights, and the names, types and shapes of inputs and outputs. The code contains none of these. So a file
with compiled code is an ordinary exported program to which the code was added.
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
"""Path of the description in the archive, relative to the archive's top directory."""

LIBRARY: Final = f"{COMPILED}code.so"
"""Path of the code in the archive, relative to the archive's top directory."""

FORMAT: Final = 1
"""Version of the description's format."""

MAX_LIBRARY_BYTES: Final[Bytes] = 256 * MIB
"""Limit of the size of the code, without weights. The code of a transformer encoder with two layers takes 0.3 MB."""

MAX_DESCRIPTION_BYTES: Final[Bytes] = 16 * MIB
"""Limit of the size of the description, which has about a hundred bytes for each weight."""

REMEDY: Final = "compile it again with clockwork export --compile on a machine like this one"

_ELF64: Final = b"\x7fELF\x02\x01"
_HEADER: Final = struct.Struct("<32xQQ6xHHHHH")
"""Header of an ELF-64 file.

The header contains the offsets of the tables of segments and sections, and the size and number of the tables' entries.
"""
_SEGMENT: Final = struct.Struct("<8xQ16xQ16x")
"""Entry of a segment, with its offset and its size in the file; see elf(5)."""
_EXTENSION: Final = re.compile(
    r"abm|adx|aes|amx\w*|avx\w*|bmi[12]|f16c|fma4?|gfni|movbe|pclmulqdq|pni|popcnt|"
    r"sha_ni|sse\w*|ssse\w*|tbm|vaes|vpclmulqdq|xop"
)
"""Matches the features of x86 CPUs for which a compiler generates instructions. On other processors, all features are
compared.
"""


class Description(Struct, frozen=True):
    """Describes the machine and the weights for which code was compiled."""

    format: int
    torch: str
    """Version of PyTorch, as in ``torch.__version__``."""
    device: str
    """Kind of device: ``cpu``."""
    platform: str
    """Operating system, for example ``linux``."""
    machine: str
    """Processor architecture, for example ``x86_64``."""
    vectors: str
    """PyTorch's names of the vector instructions, such as ``AVX512 AVX512_VNNI``. The names are shown in messages."""
    extensions: tuple[str, ...]
    """CPU features that the compiler was allowed to use; see `extensions`."""
    sha256: str
    """Digest of the code."""
    weights: dict[str, str] = {}
    """Type, shape and strides of each weight, by name; see `weight_kinds`."""

    @property
    def target(self) -> str:
        """The target as text, such as ``x86_64 with AVX512 AVX512_VNNI, PyTorch 2.13.0``."""
        vectors = f" with {self.vectors}" if self.vectors else ""
        return f"{self.machine}{vectors}, PyTorch {release(self.torch)}"


class Code(Struct, frozen=True):
    """Compiled code and its description."""

    description: Description
    binary: bytes


def extensions(cpuinfo: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the sorted names of the CPU features on which instructions depend."""
    fields = read_cpuinfo() if cpuinfo is None else cpuinfo
    if "flags" in fields:
        return tuple(sorted(flag for flag in set(fields["flags"].split()) if _EXTENSION.fullmatch(flag)))
    return tuple(sorted(set(fields.get("Features", "").split())))


def read(path: Path) -> Code | None:
    """Return the compiled code in a file, or None if the file has no compiled code.

    `clockwork.runtimes.torch.archive.read` must have checked the file.

    Raises:
        InvalidModelError: the code is incomplete, or was compiled for another kind of machine.
    """
    name = path.name
    try:
        with ZipFile(path) as archive:
            entries = {entry.partition("/")[2]: entry for entry in archive.namelist()}
            if DESCRIPTION not in entries and LIBRARY not in entries:
                return None
            if DESCRIPTION not in entries or LIBRARY not in entries:
                raise InvalidModelError(f"{name!r} has only a part of its compiled code: it is truncated; {REMEDY}")
            described = _entry(name, archive, entries[DESCRIPTION], MAX_DESCRIPTION_BYTES)
            description = msgspec.json.decode(described, type=Description)
            check(name, description)
            library = _entry(name, archive, entries[LIBRARY], MAX_LIBRARY_BYTES)
    except (BadZipFile, msgspec.DecodeError) as error:
        raise InvalidModelError(f"the compiled code of {name!r} is corrupt: {error}; {REMEDY}") from None
    if hashlib.sha256(library).hexdigest() != description.sha256 or not is_complete(library):
        raise InvalidModelError(
            f"the compiled code of {name!r} is corrupt: it does not match its description; {REMEDY}"
        )
    return Code(description, library)


def is_complete(library: bytes) -> bool:
    """Return whether a library contains all bytes to which its headers refer.

    The loader would read beyond the end of an incomplete library.
    """
    if not library.startswith(_ELF64) or len(library) < _HEADER.size:
        return False
    segments, sections, each, count, each_section, sections_count, _ = _HEADER.unpack_from(library)
    if each != _SEGMENT.size or max(segments + each * count, sections + each_section * sections_count) > len(library):
        return False
    found = (_SEGMENT.unpack_from(library, segments + each * i) for i in range(count))
    return all(begin + size <= len(library) for begin, size in found)


def check(name: str, description: Description, here: Description | None = None) -> None:
    """Check that this machine can run code with this description.

    Raises:
        InvalidModelError: this machine cannot run the code. The message states the difference.
    """
    here = this_machine() if here is None else here
    if description.format != FORMAT:
        raise InvalidModelError(
            f"the compiled code of {name!r} has a description of format {description.format}; the supported format is "
            f"{FORMAT}; {REMEDY}"
        )
    for what, wanted, found in (
        ("for devices of kind", description.device, here.device),
        ("for", f"{description.machine} with {description.platform}", f"{here.machine} with {here.platform}"),
        ("with PyTorch", release(description.torch), release(here.torch)),
    ):
        if wanted != found:
            raise InvalidModelError(f"{name!r} was compiled {what} {wanted}; this machine has {found}; {REMEDY}")
    missing = [extension for extension in description.extensions if extension not in here.extensions]
    if missing:
        raise InvalidModelError(
            f"{name!r} was compiled for a CPU with {', '.join(missing)}, which this CPU lacks; {REMEDY}"
        )


def weight_kinds(program: Program) -> dict[str, str]:
    """Return the type, shape and strides of each weight of a program, by name.

    Code is compiled for these types, shapes and strides.
    """
    places = zip(program.weight_names, program.layout.places, strict=True)
    return {name: f"{place.dtype} {list(place.shape)} {list(place.stride)}" for name, place in places}


def check_weights(code: Code, program: Program) -> None:
    """Check that the program's weights have the types, shapes and strides that the code was compiled for.

    Raises:
        InvalidModelError: the type, the shape or the strides of a weight differ.
    """
    wanted, found = code.description.weights, weight_kinds(program)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InvalidModelError(
                f"the code was compiled for another program: weights {name!r} are {found.get(name, 'missing')} in the "
                f"program and {wanted.get(name, 'missing')} in the code; {REMEDY}"
            )


def this_machine(device: str = "cpu", vectors: str = "", sha256: str = "") -> Description:
    """Return a description of this machine, in the form of a description of code that the machine can run."""
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
    """Return ``2.13.0`` for ``2.13.0+cpu``. All builds of a release have the same interface for compiled code."""
    return version.partition("+")[0]


def _entry(name: str, archive: ZipFile, entry: str, limit: Bytes) -> bytes:
    size = archive.getinfo(entry).file_size
    if size > limit:
        raise InvalidModelError(f"{entry} of {name!r} is {show_bytes(size)}; the limit is {show_bytes(limit)}")
    return archive.read(entry)
