"""The public names, by the module that defines each; `__init__.py` loads them on first use."""

from .driver import (
    Derivative as Derivative,
    MissingRule as MissingRule,
    differentiate as differentiate,
    missing_rules as missing_rules,
)
from .joint import backward_graph as backward_graph
