"""Where rules are written down: an explicit table from operator to rule, and how to add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Cotangents = Sequence[str | None]
"""The gradients of a node's inputs, in their order; None (or a shorter list): not covered."""

# Flat almost everywhere: the gradient stops here, as it does in every framework.
FLAT = frozenset(
    {"Sign", "Floor", "Ceil", "Round", "Hardmax", "Shape", "Size", "ConstantOfShape", "EyeLike"}
    | {"Bernoulli", "RandomNormalLike", "RandomUniformLike", "ArgMax", "ArgMin"}
    | {"DynamicQuantizeLinear"}
)

RuleFunction = Callable[..., Cotangents]

Expansion = Callable[..., Sequence[str] | None]
"""`expansion(tape, node)` writes an operator out in others and names the outputs it gives.

None: this node is not among those that it covers.
"""


@dataclass(frozen=True)
class Rule:
    """How one operator passes a gradient on.

    `function(tape, node, dy)` takes the cotangent of the node's first output; a rule of several
    outputs takes the list of all of them (None where nothing depends on an output). No gradient
    flows through inputs that are not in `inputs`, whatever their type; None stands for all.
    """

    function: RuleFunction
    several: bool = False
    inputs: tuple[int, ...] | None = None


class Rules:
    """The rules of a family of operators, keyed by operator name in the default domain."""

    def __init__(self, *families: Rules) -> None:
        self._table: dict[str, Rule] = {}
        self._expansions: dict[str, Expansion] = {}
        for family in families:
            self._expansions |= family._expansions
            for op_type, rule in family:
                self._add(op_type, rule)

    def __iter__(self) -> Iterator[tuple[str, Rule]]:
        return iter(self._table.items())

    def get(self, op_type: str, domain: str = "") -> Rule | None:
        """The rule of an operator, or None."""
        return self._table.get(op_type) if domain == "" else None

    def add(
        self, *op_types: str, several: bool = False, inputs: tuple[int, ...] | None = None
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Register the decorated function for these operators."""

        def register(function: RuleFunction) -> RuleFunction:
            for op_type in op_types:
                self._add(op_type, Rule(function, several, inputs))
            return function

        return register

    def expansion(self, op_type: str, domain: str = "") -> Expansion | None:
        """What writes an operator out in others, before its rule is asked, or None."""
        return self._expansions.get(op_type) if domain == "" else None

    def expand(self, *op_types: str) -> Callable[[Expansion], Expansion]:
        """Register the decorated function as the expansion of these operators."""

        def register(expansion: Expansion) -> Expansion:
            self._expansions |= dict.fromkeys(op_types, expansion)
            return expansion

        return register

    def _add(self, op_type: str, rule: Rule) -> None:
        if op_type in self._table:
            raise ValueError(f"two rules for {op_type}")
        self._table[op_type] = rule
