"""Rules of style that no linter checks.

Rules of the file: each rule is one test, the test's name is the rule, and its message names file and line. The pure
packages are those of the import contract in pyproject.toml.
"""

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
MODULES = sorted(SRC.rglob("*.py"))

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60  # without its parameters, because those of a command are its options

#: Concatenated, so that this file does not contain the texts.
BANNED_TEXTS = (
    "pypi" + ".org",
    "python" + "hosted",
    "registry." + "npmjs",
    "deb." + "debian",
    "/" + "work/",
    "/" + "root/",
)
UNOWNED_TODO = re.compile(r"\b(?:TO" + r"DO(?!\([\w@.-]+\))|FIX" + r"ME|XX" + r"X)\b")

#: Calls with side effects or input.
EFFECTS = frozenset({"breakpoint", "input", "open", "print"})
SET_TYPES = frozenset({"set", "frozenset", "Set", "AbstractSet", "MutableSet"})
#: Called with a set, these expose its order.
ORDER_KEEPERS = frozenset({"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed"})

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Definition: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def in_pure_packages() -> list[Path]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    pure = [contract for contract in contracts if contract["id"] in ("pure", "simulated")]
    assert len(pure) == 2
    rooms = [SRC / room.replace(".", "/") for contract in pure for room in contract["source_modules"]]
    return [path for path in MODULES if any(path == room.with_suffix(".py") or room in path.parents for room in rooms)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def at(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{name(path)}:{node.lineno}"


every_module = pytest.mark.parametrize("path", MODULES, ids=name)
every_pure_module = pytest.mark.parametrize("path", in_pure_packages(), ids=name)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


# ------------------------------------------------------------------------------------------------------- size


@every_module
def test_a_file_is_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE_LINES, f"{name(path)} has {lines} lines; {MAX_FILE_LINES} are allowed: split it"


@every_module
def test_a_function_is_short(path: Path) -> None:
    long = [
        f"{at(path, function)} {function.name}: {lines} lines"
        for function in functions(path)
        if (lines := (function.end_lineno or 0) - function.body[0].lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, f"more than {MAX_FUNCTION_LINES} lines: {long}"


# ------------------------------------------------------------------------------------------------- docstrings


def called(node: ast.expr) -> str:
    """Return the last name of a decorator, call or annotation: ``set`` for ``set[int]``."""
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word):
            return word
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return called(inner)
    return ""


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    exempt = {"overload", "override", "setter", "deleter", "register"}
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from public(node.body + node.orelse)
        elif isinstance(node, Definition) and not node.name.startswith("_"):
            if not exempt.intersection(map(called, node.decorator_list)):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


@every_module
def test_a_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), f"{name(path)} has no docstring"


@every_module
def test_a_public_name_has_a_docstring(path: Path) -> None:
    silent = [f"{at(path, it)} {it.name}" for it in public(parsed(path).body) if not ast.get_docstring(it)]
    assert not silent, f"no docstring: {silent}"


# ----------------------------------------------------------------------------------------------------- purity


def set_names(tree: ast.AST) -> set[str]:
    """Return names that are annotated as sets, or assigned nothing but sets."""
    sets: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(target=target, annotation=annotation):
                (sets if called(annotation) in SET_TYPES else others).add(ast.unparse(target))
            case ast.arg(arg=word, annotation=ast.expr() as annotation):
                (sets if called(annotation) in SET_TYPES else others).add(word)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    (sets if is_set(value) else others).add(ast.unparse(target))
            case ast.For(target=target) | ast.comprehension(target=target):
                others.add(ast.unparse(target))
    return sets - others


def is_set(node: ast.expr, names: frozenset[str] = frozenset()) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Name() | ast.Attribute():
            return ast.unparse(node) in names
        case ast.BinOp(left=left, right=right, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
            return is_set(left, names) or is_set(right, names)
    return False


def iterations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=iterated):
                yield iterated
            case ast.ListComp(generators=loops) | ast.DictComp(generators=loops):
                yield from (loop.iter for loop in loops)
            case ast.Call(func=ast.Name(id=word), args=args) if word in ORDER_KEEPERS:
                yield from args
            case ast.Starred(value=value):
                yield value


def set_iterations(tree: ast.AST) -> list[ast.expr]:
    names = frozenset(set_names(tree))
    return [node for node in iterations(tree) if is_set(node, names)]


@every_pure_module
def test_a_pure_package_has_no_coroutines(path: Path) -> None:
    waiting = [f"{at(path, it)} {it.name}" for it in functions(path) if isinstance(it, ast.AsyncFunctionDef)]
    assert not waiting, f"async def in a pure package: {waiting}"


@every_pure_module
def test_a_pure_package_has_no_side_effects(path: Path) -> None:
    acts = [
        f"{at(path, node)} {node.func.id}()"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EFFECTS
    ]
    assert not acts, f"side effect in a pure package: {acts}"


@every_pure_module
def test_a_pure_package_never_iterates_over_a_set(path: Path) -> None:
    found = [f"{at(path, node)} {ast.unparse(node)}" for node in set_iterations(parsed(path))]
    assert not found, f"the order of a set is random; use sorted() or a dict: {found}"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("for x in {1, 2}: f(x)", 1),
        ("for x in set(y): f(x)", 1),
        ("z = [x for x in set(y)]", 1),
        ("z = list({1, 2})", 1),
        ("z = [*{1, 2}]", 1),
        ("def f(ready: set[int]) -> None:\n    for x in ready: g(x)", 1),
        ("class A:\n    def f(self):\n        self.b = set()\n        for x in self.b: g(x)", 1),
        ("for x in sorted({1, 2}): f(x)", 0),
        ("z = {x for x in set(y)}", 0),
        ("z = len(set(y))", 0),
        ("for x in [1, 2]: f(x)", 0),
        ("def f(ready: list[int]) -> None:\n    for x in ready: g(x)", 0),
    ],
)
def test_the_search_for_set_iterations_finds_the_expected_number(source: str, count: int) -> None:
    assert len(set_iterations(ast.parse(source))) == count


# ------------------------------------------------------------------------------------------------------- text


@cache
def texts() -> dict[str, str]:
    """Return the text of each file that git tracks or would track."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    found: dict[str, str] = {}
    for path in filter(None, listed):
        try:
            found[path] = (ROOT / path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # binary, or deleted and not yet staged
    return found


def lines_with(pattern: re.Pattern[str], *suffixes: str) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:80]}"
        for path, text in texts().items()
        if path.endswith(suffixes or "")
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    banned = "|".join((r"(?<![\w.-])" if text[0] == "/" else "") + re.escape(text) for text in BANNED_TEXTS)
    assert not lines_with(re.compile(banned))


#: Words that made sentences hard to read; the glossary in ARCHITECTURE.md has the terms to use instead.
BANNED_WORDS = re.compile(
    r"\b(?:house|whoever|strangers?|homeless|mend(?:s|ed|ing)?|excuse[sd]?|appointments?|lent|lends?|telling"
    r"|says so|is told|something else than)\b",
    re.IGNORECASE,
)


def test_no_file_uses_a_banned_word() -> None:
    checked = re.compile(r"(?:src|tests|benchmarks|tools|examples)/.*\.py|.*\.md")
    found = [
        line
        for line in lines_with(BANNED_WORDS, ".py", ".md")
        if checked.fullmatch(path := line.partition(":")[0]) and path != "tests/test_tidy.py"
    ]
    assert not found, f"use plain words, see the glossary in ARCHITECTURE.md: {found}"


def test_every_todo_has_an_owner() -> None:
    assert not lines_with(UNOWNED_TODO, ".py", ".toml", "Makefile", ".ci/run", ".sh")


def test_text_files_end_with_one_newline() -> None:
    ends_well = re.compile(r"(?:\A|[^\n]\n)\Z")
    assert not [path for path, text in texts().items() if not ends_well.search(text)]


ONNX_RUNTIME = re.compile(r"^\s*(?:import|from)\b(?!\s+clockwork\.)[^#]*\b(?:onnxruntime|magika)\b")
"""Matches an import of ONNX Runtime or of a library that imports it, also in a program inside a string."""


def test_one_module_imports_onnx_runtime_and_switches_its_telemetry_off() -> None:
    found = [line for line in lines_with(ONNX_RUNTIME, ".py") if not line.startswith("src/clockwork/runtimes/ort.py:")]
    assert not found, f"use `from clockwork.runtimes.ort import onnxruntime`, which switches its telemetry off: {found}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import onnxruntime", True),
        ("    import numpy as np, onnxruntime, sys", True),
        ("from onnxruntime.capi import onnxruntime_pybind11_state", True),
        ("from magika import Magika", True),
        ("from clockwork.runtimes.ort import onnxruntime", False),
        ("session = onnxruntime.InferenceSession(file)", False),
    ],
)
def test_the_search_for_imports_of_onnx_runtime_finds_only_imports(line: str, found: bool) -> None:
    assert bool(ONNX_RUNTIME.search(line)) is found
