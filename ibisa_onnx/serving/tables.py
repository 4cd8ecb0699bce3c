"""Explanations as rows of a table, and tables as Parquet files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ibisa_onnx.errors import OptionError, ResultError
from ibisa_onnx.io.formats import encode_npy

if TYPE_CHECKING:
    from ibisa_onnx.explanation import Explanation

MAP_TYPES = ("float32", "float16", "uint8", "none")
"""How maps are stored: as they are, rounded, rounded to 255 levels, or not at all."""
_REPAIR = "remove it, and rerun with --overwrite"
SOURCE, ERROR = "source", "error"
COLUMNS: Mapping[str, str] = {
    "image_sha256": "string",
    "target_kind": "string",
    "target_index": "int64",
    "target_label": "string",
    "target_caption": "string",
    "target_probability": "float64",
    "map": "binary",
    "overlay": "binary",
    "record": "string",
    ERROR: "string",
}
"""Names and Arrow types of the columns of an explanation; all may be null."""


def check_map_type(name: str) -> str:
    """Return the name of a map type; `OptionError` if there is none of that name."""
    if name not in MAP_TYPES:
        raise OptionError(f"map type {name!r} does not exist; choose from: {', '.join(MAP_TYPES)}")
    return name


def row_of(
    explanation: Explanation, map_type: str, *, overlay: bool = False, signed: bool = False
) -> dict[str, Any]:
    """Return an explanation as a row.

    Parameters
    ----------
    explanation
        The explanation.
    map_type
        One of `MAP_TYPES`. The map is stored as a .npy file; uint8 is 255 times its value.
    overlay
        Whether the row holds the overlay, as a PNG file.
    signed
        Whether the map is minus the evidence against the target, and the overlay shows it; int8
        then takes the place of uint8.

    Returns
    -------
    dict
        A value for each of `COLUMNS`.
    """
    target = explanation.target
    index = target.index if isinstance(target.index, int) else None
    return {
        "image_sha256": explanation.provenance.image_sha256,
        "target_kind": target.kind,
        "target_index": index,
        "target_label": target.label,
        "target_caption": target.caption,
        "target_probability": float(target.probability),
        "map": _encoded(explanation, map_type, signed),
        "overlay": explanation.encode(".png", signed=signed) if overlay else None,
        "record": json.dumps(explanation.record(), ensure_ascii=False, allow_nan=False),
        ERROR: None,
    }


def error_row(message: str, sha256: str | None = None) -> dict[str, Any]:
    """Return the row of an image that could not be explained."""
    return {**dict.fromkeys(COLUMNS), "image_sha256": sha256, ERROR: message}


def _encoded(explanation: Explanation, map_type: str, signed: bool) -> bytes | None:
    if map_type == "none":
        return None
    map = explanation.signed if signed else explanation.map
    if map_type == "uint8":
        most, dtype = (127, np.int8) if signed else (255, np.uint8)
        return encode_npy(np.rint(map * most).astype(dtype))
    return encode_npy(map.astype(map_type))


def table_of(rows: Sequence[Mapping[str, Any]], more: Mapping[str, str] | None = None) -> Any:
    """Return rows as a `pyarrow.Table`.

    Parameters
    ----------
    rows
        The rows.
    more
        Further columns, in front, and their Arrow types.
    """
    from ibisa_onnx.imports import import_extra

    arrow = import_extra("pyarrow", "ray")
    types = {**(more or {}), **COLUMNS}
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in types.items()])
    return arrow.Table.from_pylist(
        [{name: _storable(value) for name, value in each.items()} for each in rows], schema=schema
    )


def _storable(value: Any) -> Any:
    """Return text in UTF-8: names of files may be any bytes."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def parquet_of(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows with their source as a Parquet file."""
    from ibisa_onnx.imports import import_extra

    parquet = import_extra("pyarrow.parquet", "ray")
    buffer = io.BytesIO()
    parquet.write_table(table_of(rows, {SOURCE: "string"}), buffer, compression="zstd")
    return buffer.getvalue()


def rows_of(data: bytes, name: str) -> list[dict[str, Any]]:
    """Read the rows of such a file; `ResultError`, which names it, if it is damaged."""
    from ibisa_onnx.imports import import_extra

    arrow = import_extra("pyarrow", "ray")
    parquet = import_extra("pyarrow.parquet", "ray")
    try:
        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise ResultError(f"{name} is damaged: {' '.join(str(error).split())}", _REPAIR) from error
    if rows and not rows[0].keys() >= {SOURCE, *COLUMNS}:
        raise ResultError(f"{name} is not a file of results", _REPAIR)
    return rows
