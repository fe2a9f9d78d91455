"""Lists the modules that the compiled wheel contains as machine code.

The list is computed from the sources, so that it is always complete. `python tools/compiled.py` prints the list.
`setup.py` and the tests use it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

PARTS: Final = ("blocks", "controller", "histogram", "pages", "scheduling", "state")
"""Packages and modules that are compiled.

These parts are pure, and the controller spends most of a request's time in them.
"""

INTERPRETED: Final = {
    "clockwork.controller.guard": "it checks the types of values that come from schedulers of other authors; compiled "
    "code would raise TypeError before it can report them",
}
"""Modules that are not compiled although their classes could be compiled, and the reason for each."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the modules that are compiled, sorted by name. The values are the modules' files, relative to ``root``.

    These modules are not compiled:

    - Modules that define a `msgspec.Struct`. mypyc would drop ``frozen=True`` without a warning, or the module could
      not be imported.
    - Modules that define a dataclass. mypyc supports only some options of dataclasses.
    - ``__init__`` modules. Such modules contain only imports. A compiled one cannot import interpreted modules of its
      package, because Python sets ``__path__`` after the compiled code has run.
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
    """Yield the name and the path of each module of `PARTS`, except ``__init__`` modules."""
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
    """Return the last name in an expression.

    The last name is ``Struct`` for ``msgspec.Struct``, and ``dataclass`` for ``@dataclass(frozen=True)``.
    """
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
