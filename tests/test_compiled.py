"""The list of compiled modules, and building the wheel."""

import dataclasses
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import compiled  # noqa: E402

MODULES = sorted(compiled.modules())


def classes(module: ModuleType) -> list[type]:
    return [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]


@pytest.mark.parametrize("name", MODULES)
def test_no_compiled_module_defines_a_struct_or_a_dataclass(name: str) -> None:
    defined = classes(import_module(name))
    assert not [kind for kind in defined if issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)]


@pytest.mark.parametrize(
    "name", ["clockwork.controller.guard", "clockwork.controller.events", "clockwork.scheduling.clockwork.config"]
)
def test_the_guard_and_modules_with_structs_stay_interpreted(name: str) -> None:
    assert name not in MODULES
    module = import_module(name)
    assert module.__file__ is not None
    assert module.__file__.endswith(".py")


@pytest.mark.parametrize(
    "name", ["clockwork.state.gpu", "clockwork.controller.serving", "clockwork.scheduling.clockwork.plan"]
)
def test_the_modules_that_take_most_of_the_time_are_compiled(name: str) -> None:
    assert name in MODULES


def test_each_exception_names_a_module_that_exists() -> None:
    for name in compiled.INTERPRETED:
        import_module(name)


@pytest.mark.parametrize(
    ("source", "is_compiled"),
    [
        ("class A: pass", True),
        ("class A(Struct, frozen=True): pass", False),
        ("class A(msgspec.Struct): pass", False),
        ("class B(Base): pass", False),
        ("class B(ns.Base): pass", False),
        ("def f():\n    class A(Struct): pass", False),
        ("@dataclass\nclass A: pass", False),
        ("@dataclasses.dataclass(frozen=True)\nclass A: pass", False),
    ],
)
def test_structs_and_dataclasses_are_found_in_the_source(source: str, is_compiled: bool, tmp_path: Path) -> None:
    package = tmp_path / "src" / "clockwork"
    for part in compiled.PARTS:
        (package / part).mkdir(parents=True)
    (package / "state" / "__init__.py").write_text("")
    (package / "state" / "one.py").write_text("class Base(Struct): pass")
    (package / "state" / "two.py").write_text(source)
    expected = {"clockwork.state.two": Path("src/clockwork/state/two.py")} if is_compiled else {}
    assert compiled.modules(tmp_path) == expected


def test_with_the_option_each_module_of_the_list_is_compiled(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--compiled"):
        pytest.skip("needs compiled modules: make test-compiled")
    interpreted = [name for name in MODULES if not str(import_module(name).__file__).endswith(".so")]
    assert not interpreted


def test_by_default_the_wheel_is_pure_and_the_source_distribution_can_be_compiled(tmp_path: Path) -> None:
    command = [sys.executable, "tools/dist.py", str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert printed.split() == [str(wheel), str(source)]
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "tools/compiled.py", "src/clockwork/state/gpu.py"} <= inside
