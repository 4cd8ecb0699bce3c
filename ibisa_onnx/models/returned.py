"""Validates what a function returned against its declared outputs: arrays by name.

The number of rows may vary between images: shorter outputs are padded with zeros, that is with
boxes of no size and score 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.models.base import joined
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.signature import TensorInfo

Array = npt.NDArray[Any]


class DeclaredOutputs:
    """Converts what a function returned to float32 arrays, one per declared output.

    Parameters
    ----------
    label
        Name of the function in error messages.
    outputs
        The declared outputs, batch axis first. If one is a table of rows, [N, n, columns], a
        dynamic second axis may vary between images, and outputs that use the same name for it must
        agree; all other dynamic axes must stay constant.
    """

    def __init__(self, label: str, outputs: Sequence[TensorInfo]) -> None:
        self._label, self._outputs = label, {each.name: each for each in outputs}
        self._wanted = f"return {', '.join(self._outputs)}"
        self._in_rows = any(_is_table(each) for each in outputs)
        self._sides: dict[str, tuple[int, ...]] = {}  # from earlier calls

    def read(
        self,
        returned: Any,
        images: int,
        advice: str = "",
        names: Sequence[str] | None = None,
    ) -> dict[str, Array]:
        """Return the outputs by name, float32 [images, ...].

        Parameters
        ----------
        returned
            A mapping from names to arrays [N, ...], or to lists of one array per image; a list of
            such mappings, one per image; or the array itself if there is a single output. The
            leading axis may be omitted for one image.
        images
            N.
        advice
            What to do if the number of images may be the problem.
        names
            Names of the outputs to read; None: all.

        Returns
        -------
        dict of str to ndarray
            The outputs.

        Raises
        ------
        OutputError
            It is none of these; an output is missing, has another shape, or is not finite.
        """
        given = self._by_name(returned, images)
        wanted = list(self._outputs) if names is None else names
        for name in wanted:
            if name not in given:
                there = ", ".join(map(str, given)) or "nothing"
                raise OutputError(
                    f"{self._label} returned no {name!r}, only {there}; {self._wanted}"
                )
        counts: dict[str, tuple[int, ...]] = {}
        found = {
            name: self._one(self._outputs[name], given[name], images, advice, counts)
            for name in wanted
        }
        self._check_rows(counts)
        return found

    def _check_rows(self, counts: Mapping[str, tuple[int, ...]]) -> None:
        """Check that outputs that share a row axis have the same number of rows per image."""
        for side in {self._outputs[name].shape[1] for name in counts}:
            same = [name for name in counts if self._outputs[name].shape[1] == side]
            for each in zip(*(counts[name] for name in same), strict=True):
                if len(set(each)) > 1:
                    said = ", ".join(f"{n} {name}" for n, name in zip(each, same, strict=True))
                    raise OutputError(
                        f"{self._label} returned {said} for one image; these numbers must be equal"
                    )

    def _by_name(self, returned: Any, images: int) -> Mapping[str, Any]:
        if isinstance(returned, Mapping):
            return returned
        rows = returned if isinstance(returned, list | tuple) else ()
        if rows and all(isinstance(each, Mapping) for each in rows):
            return {
                name: [each[name] for each in rows]
                for name in self._outputs
                if all(name in each for each in rows)
            }
        if len(self._outputs) == 1:
            return dict.fromkeys(self._outputs, returned)
        raise OutputError(
            f"{self._label} returned {_kind(returned)} for {images} image(s); {self._wanted}, "
            "as a mapping of names to arrays"
        )

    def _one(
        self, info: TensorInfo, given: Any, images: int, advice: str, counts: dict[str, Any]
    ) -> Array:
        """Read one output; its row counts are stored in `counts` if they may vary."""
        values, rows = self._as_array(info, given, images)
        said = f"{self._label} returned {info.name} {values.dtype} {list(values.shape)}"
        said += f" for {images} image(s)"
        if values.dtype.kind not in "biuf":
            raise OutputError(f"{said}, which is not numeric; return a class as its index")
        values = self._with_all_axes(values, info, images)
        if len(values) != images or not _fits(values.shape, info.shape):
            raise OutputError(f"{said}, but declares {_declared(info)}{advice}")
        free = self._in_rows and len(info.shape) > 1 and not isinstance(info.shape[1], int)
        if free:
            counts[info.name] = rows or (values.shape[1],) * images
        elif not values.size:
            raise OutputError(f"{said}, which is empty")
        sides = values.shape[2:] if free else values.shape[1:]
        before = self._sides.get(info.name, sides)
        if values.size and sides != before:
            raise OutputError(f"{said}, but {list(before)} for an earlier image")
        with np.errstate(over="ignore"):
            found = values.astype(np.float32)  # a copy: the function may reuse its buffer
        if not np.isfinite(found).all():
            raise OutputError(
                f"{said} with NaN or infinite values; check the preprocessing and the function"
            )
        if values.size:  # without rows, the other axes are unknown
            self._sides.setdefault(info.name, sides)
        return found

    def _as_array(self, info: TensorInfo, given: Any, images: int) -> tuple[Array, tuple[int, ...]]:
        """Return one array, and the rows per image if it was joined from several."""
        try:
            if not isinstance(given, list | tuple) or len(given) != images:
                return np.asarray(given), ()
            parts = [np.asarray(each) for each in given]
        except Exception as error:
            raise OutputError(
                f"{self._label} returned {info.name}, {_kind(given)} that NumPy cannot convert "
                f"({essence(error)})"
            ) from error
        if len({each.shape for each in parts}) == 1:
            return np.stack(parts), ()
        if not all(each.ndim for each in parts):
            return np.array("mixed"), ()  # reported as not numeric
        rest = next(each.shape[1:] for each in parts if each.size or each.ndim > 1)
        parts = [each if each.size else np.zeros((0, *rest), each.dtype) for each in parts]
        if any(each.shape[1:] != rest for each in parts):
            shapes = ", ".join(str(list(each.shape)) for each in parts)
            raise OutputError(
                f"{self._label} returned {info.name} {shapes} for {images} image(s), but declares "
                f"{_declared(info)}"
            )
        return joined([each[None] for each in parts]), tuple(map(len, parts))

    def _with_all_axes(self, values: Array, info: TensorInfo, images: int) -> Array:
        """Add the axes that may be omitted: the batch axis for one image, and a last axis of 1.

        An empty array may omit all axes after the rows; dynamic ones are taken from earlier calls.
        """
        shape = info.shape
        if values.size == 0 and images in (1, len(values)) and not isinstance(shape[1], int):
            count = len(shape) - 2
            given = values.shape if values.ndim > count else (0,) * count
            known = self._sides.get(info.name, given)
            rest = [
                side if isinstance(side, int) else there
                for side, there in zip(shape[2:], known[len(known) - count :], strict=True)
            ]
            return np.zeros((images, 0, *rest), np.float32)
        if tuple(shape[1:]) == (1,) and values.size == images and values.ndim < 2:
            return values.reshape(images, 1)
        return values[None] if images == 1 and values.ndim == len(shape) - 1 else values


def _fits(given: Sequence[int], shape: Sequence[int | str | None]) -> bool:
    pairs = zip(given[1:], shape[1:], strict=False)
    return len(given) == len(shape) and all(
        wanted == side for side, wanted in pairs if isinstance(wanted, int)
    )


def _is_table(output: TensorInfo) -> bool:
    """Return whether an output has a dynamic number of rows of fixed width."""
    sides = output.shape
    return len(sides) == 3 and not isinstance(sides[1], int) and isinstance(sides[2], int)


def _declared(info: TensorInfo) -> str:
    sides = ", ".join("?" if not isinstance(side, int) else str(side) for side in info.shape[1:])
    return f"{info.name} [N, {sides}]"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
