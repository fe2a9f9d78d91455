"""The names that users import from ``clockwork``."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clockwork
from clockwork import errors

ROOT = Path(__file__).resolve().parent.parent.parent
INTERNAL = {"DeviceLostError"}
"""Exceptions that no client raises."""


NAMES = sorted({*clockwork.__all__} - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_can_be_imported_and_has_a_docstring(name: str) -> None:
    value = getattr(clockwork, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(clockwork)


def test_every_exception_of_a_client_is_public() -> None:
    exceptions = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert exceptions - INTERNAL == exceptions & set(clockwork.__all__)


def test_a_type_checker_sees_the_same_names() -> None:
    tree = ast.parse((ROOT / "src/clockwork/__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == NAMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'clockwork' has no attribute 'Server'"):
        clockwork.Server  # noqa: B018


def test_import_clockwork_is_light() -> None:
    heavy = "{'asyncio', 'msgspec', 'numpy', 'uvloop'}"
    code = f"import sys; sys.path[:0] = {sys.path!r}; import clockwork; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


def test_the_examples_for_clients_import_public_names_only() -> None:
    tree = ast.parse((ROOT / "examples/client.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert [name for name in modules | names if name is not None and name.startswith("clockwork")] == ["clockwork"]
