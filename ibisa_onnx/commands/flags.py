"""The library's words for arguments, as the command line's flags.

The library writes arguments as Python has them: `output=NAME`, `gradient='forward-only'`, `mean=`.
"""

from __future__ import annotations

import re

_FLAGS = {
    "preprocessing": "--preprocess",
    "extra_inputs": "--extra-input",
    "providers": "--provider",
    "deadline": "--deadline-ms",
    "options": "--preset",
    "batch": "--fixed-batch",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            *(
                "activation",
                "budget",
                "channel_order",
                "depth",
                "gradient",
                "input",
                "labels",
                "layout",
            ),
            *("mean", "method", "output", "resize", "scale", "seed", "shorter_side", "size", "std"),
            *("surrogate", "target", "threads", "kind", "pad_value"),
            *("at", "index", "like", "reduce", "region", "unlike", "versus"),
            *("classes", "epochs", "held_out", "masks", "opset", "tolerance", "weights"),
        )
    },
}
_VALUE = r"""(?:(['"])(.*?)\3|([\w./:-]*))"""
# Not within paths and quoted values, which are the user's.
_DIRECTION = "direction"  # of a value, which is a flag of its own
_ARGUMENT = re.compile(
    rf"""(argument )?(?<![\w/'"=.-])({"|".join((*_FLAGS, _DIRECTION))})={_VALUE}"""
)


def with_flags(text: str) -> str:
    """Write the arguments in a message as flags: `output=NAME` as `--output NAME`."""

    def flag(found: re.Match[str]) -> str:
        word, name, _, quoted, plain = found.groups()
        if name == _DIRECTION:
            return f"--{quoted or plain}"
        kind = "flag " if word else ""
        return f"{kind}{_FLAGS[name]} {quoted or plain or ''}".rstrip()

    return _ARGUMENT.sub(flag, text)
