"""Registry of gradient rules: an explicit table from operator to rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Cotangents = Sequence[str | None]
"""Gradients of a node's inputs, in order; None, or a shorter list: not supported."""

Operator = tuple[str, str]
"""An operator's domain, empty for ONNX's own, and name."""

# Piecewise constant operators: the gradient stops here, as in every framework.
_FLAT = frozenset(
    {"Sign", "Floor", "Ceil", "Round", "Hardmax", "Shape", "Size", "ConstantOfShape", "EyeLike"}
    | {"Bernoulli", "RandomNormalLike", "RandomUniformLike", "ArgMax", "ArgMin"}
    | {"DynamicQuantizeLinear"}
)


def is_flat(op_type: str, domain: str = "") -> bool:
    """Return whether an operator's output is piecewise constant."""
    return domain == "" and op_type in _FLAT


RuleFunction = Callable[..., Cotangents]

Expansion = Callable[..., Sequence[str] | None]
"""`expansion(tape, node)` writes an operator in terms of others and returns its outputs' names.

None: the expansion does not apply to this node.
"""


@dataclass(frozen=True)
class Rule:
    """The gradient rule of one operator.

    `function(tape, node, dy)` receives the cotangent of the node's first output and returns those
    of its inputs; if `several` is set it receives a list of all outputs' cotangents (None for an
    output without one). Gradients flow only to the inputs with indices in `inputs`; None: to all.
    """

    function: RuleFunction
    several: bool = False
    inputs: tuple[int, ...] | None = None


class Rules:
    """The rules of a family of operators."""

    def __init__(self, *families: Rules) -> None:
        self._table: dict[Operator, Rule] = {}
        self._expansions: dict[Operator, Expansion] = {}
        for family in families:
            self._expansions |= family._expansions
            for operator, rule in family:
                self._add(operator, rule)

    def __iter__(self) -> Iterator[tuple[Operator, Rule]]:
        return iter(self._table.items())

    def get(self, op_type: str, domain: str = "") -> Rule | None:
        """Return the rule of an operator; None if there is none."""
        return self._table.get((domain, op_type))

    def add(
        self,
        *op_types: str,
        domain: str = "",
        several: bool = False,
        inputs: tuple[int, ...] | None = None,
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Register the decorated function for these operators of a domain."""

        def register(function: RuleFunction) -> RuleFunction:
            for op_type in op_types:
                self._add((domain, op_type), Rule(function, several, inputs))
            return function

        return register

    def expansion(self, op_type: str, domain: str = "") -> Expansion | None:
        """Return an operator's expansion, which takes precedence over its rule; None if none."""
        return self._expansions.get((domain, op_type))

    def expand(self, *op_types: str, domain: str = "") -> Callable[[Expansion], Expansion]:
        """Register the decorated function as the expansion of these operators of a domain."""

        def register(expansion: Expansion) -> Expansion:
            self._expansions |= {(domain, op_type): expansion for op_type in op_types}
            return expansion

        return register

    def _add(self, operator: Operator, rule: Rule) -> None:
        if operator in self._table:
            raise ValueError(f"two rules for {'.'.join(filter(None, operator))}")
        self._table[operator] = rule
