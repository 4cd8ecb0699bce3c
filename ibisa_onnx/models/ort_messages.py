"""ONNX Runtime's error messages, shortened to what a user can act on.

ONNX Runtime reports the location in its own source, the C++ signature and the failed condition
before the actual problem. Only the problem is retained, in its own words except for a few with a
known remedy. Errors about the model file are in `onnx_file.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ibisa_onnx.escaping import shortened

# A place in its source, as `/onnxruntime_src/…/model.cc:256 ` or `tensorprotoutils.cc:592 `.
_PLACE = re.compile(r"\S*\.(?:h|hpp|cc|cpp|cu|cuh):\d+ ")
_NAME = re.compile(r"[\w:~]*(?:\w::|[a-z][A-Z])[\w:~]* |[A-Z][a-z]+ (?=[A-Z])")
_QUALIFIED = re.compile(r"[^()]*::~?\w[^()\s]*(?=\()")
_BEHIND = re.compile(r" ?(?:const\b)?(?:::<lambda)? ?(?:\[with [^\]]*\])? ?")
_CONDITION = re.compile(r"^(?:(?!\. ).)* was false\. (?=\S)")
_LONGEST = 10_000  # characters examined: untrusted names may have any length
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:\s*")

Answer = Callable[[re.Match[str]], str]


def _opset(found: re.Match[str]) -> str:
    """Describe an unsupported opset; the default domain is not named."""
    of = "" if found["domain"] == "ai.onnx" else f" of {found['domain']}"
    return f"opset {found['opset']}{of}; this ONNX Runtime reads up to {found['most']}: update it"


_ANSWERS: tuple[tuple[re.Pattern[str], str | Answer], ...] = tuple(
    (re.compile(pattern, re.DOTALL), answer)
    for pattern, answer in (
        (r"(?:Fatal error|Status Message|Exception during initialization): ", ""),
        (r"\s*Please fix either the inputs/outputs or the model\.", ""),
        (
            r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
            r"IR version \1; this ONNX Runtime reads up to \2: update it",
        ),
        (
            r"ONNX Runtime only \*guarantees\* support .*?Opset (?P<opset>\d+) is under .*?"
            r"for domain (?P<domain>\S+) is till opset (?P<most>\d+)\.",
            _opset,
        ),
        (r"Non-zero status code returned while running (\w+) node\. Name:('[^']*') ", r"\1 \2: "),
        (
            r"This is an invalid model\. In Node, \(\"(.*?)\", (\w+), .*? , Error ",
            r"\2 '\1': ",
        ),
        (r"Node \((.*?)\) Op \((\w+)\) \[\w+InferenceError\] ", r"\2 '\1': "),
        (
            r"Could not find an implementation for (\w+)\((\d+)\) node with name '(.*?)'",
            r"\1 '\3': no implementation of \1 (opset \2) for these types",
        ),
        (r"^(\w+) '': ", r"\1: "),
        (r"(\S+?):(\w+)\(-?\d+\) is not a registered function/op", r"unknown operator \1.\2"),
        (
            r"No Op registered for (\w+) with domain_version of (\d+)",
            r"operator \1 does not exist in opset \2",
        ),
        (
            r"Failed to allocate memory for requested buffer of size (\d+)",
            r"out of memory: \1 bytes were requested",
        ),
        (r"^std::bad_alloc$|^bad allocation$", "out of memory"),
        (r"(CUDA failure \d+: [^;]*?) ?;.*", r"\1"),  # the rest: locations, host
    )
)


def essence(error: object, limit: int = 400) -> str:
    """Return another library's error on one line, without ONNX Runtime's boilerplate.

    A long message is shortened in the middle, since its end often has the numbers.
    """
    return shortened(shorten(str(error)), limit)


def shorten(message: str) -> str:
    """Return the relevant part of a message, on one line."""
    text = _without_places(_PREFIX.sub("", " ".join(shortened(message, _LONGEST).split())))
    for pattern, answer in _ANSWERS:
        text = pattern.sub(answer, text)
    return text.strip()


def _without_places(text: str) -> str:
    """Remove source locations, each with its function and condition."""
    found = _PLACE.search(text)
    if found is None:
        return text
    before, behind = text[: found.start()], text[found.end() :]
    rest = _without_function(behind)
    if "onnxruntime" not in found[0] and rest == behind:  # a location in another library
        return before + found[0] + _without_places(behind)
    return before + _without_places(_CONDITION.sub("", rest))


def _without_function(text: str) -> str:
    """Remove a leading C++ function: a whole signature, or only a name."""
    name = _NAME.match(text)
    if name is not None and "(" not in name[0] and not _QUALIFIED.match(text):
        return text[name.end() :]
    qualified = _QUALIFIED.match(text)
    if qualified is None:
        return text
    end = qualified.end()
    while text[end : end + 1] == "(":  # twice for `operator()(…)`
        end = _closing(text, end) + 1
    behind = _BEHIND.match(text, end)
    return text[behind.end() :] if behind else text[end:]


def _closing(text: str, opening: int) -> int:
    """Return the index of the parenthesis that closes the one at `opening`, or the end."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)
