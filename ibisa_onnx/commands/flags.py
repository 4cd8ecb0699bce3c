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
    "trust": "--trust",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            *(
                "activation",
                "budget",
                "confidence",
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
_TARGETS = {
    "GradCam(layer=NAME)": "--gradcam-layer NAME",
    "BoxTarget(3)": "--box 3",
    "BoxTarget(every=True)": "--box all",
    "ContrastTarget(CLASS, CLASS)": "--versus CLASS",
    "PointTarget((120, 20))": "--at 120,20",
    "PointTarget((120, 80))": "--at 120,80",
    "RegionTarget(region=MASK)": "--region MASK|L,T,R,B",
    "SimilarityTarget(FILE)": "--like FILE",
    "SimilarityTarget(FILE, FILE)": "--like FILE --unlike FILE",
    "TextTarget()": "--text",
    "TextTarget(3)": "--char 3",
    'ValueTarget("raise", NAME, "0,:")': "--raise --output NAME --index 0,:",
    'ValueTarget("keep", index=2)': "--keep --index 2",
    'ValueTarget("keep")': "--keep",
    'ValueTarget("raise")': "--raise",
    'ValueTarget("lower")': "--lower",
}
"""What can be asked of a kind of model (`Kind.asks`), or of a method, and the flag for it."""
_VALUE = r"""(?:(['"])(.*?)\3|([\w./:-]*))"""
# Not within paths and quoted values, which are the user's.
_DIRECTION = "direction"  # of a value, which is a flag of its own
_ARGUMENT = re.compile(
    rf"""(argument )?(?<![\w/'"=.-])({"|".join((*_FLAGS, _DIRECTION))})={_VALUE}"""
)


def with_flags(text: str) -> str:
    """Write arguments and targets in a message as flags: `output=NAME` as `--output NAME`."""

    def flag(found: re.Match[str]) -> str:
        word, name, _, quoted, plain = found.groups()
        if name == _DIRECTION:
            return f"--{quoted or plain}"
        kind = "flag " if word else ""
        value = quoted or ("" if plain == "True" else plain) or ""
        return f"{kind}{_FLAGS[name]} {value}".rstrip()

    for target, flags in _TARGETS.items():
        text = text.replace(target, flags)
    return _ARGUMENT.sub(flag, text)
