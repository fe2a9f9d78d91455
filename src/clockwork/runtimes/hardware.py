"""Determines the name of this machine's CPU. Devices with the same name share measured times.

The name must not change between starts of the worker, so it contains no clock frequency and no host name.
"""

import hashlib
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
"""File in which Linux describes the processors."""


def read_cpuinfo(path: Path = CPUINFO) -> dict[str, str]:
    """Return the fields of the first processor, or an empty dictionary if the file cannot be read."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, colon, value in fields if colon}


def cpu_name(cpuinfo: Mapping[str, str]) -> str:
    """Return the CPU's name, such as ``Intel(R) Xeon(R) Platinum 8488C``.

    Some clouds shorten the names of CPUs. If a name contains no number that distinguishes CPU generations, the family,
    model and stepping are appended, as in ``AMD EPYC family 26 model 2 stepping 1``. The name of an ARM CPU without a
    model name is made from its numbers, as in ``aarch64 0x41 part 0xd40``.
    """
    name = " ".join(cpuinfo.get("model name", "").partition("@")[0].split())  # the clock frequency follows the @
    if re.search(r"\d{4}|\d-\d", name):
        return name
    parts = [name or platform.machine() or "unknown"]
    for key, word in (
        ("CPU implementer", ""),
        ("cpu family", "family"),
        ("CPU part", "part"),
        ("model", "model"),
        ("stepping", "stepping"),
    ):
        if key in cpuinfo:
            parts.append(f"{word} {cpuinfo[key]}".strip())
    return " ".join(parts)


def device_kind(threads: int, cpuinfo: Mapping[str, str] | None = None) -> str:
    """Return the CPU and number of threads of a device, as in ``cpu AMD EPYC family 26 model 2 stepping 1 x1``.

    Raises:
        ValueError: threads is less than 1.
    """
    if threads < 1:
        raise ValueError(f"threads_per_device is {threads}; a device needs at least one thread")
    return f"cpu {cpu_name(read_cpuinfo() if cpuinfo is None else cpuinfo)} x{threads}"


def instruction_set(cpuinfo: Mapping[str, str] | None = None) -> str:
    """Return a short hash of the CPU's instruction set.

    Optimised graphs depend on the width of the vector registers.
    """
    fields = read_cpuinfo() if cpuinfo is None else cpuinfo
    flags = fields.get("flags") or fields.get("Features") or platform.processor()
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12]
