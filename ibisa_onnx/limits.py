"""How much what comes from strangers may ask for, and where that is set.

A service explains pictures, and often models, of people it does not know. What a picture, a model
or its metadata asks for is estimated before anything is allocated, and refused where it is more
than this. From Python the limits are an argument; the command line takes the environment's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ibisa_onnx.errors import OptionError

_PREFIX = "IBISA_ONNX_MAX_"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Limits:
    """What is refused before it is decoded, allocated or run.

    Each field has a variable of the environment, `IBISA_ONNX_MAX_` and its name in capitals:
    `IBISA_ONNX_MAX_PIXELS=50M`.

    Attributes
    ----------
    pixels
        Width times height of a picture. The default is what Pillow refuses above, too.
    file_bytes
        Of a picture's, an array's or a saved result's file.
    text_bytes
        Of a file of labels, settings or facts, and of a model's metadata.
    memory
        Bytes of what one call of the model takes and returns, by estimate.
    nodes
        Nodes of a model's graph once its functions are written out.

    Raises
    ------
    OptionError
        One is not a whole number above 0.
    """

    pixels: int = 178_956_970
    file_bytes: int = 512 << 20
    text_bytes: int = 64 << 20
    memory: int = 2 << 30
    nodes: int = 1_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(
                    f"limit {field.name} is {value!r}; give a whole number, 1 or more"
                )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Limits:
        """Return the limits that variables set: whole numbers, K, M and G for 10^3, 10^6, 10^9.

        `environment` None is the process's own.

        Raises
        ------
        OptionError
            A variable is set to no such number.
        """
        environment = os.environ if environment is None else environment
        said = {each.name: environment.get(variable(each.name), "") for each in fields(cls)}
        return cls(**{name: _number(name, text) for name, text in said.items() if text.strip()})


def variable(name: str) -> str:
    """Return the variable of the environment that sets a limit."""
    return f"{_PREFIX}{name.upper()}"


def _number(name: str, text: str) -> int:
    word = text.strip().upper()
    unit = word[-1:] if word[-1:] in ("K", "M", "G") else ""
    digits = word.removesuffix(unit)
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18 and int(digits)):
        raise OptionError(
            f"{variable(name)} is {text[:40]!r}; give a whole number, 1 or more, with or without "
            "K, M or G"
        )
    return int(digits) * _UNITS[unit]
