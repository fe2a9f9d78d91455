"""Defines tables of rules, which have one rule for each operator."""

from collections.abc import Callable
from typing import TypeVar

RuleT = TypeVar("RuleT")


class RuleTable(dict[str, RuleT]):
    """Rules by operator name. The modules that define rules add their rules to the table with `rule`."""

    def rule(self, *operators: str) -> Callable[[RuleT], RuleT]:
        """Decorator that registers a function as the rule of each of these operators."""

        def register(function: RuleT) -> RuleT:
            for operator in operators:
                assert operator not in self, operator
                self[operator] = function
            return function

        return register
