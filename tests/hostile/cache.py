"""Entries of the gradient cache that somebody else wrote."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile.base import RUN, write
from hostile.case import Case

_FAMILY = "cache"


def make() -> Iterator[Case]:
    for name, spoil in _ways().items():
        yield Case(_FAMILY, name, functools.partial(_build, spoil), "explained")
    yield Case(_FAMILY, "folder-of-others", functools.partial(_build, _open_to_all), "explained")


def _build(spoil: Callable[[Path], object], folder: Path) -> tuple[str, ...]:
    """Explain once, so that there is an entry; then spoil it."""
    import ibisa_onnx as ibisa

    write(folder)
    cache = folder.parent / "cache"
    explainer = ibisa.Explainer(folder / "m.onnx", preprocessing="unit", threads=1, cache=cache)
    explainer.explain(folder / "p.png")
    entries = list(cache.glob("*.gradient"))
    assert entries
    for entry in entries:
        spoil(entry)
    return RUN


def _signed(payload: bytes) -> bytes:
    return hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def _payload(entry: Path) -> bytes:
    return entry.read_bytes().partition(b"\n")[2]


def _ways() -> dict[str, Callable[[Path], object]]:
    def replaced(data: bytes) -> Callable[[Path], object]:
        return lambda entry: entry.write_bytes(data)

    def pipe(entry: Path) -> None:
        entry.unlink()
        os.mkfifo(entry)

    def link(target: str) -> Callable[[Path], object]:
        def change(entry: Path) -> None:
            entry.unlink()
            entry.symlink_to(target)

        return change

    def changed(old: bytes, new: bytes) -> Callable[[Path], object]:
        return lambda entry: entry.write_bytes(_signed(_payload(entry).replace(old, new)))

    def cut(entry: Path) -> None:
        payload = _payload(entry)
        entry.write_bytes(_signed(payload[: len(payload) // 2]))

    def hole(entry: Path) -> None:
        with entry.open("ab") as file:
            file.truncate(1 << 40)

    def folder(entry: Path) -> None:
        entry.unlink()
        entry.mkdir()

    return {
        "untouched": lambda entry: None,
        "empty": replaced(b""),
        "garbage": replaced(bytes(range(256)) * 20),
        "signed-garbage": replaced(_signed(b"garbage")),
        "signed-json": replaced(_signed(b'{"names": {}, "forward": 0}\n')),
        "signed-list": replaced(_signed(b"[1]\n")),
        "signed-deep": replaced(_signed(b"[" * 100000 + b"\n")),
        "signed-number": replaced(_signed(b'{"names": 5, "forward": "x"}\n')),
        "pipe": pipe,
        "zero": link("/dev/zero"),
        "passwd": link("/etc/passwd"),
        "cut": cut,
        "relu": changed(b"Relu", b"Sqrt"),
        "domain": changed(b"Conv", b"Vnoc"),
        "names": changed(b'"gradient"', b'"tneidarg"'),
        "hole": hole,
        "folder": folder,
    }


def _open_to_all(entry: Path) -> None:
    entry.parent.chmod(0o777)
