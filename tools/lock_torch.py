"""Write the lock files of PyTorch and of builds for CUDA, from the output of pip-compile.

Usage: ``lock_torch.py RUNTIME_LOCK DEV_LOCK FOUND CUDA ONNX OUT_DIRECTORY``.

A version of PyTorch has several builds. ``FOUND`` locks the build that pip finds on this machine, such as
``2.13.0+cpu`` from an index of CPU builds. ``CUDA`` locks the public build with the CUDA packages that it needs. The
tool writes these files:

- requirements-torch.lock: packages that tests without a GPU need in addition to ``DEV_LOCK``. Both builds of PyTorch
  are accepted.
- requirements-torch-cuda.lock: the CUDA build with all its packages, in addition to ``RUNTIME_LOCK``, because a
  container image has no packages for tests. Versions are those of ``DEV_LOCK``.
- requirements-onnx-cuda.lock: ONNX Runtime's build for CUDA, from ``ONNX``. This build replaces the build in
  ``DEV_LOCK``. The dependencies of ONNX Runtime are in the other lock files.
"""

import re
import sys
from pathlib import Path

HEADER = "#\n# Made by: make lock\n# On top of {base}; see tools/lock_torch.py.\n#\n"
OF_CUDA = re.compile(r"(nvidia|cuda)-|triton$")


def entries(path: str) -> dict[str, tuple[str, list[str]]]:
    """Return the version and the hashes of each package in a lock file. A version has the form ``==2.13.0``."""
    found: dict[str, tuple[str, list[str]]] = {}
    text = re.sub(r"^\s*#.*$", "", Path(path).read_text(), flags=re.MULTILINE)
    for entry in re.split(r"\n(?=[a-z])", text):
        if named := re.match(r"\s*([a-z0-9-]+)(===?[^\s\\]+)", entry):
            found[named[1]] = (named[2], re.findall(r"sha256:[0-9a-f]{64}", entry))
    return found


def lines(locked: dict[str, tuple[str, list[str]]]) -> str:
    """Return the lines of a lock file for these packages."""
    packages = []
    for name, (version, hashes) in sorted(locked.items()):
        packages.append(" \\\n    ".join([f"{name}{version}", *(f"--hash={it}" for it in sorted(set(hashes)))]))
    return "\n".join(packages) + "\n"


def text(locked: dict[str, tuple[str, list[str]]], base: str = "requirements-dev.lock") -> str:
    """Return the text of a lock file with these packages, in addition to those of another lock file."""
    return HEADER.format(base=base) + lines(locked)


def main(runtime: str, dev: str, found: str, cuda: str, onnx: str, out: str) -> None:
    """Write all three lock files."""
    known, installed = entries(dev), entries(runtime)
    here = {name: it for name, it in entries(found).items() if name not in known}
    everywhere = {name: it for name, it in entries(cuda).items() if name not in installed}
    plain = {name: it for name, it in here.items() if not OF_CUDA.match(name)}
    public = everywhere["torch"][0].lstrip("=")
    plain["torch"] = (f"=={public}", here["torch"][1] + everywhere["torch"][1])
    (Path(out) / "requirements-torch.lock").write_text(text(plain))
    (Path(out) / "requirements-torch-cuda.lock").write_text(text(everywhere, "requirements.lock"))
    of_onnx = {name: it for name, it in entries(onnx).items() if name not in known and name not in everywhere}
    (Path(out) / "requirements-onnx-cuda.lock").write_text(text(of_onnx))


if __name__ == "__main__":
    main(*sys.argv[1:])
