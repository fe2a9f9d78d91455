"""`clockwork.scheduling` has everything that the author of a scheduler needs."""

import ast
from pathlib import Path
from typing import get_type_hints

import pytest

from clockwork import scheduling
from clockwork.scheduling import Scheduler

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_all_exported_names_exist() -> None:
    assert sorted(scheduling.__all__) == sorted(set(scheduling.__all__))
    for name in scheduling.__all__:
        assert hasattr(scheduling, name)


def test_every_type_of_the_scheduler_interface_is_exported() -> None:
    methods = [method for name, method in vars(Scheduler).items() if callable(method) and not name.startswith("_")]
    assert len(methods) == 14
    exported = {getattr(scheduling, name) for name in scheduling.__all__ if name not in ("FOREVER", "Nanos")}
    for method in methods:
        for hint in get_type_hints(method).values():
            if isinstance(hint, type) and hint.__module__.startswith("clockwork."):
                assert hint in exported, hint


@pytest.mark.parametrize("name", ["at_home.py", "least_loaded.py", "batching.py"])
def test_the_examples_import_clockwork_from_one_place(name: str) -> None:
    tree = ast.parse((EXAMPLES / name).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {module for module in modules if module.startswith("clockwork")} == {"clockwork.scheduling"}
