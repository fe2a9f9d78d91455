"""The state diagrams of ARCHITECTURE.md are those that tools/state_diagrams.py writes from the tables in the code."""

import sys
from enum import Enum
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import state_diagrams  # noqa: E402


class Light(Enum):
    RED = 1
    GREEN = 2


class Press(Enum):
    BUTTON = "the button is pressed"
    STOP = "stop"


def test_architecture_has_the_diagrams_that_the_tool_writes() -> None:
    page = state_diagrams.PAGE.read_text()
    assert state_diagrams.with_diagrams(page) == page, "run: python tools/state_diagrams.py"


@pytest.mark.parametrize("name", state_diagrams.DIAGRAMS)
def test_architecture_has_each_diagram_once(name: str) -> None:
    assert state_diagrams.PAGE.read_text().count(f"<!-- diagram: {name} -->") == 1


def test_a_diagram_has_one_arrow_per_transition() -> None:
    table = {(Light.RED, Press.BUTTON): Light.GREEN, (Light.GREEN, Press.STOP): Light.RED}
    assert state_diagrams.diagram(table) == (
        "```text\n"
        "RED    -- the button is pressed --> GREEN\n"
        "GREEN  -- stop -------------------> RED\n"
        "```\n"
    )  # fmt: skip


def test_only_the_text_between_the_marks_is_replaced() -> None:
    page = "a\n<!-- diagram: weights on a worker -->\nold\n<!-- end of diagram -->\nb\n"
    written = state_diagrams.with_diagrams(page)
    assert written.startswith("a\n<!-- diagram: weights on a worker -->\n```text\nCOLD ")
    assert written.endswith("```\n<!-- end of diagram -->\nb\n")
    assert "old" not in written
