"""Names of pictures, models, tensors and nodes that would spoof a terminal or a path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import helper

from hostile.base import encoded, graph, model
from hostile.case import Case

_FAMILY = "names"
_NAMES = (
    "..png",
    ".png",
    "a.b..png",
    "-.png",
    " .png",
    "a\nibisa-onnx: error: forged.png",
    "a\x1b[2J\x1b[31m.png",
    "a\u202egnp.exe.png",
    "\udcff\udcfe.png",
    "a" * 251 + ".png",
    "a" * 230 + ".png",
    "café 東京.png",
    "%s%n{0}.png",
    "~.png",
    "$HOME.png",
    "*.png",
    "a.ibisa.png",
    "a.PNG",
    "a",
    "--help.png",
)


def make() -> Iterator[Case]:
    for number, name in enumerate(_NAMES):
        yield Case(_FAMILY, f"picture-{number}", _picture(name, ("run",)))
        yield Case(_FAMILY, f"inspect-{number}", _picture(name, ("inspect",)))
        yield Case(_FAMILY, f"folder-{number}", _picture(name, ("run",), folder=True))
        yield Case(_FAMILY, f"model-{number}", _model(name))
    for number, name in enumerate((*_NAMES[5:8], "", "a" * 10**5, "a,b", "'\"")):
        for verb in ("run", "inspect", "gradient", "annotate"):
            yield Case(_FAMILY, f"tensor-{number}-{verb}", _tensor(name, verb))


def _picture(name: str, words: tuple[str, ...], *, folder: bool = False):
    def build(place: Path) -> tuple[str, ...]:
        (place / "m.onnx").write_bytes(model().SerializeToString())
        (place / "in").mkdir()
        (place / "in" / name).write_bytes(encoded())
        image = "in" if folder else f"in/{name}"
        out = ("-o", "out/") if words == ("run",) else ()
        return (*words, "m.onnx", image, "--preprocess", "unit", *out, "--threads", "1")

    return build


def _model(name: str):
    def build(place: Path) -> tuple[str, ...]:
        (place / "in").mkdir()
        (place / "in" / name).write_bytes(model().SerializeToString())
        (place / "p.png").write_bytes(encoded())
        return ("run", f"in/{name}", "p.png", "--preprocess", "unit", "-o", "out/", "--with-data")

    return build


def _tensor(name: str, verb: str):
    words = {
        "run": (
            "run",
            "m.onnx",
            "p.png",
            "--preprocess",
            "unit",
            "-o",
            "out/",
            "--with-data",
        ),
        "inspect": ("inspect", "m.onnx", "p.png", "--preprocess", "unit"),
        "gradient": ("gradient", "m.onnx", "-o", "g.onnx"),
        "annotate": ("annotate", "m.onnx", "--preprocess", "unit", "-o", "a.onnx"),
    }[verb]

    def build(place: Path) -> tuple[str, ...]:
        tail = [helper.make_node("Identity", ["l"], [name], name=name)]
        made = model(graph(tail, outputs=[(name, 1, ["n", 5])]), {"names": name, name: name})
        made.producer_name = made.graph.name = made.graph.doc_string = name
        (place / "m.onnx").write_bytes(made.SerializeToString())
        (place / "p.png").write_bytes(encoded())
        return words

    return build
