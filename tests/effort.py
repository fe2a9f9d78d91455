"""How much work a randomised test does: all of it on compiled modules, a third of it in the slower interpreter.

`make test-compiled` runs the tests of the compiled packages, so a whole run of the project's checks does both.
"""

from typing import Final

from clockwork.state import gpu

COMPILED: Final = not gpu.__file__.endswith(".py")
"""Whether the tests run on compiled modules."""


def scaled(examples: int) -> int:
    """Return the number of examples to try, at least one; ``examples`` is the number on compiled modules."""
    return examples if COMPILED else max(1, examples // 3)
