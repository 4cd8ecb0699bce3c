"""ONNX Runtime's messages, shortened to what a user can act on.

It writes where in its own source an error arose, the C++ signature of that function and the
condition that failed, and then what is wrong. Only the last is kept, in its own words but for a few
that have an answer. What is asked of a model's file is in `onnx_file.py`.
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
_LONGEST = 10_000  # characters that are looked at: a stranger's names may have any length
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:\s*")

Answer = Callable[[re.Match[str]], str]


def _opset(found: re.Match[str]) -> str:
    """Say which opset is too new; the default domain goes without saying."""
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
            r"\1 '\3': it has no implementation of \1 (opset \2) for values of these types",
        ),
        (r"^(\w+) '': ", r"\1: "),
        (r"(\S+?):(\w+)\(-?\d+\) is not a registered function/op", r"it has no operator \1.\2"),
        (
            r"No Op registered for (\w+) with domain_version of (\d+)",
            r"there is no operator \1 in opset \2",
        ),
        (
            r"Failed to allocate memory for requested buffer of size (\d+)",
            r"out of memory: \1 bytes were asked for",
        ),
        (r"^std::bad_alloc$|^bad allocation$", "out of memory"),
        (r"(CUDA failure \d+: [^;]*?) ?;.*", r"\1"),  # the rest are places, and the host's name
    )
)


def essence(error: object, limit: int = 400) -> str:
    """Return what another library's error says, on one line, without ONNX Runtime's ornaments.

    Of a long one its end stays, too, where the numbers are.
    """
    return shortened(shorten(str(error)), limit)


def shorten(message: str) -> str:
    """Return the part of a message that matters, on one line."""
    text = _without_places(_PREFIX.sub("", " ".join(shortened(message, _LONGEST).split())))
    for pattern, answer in _ANSWERS:
        text = pattern.sub(answer, text)
    return text.strip()


def _without_places(text: str) -> str:
    """Leave out places in the runtime's source, each with its function and its condition."""
    found = _PLACE.search(text)
    if found is None:
        return text
    before, behind = text[: found.start()], text[found.end() :]
    rest = _without_function(behind)
    if "onnxruntime" not in found[0] and rest == behind:  # of somebody else's source
        return before + found[0] + _without_places(behind)
    return before + _without_places(_CONDITION.sub("", rest))


def _without_function(text: str) -> str:
    """Leave out the function that a message starts with: a whole signature, or a name alone."""
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
    """Return where the parenthesis closes that opens there; the end if it does not."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)
