"""Which modules the compiled wheel contains as machine code, and which of their packages stay interpreted.

The list is computed from the sources, so it is always complete: `python tools/compiled.py` prints it. `setup.py` and
the tests use it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

PARTS: Final = ("blocks", "controller", "histogram", "pages", "scheduling", "state")
"""Packages and modules that are compiled: pure ones in which the controller spends most of its time per request."""

INTERPRETED: Final = {
    "clockwork.controller.guard": "it checks the types of values that come from schedulers of other authors; compiled "
    "code would raise TypeError before it can report them",
}
"""Modules that stay interpreted for another reason than their classes, each with the reason."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the modules to compile by name, in order, with their files relative to ``root``.

    A module that defines a `msgspec.Struct` is left out: mypyc drops ``frozen=True`` without a warning, or the module
    fails at import. A module that defines a dataclass is left out as well: mypyc supports only some of their options.
    ``__init__`` modules are left out: they only import, and a compiled one cannot import interpreted modules of its
    package, because Python sets ``__path__`` only after the compiled code has run.
    """
    sources = {name: path for name, path in _sources(root) if name not in INTERPRETED}
    classes = {name: list(_classes(root / path)) for name, path in sources.items()}
    structs = _structs([node for found in classes.values() for node in found])
    return {
        name: path
        for name, path in sources.items()
        if not any(node.name in structs or _is_dataclass(node) for node in classes[name])
    }


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield each module of `PARTS` except ``__init__`` modules, as name and path."""
    package = root / "src" / "clockwork"
    for part in PARTS:
        path = package / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            if file.name != "__init__.py":
                relative = file.relative_to(root)
                yield ".".join(relative.with_suffix("").parts[1:]), relative


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(ast.parse(path.read_text(), str(path))) if isinstance(node, ast.ClassDef))


def _last_word(node: ast.expr) -> str:
    """Return the last name: ``Struct`` for ``msgspec.Struct``, ``dataclass`` for ``@dataclass(frozen=True)``."""
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word):
            return word
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _last_word(inner)
    return ""


def _structs(classes: list[ast.ClassDef]) -> set[str]:
    """Return the names of the classes that derive from Struct, directly or indirectly."""
    structs = {"Struct"}
    while True:
        more = {node.name for node in classes if structs.intersection(map(_last_word, node.bases))}
        if more <= structs:
            return structs
        structs |= more


def _is_dataclass(node: ast.ClassDef) -> bool:
    return "dataclass" in map(_last_word, node.decorator_list)


if __name__ == "__main__":
    print(*modules(), sep="\n")
