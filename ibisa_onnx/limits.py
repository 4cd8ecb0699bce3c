"""Resource limits for untrusted images, models and metadata, and how they are set.

A service explains images, and often models, from people it does not know. The resources an image,
a model or its metadata asks for are estimated before anything is allocated, and rejected above
these limits. In Python the limits are an argument; the command line reads them from the
environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ibisa_onnx.checks import check_type, shown
from ibisa_onnx.errors import OptionError

_PREFIX = "IBISA_ONNX_MAX_"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Limits:
    """Upper limits on what an input may ask for before it is decoded, allocated or run.

    Each field has an environment variable, `IBISA_ONNX_MAX_` followed by the field's name in
    capitals: `IBISA_ONNX_MAX_PIXELS=50M`. Functions and classes that accept `limits=` read these
    variables when it is None.

    Parameters
    ----------
    pixels
        Width times height of an image. The default is also Pillow's limit.
    file_bytes
        Size of an image, array or saved-result file, in bytes.
    text_bytes
        Size of a file of labels, settings or facts, and of a model's metadata, in bytes.
    memory
        Estimated size of the inputs and outputs of one model call, in bytes.
    nodes
        Number of nodes in a model's graph after its functions are inlined.

    Raises
    ------
    OptionError
        A limit is not an integer of 1 or more.

    Examples
    --------
    ```python
    limits = ibisa_onnx.Limits(pixels=50_000_000, memory=1 << 30)
    explainer = ibisa_onnx.Explainer("model.onnx", limits=limits)
    ```
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
                    f"limit {field.name} is {shown(value)}; pass an integer, 1 or more"
                )

    @classmethod
    def of(cls, given: Limits | None) -> Limits:
        """Return these limits, or those of the environment; `OptionError` if they are neither."""
        if given is None:
            return cls.from_environment()
        check_type("limits", given, cls, "a Limits")
        return given

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Limits:
        """Read the limits from environment variables.

        Values are integers, optionally followed by K, M or G (10^3, 10^6, 10^9). Limits without a
        variable have their default.

        Parameters
        ----------
        environment
            Variables by name; None: `os.environ`.

        Returns
        -------
        Limits
            The limits.

        Raises
        ------
        OptionError
            A variable is not such a number.
        """
        environment = os.environ if environment is None else environment
        check_type("environment", environment, Mapping, "variables by name")
        given = {each.name: environment.get(variable(each.name), "") for each in fields(cls)}
        return cls(**{name: _number(name, text) for name, text in given.items() if text.strip()})


def variable(name: str) -> str:
    """Return the name of the environment variable that sets a limit."""
    return f"{_PREFIX}{name.upper()}"


def _number(name: str, text: str) -> int:
    word = text.strip().upper()
    unit = word[-1:] if word[-1:] in ("K", "M", "G") else ""
    digits = word.removesuffix(unit)
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18 and int(digits)):
        raise OptionError(
            f"{variable(name)} is {text[:40]!r}; set it to an integer, 1 or more, optionally "
            "followed by K, M or G"
        )
    return int(digits) * _UNITS[unit]
