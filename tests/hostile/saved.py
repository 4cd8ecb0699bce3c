"""Saved results that were tampered with, read by `Explanation.load`."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hostile.base import encoded, flipped, model, picture, truncated
from hostile.case import Case
from hostile.metadata import DEEP, MANY
from hostile.pictures import _bit_bomb, _npy

_FAMILY = "saved"
_ODD: tuple[Any, ...] = (
    *(None, True, -1, 1.5, "0.5", "x", [], {}, [[[]]], float("nan"), float("inf")),
    *(10**400, "\ud800", "\x1b[2J"),
)


def make() -> Iterator[Case]:
    yield Case(_FAMILY, "honest", _build(lambda folder: None), "explained", _load)
    files = _saved()
    for name in files:
        read = "either" if name == "overlay.png" else "refused"  # it is drawn anew
        for way, change in _ways().items():
            yield Case(
                _FAMILY, f"{name}-{way}", _build(functools.partial(change, name)), read, _load
            )
        for way, data in (*truncated(files[name], 4), *flipped(files[name], 4)):
            write = functools.partial(_write, name, data)
            yield Case(_FAMILY, f"{name}-{way}", _build(write), call=_load)
    record = json.loads(files["explanation.json"])
    for path in _paths(record):
        for number, value in enumerate(_ODD):
            if (number + len(path)) % 5 == 0:
                text = json.dumps(_with(record, path, value))
                write = functools.partial(_write, "explanation.json", text.encode())
                yield Case(_FAMILY, f"{'.'.join(path)}-{number}", _build(write), call=_load)
    for name, data in _maps().items():
        write = functools.partial(_write, "map.npy", data)
        read = "either" if name == "beyond" else "refused"  # some methods' maps go beyond 1
        yield Case(_FAMILY, f"map-{name}", _build(write), read, _load)
    for name, text in (("deep", DEEP), ("many", f'{{"format": {MANY}}}'), ("list", "[]")):
        write = functools.partial(_write, "explanation.json", text.encode())
        yield Case(_FAMILY, f"json-{name}", _build(write), "refused", _load)
    yield Case(_FAMILY, "image-bomb", _build(_bomb), "refused", _load)


@functools.cache
def _saved() -> dict[str, bytes]:
    """Return the files of an honest result by their names."""
    import ibisa_onnx as ibisa

    explainer = ibisa.Explainer(
        model().SerializeToString(), preprocessing="unit", threads=1, cache=False
    )
    explanation = explainer.explain(picture())
    with tempfile.TemporaryDirectory() as folder:
        explanation.save(Path(folder) / "saved")
        return {path.name: path.read_bytes() for path in sorted((Path(folder) / "saved").iterdir())}


def _build(change: Callable[[Path], object]):
    def build(folder: Path) -> tuple[str, ...]:
        saved = folder / "saved"
        saved.mkdir()
        for name, data in _saved().items():
            (saved / name).write_bytes(data)
        change(saved)
        return ()

    return build


def _load(folder: Path) -> None:
    import ibisa_onnx as ibisa

    loaded = ibisa.Explanation.load(folder / "saved")
    # What can be loaded can be used.
    json.dumps(loaded.record())
    loaded.overlay()
    _ = loaded.flat, loaded.strength, repr(loaded), loaded.target.reading


def _write(name: str, data: bytes, saved: Path) -> None:
    (saved / name).write_bytes(data)


def _bomb(saved: Path) -> None:
    (saved / "image.png").write_bytes(_bit_bomb(16000)())


def _ways() -> dict[str, Callable[[str, Path], object]]:
    def pipe(name: str, saved: Path) -> None:
        (saved / name).unlink()
        os.mkfifo(saved / name)

    def device(name: str, saved: Path) -> None:
        (saved / name).unlink()
        (saved / name).symlink_to("/dev/zero")

    def folder(name: str, saved: Path) -> None:
        (saved / name).unlink()
        (saved / name).mkdir()

    def absent(name: str, saved: Path) -> None:
        (saved / name).unlink()

    def hole(name: str, saved: Path) -> None:
        with (saved / name).open("ab") as file:
            file.truncate(1 << 40)

    return {"pipe": pipe, "zero": device, "folder": folder, "hole": hole}


def _paths(record: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys that lead to each value of a record."""
    for key, value in record.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from _paths(value, (*path, key))


def _with(record: Any, path: tuple[str, ...], value: Any) -> Any:
    key, *rest = path
    return record | {key: _with(record[key], tuple(rest), value) if rest else value}


def _maps() -> dict[str, bytes]:
    shape = picture().shape[:2]
    size = shape[0] * shape[1]
    return {
        "bool": _npy(shape, "|b1", bytes(size)),
        "complex": _npy(shape, "<c8", bytes(8 * size)),
        "text": _npy(shape, "<U1", bytes(4 * size)),
        "object": _npy(shape, "|O", b"\x80\x04."),
        "nan": _npy(shape, "<f4", np.full(size, np.nan, np.float32).tobytes()),
        "beyond": _npy(shape, "<f4", np.full(size, 1e30, np.float32).tobytes()),
        "other-size": _npy((3, 3), "<f4", bytes(36)),
        "three-axes": _npy((*shape, 1), "<f4", bytes(4 * size)),
        "huge": _npy((10**6, 10**6), "<f4"),
        "picture": encoded(),
    }
