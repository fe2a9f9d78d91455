"""The name of this machine's CPU: devices of one name are equally fast, so that measurements may be shared.

Rules of the file: the name does not change from one start to the next; no frequency, no load, no host name in it.
"""

import hashlib
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
"""Linux's description of the processors."""


def read_cpuinfo(path: Path = CPUINFO) -> dict[str, str]:
    """The fields of the first processor; empty where there is no such file."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, colon, value in fields if colon}


def cpu_name(cpuinfo: Mapping[str, str]) -> str:
    """``Intel(R) Xeon(R) Platinum 8488C``, ``AMD EPYC family 26 model 2 stepping 1``, ``aarch64 0x41 part 0xd40``.

    Clouds cut model names short; where no number is left that would tell two generations apart, the family, model and
    stepping follow.
    """
    name = " ".join(cpuinfo.get("model name", "").partition("@")[0].split())  # a frequency follows the @
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
    """Return the CPU and the threads of a device: ``cpu AMD EPYC family 26 model 2 stepping 1 x1``.

    Raises:
        ValueError: threads is less than 1.
    """
    if threads < 1:
        raise ValueError(f"threads_per_device is {threads}; a device needs at least one thread")
    return f"cpu {cpu_name(read_cpuinfo() if cpuinfo is None else cpuinfo)} x{threads}"


def instruction_set(cpuinfo: Mapping[str, str] | None = None) -> str:
    """A short hash of the CPU's features: an optimised graph is laid out for the vector width that they allow."""
    fields = read_cpuinfo() if cpuinfo is None else cpuinfo
    flags = fields.get("flags") or fields.get("Features") or platform.processor()
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12]
