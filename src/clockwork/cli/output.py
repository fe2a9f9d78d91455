"""Tables for people and JSON for programs, on stdout."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from clockwork.messages.profile import Measurement


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table; columns whose header begins with ``>`` are aligned to the right."""
    made = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.removeprefix(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        made.add_row(*map(str, row))
    return made


def show(*things: Table | str) -> None:
    """Print tables and lines, as they are. Where stdout is no terminal, nothing is cut to a width."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    for number, thing in enumerate(things):
        if isinstance(thing, Table) and number:
            console.print()
        console.print(thing, soft_wrap=isinstance(thing, str))


def show_json(thing: Any) -> None:
    """Print one JSON document. Structs become objects with their fields' names, which on the wire they have not."""
    print(msgspec.json.encode(named(thing)).decode())


def named(thing: Any) -> Any:
    """``thing`` with dicts in the place of structs; a `Measurement` also says its percentiles."""
    match thing:
        case Measurement():
            return {"p50": thing.median, "p99": thing.p99, "samples": thing.samples}
        case Struct():
            return {field: named(getattr(thing, field)) for field in thing.__struct_fields__}
        case dict():
            return {key: named(value) for key, value in thing.items()}
        case list() | tuple():
            return [named(item) for item in thing]
    return thing
