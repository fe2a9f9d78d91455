"""Build the files of a release: the source distribution, and a wheel of pure Python or a compiled wheel.

    python tools/dist.py dist               # dist/*.tar.gz and a wheel of pure Python
    python tools/dist.py --compiled dist    # the same, and a wheel with compiled modules for this Python and machine
    python tools/dist.py --compiled --unpacked build/compiled    # the package of the compiled wheel, for PYTHONPATH

Each wheel is built from the source distribution, so that the build fails if a file is missing. The build uses the
setuptools and the mypy of this environment. The lock file pins the versions of both.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("LICENSE", "MANIFEST.in", "NOTICE", "README.md", "pyproject.toml", "setup.py", "tools/compiled.py")
"""Files of the source distribution that are not part of the package."""


def missing() -> str:
    """Return a text about a missing tool that the compilation needs. The text is empty if nothing is missing."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    compiler = os.environ.get("CC", compiler).split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler found ({compiler}); on Debian and Ubuntu: apt-get install gcc"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return f"{header} is missing; on Debian and Ubuntu: apt-get install python3-dev"
    return ""


def make_source(directory: Path) -> Path:
    """Build the source distribution from a copy of the sources, because setuptools writes files beside the sources."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (copy / "tools").mkdir()
        for name in BESIDE:
            shutil.copy(ROOT / name, copy / name)
        code = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, directory], cwd=copy, check=True, stdout=subprocess.DEVNULL)
    (archive,) = directory.glob("*.tar.gz")
    return archive


def make_wheel(source: Path, directory: Path, *, compiled: bool) -> Path:
    """Build a wheel from a source distribution."""
    before = set(directory.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps"]
    command += ["--no-index", "--no-cache-dir", "--no-build-isolation", "--wheel-dir", str(directory), str(source)]
    subprocess.run(command, cwd=directory, check=True, env={**os.environ, "CLOCKWORK_COMPILED": str(int(compiled))})
    (wheel,) = set(directory.glob("*.whl")) - before
    return wheel


def put(made: Path, target: Path, *, unpacked: bool) -> None:
    """Add the files of the directory ``made`` to ``target``.

    If ``unpacked`` is true, replace ``target`` by the content of the only wheel in ``made``.
    """
    if unpacked:
        (wheel,) = made.glob("*.whl")
        shutil.rmtree(target, ignore_errors=True)
        shutil.unpack_archive(wheel, target, "zip")
        return
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(made.iterdir()):
        shutil.copy(file, target)
        print(target / file.name)


def main() -> None:
    """Build the files that the command line requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, nargs="?", default=Path("dist"), help="directory of the files")
    parser.add_argument("--compiled", action="store_true", help="compile modules with mypyc")
    parser.add_argument("--unpacked", action="store_true", help="unpack the compiled wheel there, and nothing else")
    parser.add_argument("--can-compile", action="store_true", help="only check for a C compiler and Python's headers")
    arguments = parser.parse_args()
    if (arguments.compiled or arguments.can_compile) and (lack := missing()):
        sys.exit(f"cannot compile: {lack}")
    if arguments.can_compile:
        return
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory)
        source = make_source(made)
        if not arguments.unpacked:
            make_wheel(source, made, compiled=False)
        if arguments.compiled or arguments.unpacked:
            make_wheel(source, made, compiled=True)
        put(made, arguments.target, unpacked=arguments.unpacked)


if __name__ == "__main__":
    main()
