"""Writes the state diagrams of ARCHITECTURE.md from the tables that the code uses.

Each diagram is between two comments, ``<!-- diagram: NAME -->`` and ``<!-- end of diagram -->``.
`python tools/state_diagrams.py` writes all diagrams. tests/test_state_diagrams.py compares them with the file.
"""

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeAlias

from clockwork.controller import catalog, stage
from clockwork.state import residency
from clockwork.worker import memory

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "ARCHITECTURE.md"

Table: TypeAlias = Mapping[Any, Enum]
"""A table that maps a pair (state, event) to the next state. States and events are members of enumerations."""

DIAGRAMS: Final[Mapping[str, Table]] = {
    "stages of a controller": stage.TRANSITIONS,
    "life of a version": catalog.VERSION_STATES,
    "weights on a worker": memory.TRANSITIONS,
    "weights in the controller's view": residency.RESIDENCY,
}
"""The table for each diagram, by the name of the diagram."""

_BLOCK: Final = re.compile(r"(<!-- diagram: (.+?) -->\n).*?(<!-- end of diagram -->)", re.DOTALL)


def diagram(table: Table) -> str:
    """Return a table as a Markdown code block. Each line is an arrow such as ``COLD  -- load --> LOADING``."""
    width = max(len(state.name) for state, _ in table)
    longest = max(len(str(event.value)) for _, event in table)
    lines = [
        f"{state.name:{width}}  -- {event.value} {'-' * (longest - len(str(event.value)))}--> {after.name}"
        for (state, event), after in table.items()
    ]
    return "\n".join(["```text", *lines, "```", ""])


def with_diagrams(page: str) -> str:
    """Return a page in which each diagram is replaced by the current diagram of its table.

    Raises:
        KeyError: the page names a diagram that is not in `DIAGRAMS`.
    """
    return _BLOCK.sub(lambda found: found[1] + diagram(DIAGRAMS[found[2]]) + found[3], page)


if __name__ == "__main__":
    before = PAGE.read_text()
    after = with_diagrams(before)
    PAGE.write_text(after)
    print(f"{PAGE.name} {'is unchanged' if after == before else 'has changed'}", file=sys.stderr)
