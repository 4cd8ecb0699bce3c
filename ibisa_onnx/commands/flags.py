"""Translation of Python arguments in the library's messages to command-line flags.

The library writes arguments in Python syntax: `output=NAME`, `gradient='forward-only'`, and fields
of `overrides` as a dict: `overrides={'mean': ..., 'resize': 'stretch'}`.
"""

from __future__ import annotations

import re

_FLAGS = {
    "preprocessing": "--preprocess",
    "extra_inputs": "--extra-input",
    "providers": "--provider",
    "deadline": "--deadline-ms",
    "options": "--preset",
    "gradient_from": "--gradient-from",
    "headers": "--header",
    "timeout": "--timeout-ms",
    "max_concurrency": "--concurrency",
    "max_batch": "--images-per-request",
    "certificates": "--ca-file",
    "input_spec": "--input-spec",
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
                "interpolation",
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
_CALLS = {
    "Explainer.try_preprocessing(images)": "`ibisa-onnx inspect MODEL IMAGES --try`",
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
    'ValueTarget("keep")': "--keep",
    'ValueTarget("raise")': "--raise",
    'ValueTarget("lower")': "--lower",
}
"""Targets of a model kind (`Kind.asks`), settings of methods, and calls, with their flags."""
_VALUE = r"""(?:(['"])(.*?)\2((?:(?:,| or) '[\w-]+')*)|((?:(?!:)[\w./:-]+)?))"""
_DIRECTION = "direction"  # its values are flags of their own: --raise, --lower, --keep
# Paths and quoted values, which come from the user, are left as they are.
_ARGUMENT = re.compile(
    rf"""(?:argument )?(?<![\w/'"=.-])({"|".join((*_FLAGS, _DIRECTION))})={_VALUE}"""
)
_OVERRIDES = re.compile(r"""(?<![\w/'"=.-])overrides=\{('\w+': [^{}]*)\}""")
_FIELD = re.compile(r"""'(\w+)': (?:\.\.\.|'([^']*)'|(\S+?))(?=, '|$)""")


def with_flags(text: str) -> str:
    """Replace arguments and targets in a message by flags: `output=NAME` by `--output NAME`."""

    def flag(found: re.Match[str]) -> str:
        name, _, quoted, others, plain = found.groups()
        if name == _DIRECTION:
            return f"--{quoted or plain}"
        value = quoted or ("" if plain == "True" else plain) or ""
        alternatives = (others or "").replace("'", "")
        return f"{_FLAGS[name]} {value}".rstrip() + alternatives

    for call, flags in _CALLS.items():
        text = text.replace(call, flags)
    return _ARGUMENT.sub(flag, _OVERRIDES.sub(_single_flags, text))


def _single_flags(found: re.Match[str]) -> str:
    """Return the flags of a dict of overrides: `--mean, --resize stretch`."""
    fields = _FIELD.findall(found[1])
    if not fields or any(name not in _FLAGS for name, *_ in fields):
        return found[0]
    return ", ".join(f"{_FLAGS[name]} {word or number}".rstrip() for name, word, number in fields)
