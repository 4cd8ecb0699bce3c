"""What a function returned, read as the outputs that it declares: arrays by name, checked.

Rows may come and go from picture to picture: the shorter ones are filled up with zeros, which are
boxes without a size and with no score.
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
    """Reads what a function returned as float32 arrays, one for each output.

    Parameters
    ----------
    label
        What to call the function in an error.
    outputs
        What it declares, the images first. Of a function that gives a table of rows, [N, n,
        columns], an open second side may differ from picture to picture, and is the same in all
        outputs that call it the same; any other open side may not differ.
    """

    def __init__(self, label: str, outputs: Sequence[TensorInfo]) -> None:
        self._label, self._outputs = label, {each.name: each for each in outputs}
        self._wanted = f"return {', '.join(self._outputs)}"
        self._in_rows = any(_is_table(each) for each in outputs)
        self._sides: dict[str, tuple[int, ...]] = {}  # as they were before

    def read(self, returned: Any, images: int, advice: str = "") -> dict[str, Array]:
        """Return the outputs by name, float32 [images, ...].

        Parameters
        ----------
        returned
            A mapping from names to arrays [N, ...], or to lists of one array for each image; a list
            of such mappings, one for each image; of a single output the array itself. For one
            image the leading axis may be left out.
        images
            N.
        advice
            What to do where the number of images may be what is wrong.

        Raises
        ------
        OutputError
            It is none of these, something is missing, has another shape, or is not finite.
        """
        given = self._by_name(returned, images)
        for name in self._outputs:
            if name not in given:
                there = ", ".join(map(str, given)) or "nothing"
                raise OutputError(
                    f"{self._label} returned no {name!r}, only {there}; {self._wanted}"
                )
        counts: dict[str, tuple[int, ...]] = {}
        found = {
            name: self._one(info, given[name], images, advice, counts)
            for name, info in self._outputs.items()
        }
        self._check_rows(counts)
        return found

    def _check_rows(self, counts: Mapping[str, tuple[int, ...]]) -> None:
        """See that outputs that call their rows' side the same have as many for each image."""
        for side in {self._outputs[name].shape[1] for name in counts}:
            same = [name for name in counts if self._outputs[name].shape[1] == side]
            for each in zip(*(counts[name] for name in same), strict=True):
                if len(set(each)) > 1:
                    said = ", ".join(f"{n} {name}" for n, name in zip(each, same, strict=True))
                    raise OutputError(
                        f"{self._label} returned {said} for one image; return as many of each"
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
        """Read one output; `counts` takes its rows of each image, where these may differ."""
        values, rows = self._as_array(info, given, images)
        said = f"{self._label} returned {info.name} {values.dtype} {list(values.shape)}"
        said += f" for {images} image(s)"
        if values.dtype.kind not in "biuf":
            raise OutputError(f"{said}, no numbers; a class is its index")
        values = self._with_all_axes(values, info, images)
        if len(values) != images or not _fits(values.shape, info.shape):
            raise OutputError(f"{said}, and {_declared(info)} is declared{advice}")
        free = self._in_rows and len(info.shape) > 1 and not isinstance(info.shape[1], int)
        if free:
            counts[info.name] = rows or (values.shape[1],) * images
        elif not values.size:
            raise OutputError(f"{said}, which has no values")
        sides = values.shape[2:] if free else values.shape[1:]
        before = self._sides.get(info.name, sides)
        if values.size and sides != before:
            raise OutputError(f"{said}, but {list(before)} for an image before")
        with np.errstate(over="ignore"):
            found = values.astype(np.float32)  # a copy: the function may use its buffer again
        if not np.isfinite(found).all():
            raise OutputError(
                f"{said} with NaN or infinite values; check the preprocessing and the function"
            )
        if values.size:  # without a row it says nothing of its sides
            self._sides.setdefault(info.name, sides)
        return found

    def _as_array(self, info: TensorInfo, given: Any, images: int) -> tuple[Array, tuple[int, ...]]:
        """Return one array, and the rows of each image where it was put together from several."""
        try:
            if not isinstance(given, list | tuple) or len(given) != images:
                return np.asarray(given), ()
            parts = [np.asarray(each) for each in given]
        except Exception as error:
            raise OutputError(
                f"{self._label} returned {info.name}, {_kind(given)} that NumPy cannot read "
                f"({essence(error)})"
            ) from error
        if len({each.shape for each in parts}) == 1:
            return np.stack(parts), ()
        if not all(each.ndim for each in parts):
            return np.array("mixed"), ()  # which is told of as no numbers
        rest = next(each.shape[1:] for each in parts if each.size or each.ndim > 1)
        parts = [each if each.size else np.zeros((0, *rest), each.dtype) for each in parts]
        if any(each.shape[1:] != rest for each in parts):
            shapes = ", ".join(str(list(each.shape)) for each in parts)
            raise OutputError(
                f"{self._label} returned {info.name} {shapes} for {images} image(s), and "
                f"{_declared(info)} is declared"
            )
        return joined([each[None] for each in parts]), tuple(map(len, parts))

    def _with_all_axes(self, values: Array, info: TensorInfo, images: int) -> Array:
        """Add the axes that may be left out: the images' where there is one, and a last one of 1.

        Without a row all behind the rows may be: then open sides are as they were before.
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
    """Tell whether an output holds rows of so many columns, any number of them."""
    sides = output.shape
    return len(sides) == 3 and not isinstance(sides[1], int) and isinstance(sides[2], int)


def _declared(info: TensorInfo) -> str:
    sides = ", ".join("?" if not isinstance(side, int) else str(side) for side in info.shape[1:])
    return f"{info.name} [N, {sides}]"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
