"""The result of an explanation: a map, and everything needed to judge and reproduce it.

Holds the data, its storage and its display; images are drawn in `io.overlay`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_flag, check_type, shown
from ibisa_onnx.errors import OptionError, ResultError
from ibisa_onnx.escaping import escaped, shortened
from ibisa_onnx.imports import import_extra
from ibisa_onnx.io.arrays import read_npy
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import read_file
from ibisa_onnx.io.formats import (
    ImageFormat,
    ResultSuffix,
    decode_png,
    encode_image,
    encode_json,
    encode_npy,
    encode_png,
    jsonable,
)
from ibisa_onnx.io.literals import is_integer, is_number, parse_json
from ibisa_onnx.io.overlay import ascii_fold, beside, blend, scale_of
from ibisa_onnx.io.overlay import heat_map as drawn_map
from ibisa_onnx.io.record import Amount, Count, read_fields, schema_of
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.statements import (
    HALF,
    Certificate,
    Completion,
    ExplainedTarget,
    Passes,
    Prediction,
    Provenance,
    Sufficiency,
    is_flat,
)

_FORMAT = 7
_READ = (5, 6, _FORMAT)  # 5 has no map of negative evidence, 6 no `top`

_LONGEST = 200  # characters of a caption
_LONGEST_SIDE = 16383  # pixels, of a WebP file
_FARTHEST = 100  # image sides: limits the coordinates that are drawn
_MAPS = ("map", "against", "effect", "uncertainty")


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """An attribution map with its target, checks, cost and provenance.

    Attributes
    ----------
    map : ndarray
        float32 [H, W] in 0..1, the size of the image (of a very large image, the reduced size; see
        `provenance.reduction`): how much the prediction depends on each pixel. Near 0 for pixels it
        does not depend on, and 0 for pixels that were cropped away. For IBISA this is the
        keep probability lambda, combined with the evidence of the gradient steps; other methods
        return their own saliency.
    against : ndarray or None
        float32 [H, W] in 0..1, on the map's scale: evidence against the target, that is how much
        showing a pixel lowers its probability. None for methods without negative evidence.
    image : ndarray
        uint8 [H, W, 3] RGB, the explained image as it is drawn, the size of the map.
    target : ExplainedTarget
        What was explained.
    sufficiency : Sufficiency or None
        The prediction from the highest-ranked pixels alone. None for intermediate maps and for
        methods that do not check it.
    completion : Completion
        How much of the planned work was done, and what cut it short.
    passes : Passes
        Forward and backward passes of this explanation.
    timings : dict of str to float
        Seconds by stage, for all explanations computed together.
    certificate : Certificate
        How the gradient was obtained, and whether its path reproduces the deployed model.
    provenance : Provenance
        Hashes, settings, versions and seed.
    warnings : tuple of str
        What to know about the model, its preprocessing, and this map.
    effect : ndarray or None
        float32 [H, W]: what showing each pixel adds to the probability; the sum over a region is
        the effect of showing the region. None unless the gradient is "forward-only".
    uncertainty : ndarray or None
        float32 [H, W]: standard deviation of `effect`; in 9 of 10 cases the error is below 1.64
        standard deviations. Errors of neighbouring pixels are correlated, so the deviations of a
        region do not add up. None unless the gradient is "forward-only".
    method : str
        Name of the method: "ibisa", "rise", "gradcam" ...
    together : int
        Number of explanations that were computed together.
    baseline : str or None
        What replaced masked pixels: "blur" or another of `methods.baselines.BASELINES`, a colour,
        or the name of an image file; several, separated by commas, if steps alternated between
        them. None for methods that do not report it.
    top : tuple of Prediction
        The five most probable classes of the forward pass that was explained, most probable first;
        empty if the target does not read class scores.

    Examples
    --------
    ```python
    explanation = ibisa_onnx.Explainer("model.onnx").explain("dog.jpg")
    explanation.target.name, explanation.target.probability
    explanation.map  # float32 [H, W] in 0..1
    explanation.save("dog/")
    again = ibisa_onnx.Explanation.load("dog/")
    ```
    """

    map: npt.NDArray[np.float32]
    image: npt.NDArray[np.uint8]
    target: ExplainedTarget
    sufficiency: Sufficiency | None
    completion: Completion
    passes: Passes
    timings: dict[str, Amount]
    certificate: Certificate
    provenance: Provenance
    warnings: tuple[str, ...] = field(default=())
    effect: npt.NDArray[np.float32] | None = None
    uncertainty: npt.NDArray[np.float32] | None = None
    against: npt.NDArray[np.float32] | None = None
    method: str = "ibisa"
    together: Count = 1
    baseline: str | None = None
    top: tuple[Prediction, ...] = ()

    def __repr__(self) -> str:
        target, passes = self.target, self.passes
        caption = shortened(escaped(target.caption), _LONGEST)
        return (
            f"<Explanation of {caption} {target.probability:.1%}, "
            f"map {list(self.map.shape)}, "
            f"{self.certificate.gradient}, {passes.forward} forward + {passes.backward} backward>"
        )

    @property
    def flat(self) -> bool:
        """Whether the map singles out no region.

        Then the prediction depends on no part of the image in particular, or on all of it.
        """
        return is_flat(self.map, self.sufficiency, self.target.probability)

    @property
    def strength(self) -> float:
        """How much of the prediction the map accounts for, in 0..1; sets the overlay's brightness.

        The probability that the highest-ranked half of the image adds to the baseline, as a
        fraction of the target's probability; 1 if sufficiency was not checked.
        """
        if self.sufficiency is None:
            return 1.0
        return self.sufficiency.share_added(self.target.probability)

    @property
    def signed(self) -> npt.NDArray[np.float32]:
        """`map` minus `against`, float32 [H, W] in -1..1.

        Raises
        ------
        ResultError
            The map has no negative evidence.
        """
        return np.asarray(self.map - self._known_against(), np.float32)

    def _repr_png_(self) -> bytes:
        """Return the overlay for display in a notebook."""
        return encode_png(self.overlay())

    def overlay(self, *, uncertainty: bool = False, signed: bool = False) -> npt.NDArray[np.uint8]:
        """Draw the image, the image under its map, and a caption.

        Parameters
        ----------
        uncertainty
            Add a panel with the map's uncertainty; full colour means as large as the largest
            effect.
        signed
            Also draw evidence against the target, in blue.

        Returns
        -------
        ndarray
            uint8 [H', W', 3], RGB; see `io.overlay.beside` for layout and size.

        Raises
        ------
        ResultError
            The map has no uncertainty, or no negative evidence, to draw.
        """
        for option, wanted in (("uncertainty", uncertainty), ("signed", signed)):
            check_flag(option, wanted, ResultError)
        target, passes = self.target, self.passes
        name = ascii_fold(target.name) or _unnamed(target)
        cut = "cut short, " if self.completion.cut_short else ""
        blue = "blue: against, " if signed else ""
        last = "last panel: uncertainty, " if uncertainty else ""
        return beside(
            self.image,
            self.map,
            *([self._relative_uncertainty()] if uncertainty else []),
            against=self._known_against() if signed else None,
            strength=None if self.flat else self.strength,
            boxes=[self._drawn(target.box)] if target.box is not None else [],
            points=[self._drawn(target.at)] if target.box is None and target.at is not None else [],
            left=f"{name}  {target.reading}",
            right=f"{blue}{last}{cut}{passes.forward} forward + {passes.backward} backward",
        )

    def plot(self, axes: Any = None, *, signed: bool = False) -> Any:
        """Draw the image under its map with matplotlib.

        Parameters
        ----------
        axes
            A `matplotlib.axes.Axes`; None: a new figure.
        signed
            Also draw evidence against the target, in blue.

        Returns
        -------
        matplotlib.axes.Axes
            The axes drawn on.

        Raises
        ------
        ResultError
            The map has no negative evidence to draw.
        MissingDependencyError
            matplotlib is not installed.
        """
        check_flag("signed", signed, ResultError)
        if axes is not None and not hasattr(axes, "imshow"):
            raise ResultError(f"axes is {shown(axes)}; pass a matplotlib.axes.Axes")
        against = self._known_against() if signed else None
        if axes is None:
            axes = import_extra("matplotlib.pyplot", "bench").subplots()[1]
        axes.imshow(blend(self.image, self.map, None if self.flat else self.strength, against))
        axes.set_title(f"{self.target.name}  {self.target.reading}")
        axes.set_axis_off()
        return axes

    def _drawn(self, place: Sequence[float]) -> list[float]:
        """Convert coordinates in pixels of the original image to pixels of the map."""
        return [each / self.provenance.reduction for each in place]

    def _known_against(self) -> npt.NDArray[np.float32]:
        if self.against is None:
            raise ResultError(
                f"{self.method} maps have no negative evidence; leave out signed=True"
            )
        return self.against

    def _relative_uncertainty(self) -> npt.NDArray[np.float32]:
        """Return the uncertainty relative to the largest effect, at most 1, [H, W]."""
        if self.uncertainty is None or self.effect is None:
            raise ResultError(
                f"maps by the {self.certificate.gradient} gradient have no uncertainty; "
                "use gradient=forward-only"
            )
        pixels = np.float32(self.effect.size)  # one pixel of a large image has almost no effect
        scale = np.float32(scale_of(pixels * self.effect))
        return np.asarray(np.clip(pixels * self.uncertainty / scale, 0, 1))

    @property
    def maps(self) -> dict[str, npt.NDArray[np.float32]]:
        """The arrays that are present, of map, against, effect and uncertainty, by name.

        Each is float32 [H, W].
        """
        found = {name: getattr(self, name) for name in _MAPS}
        return {name: each for name, each in found.items() if each is not None}

    def record(self) -> dict[str, Any]:
        """Return everything but the arrays as JSON data; NaN and infinity become None.

        Returns
        -------
        dict
            The contents of `explanation.json`.
        """
        plain = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("image", *_MAPS)
        }
        return {"format": _FORMAT, "maps": list(self.maps), **jsonable(plain)}

    @staticmethod
    def schema() -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of `record`, which explanation.json follows.

        What the command line writes has further fields, which the schema allows.
        """
        record = schema_of(Explanation, frozenset(("image", *_MAPS)))
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Explanation",
            **record,
            "properties": {
                "format": {"const": _FORMAT},
                "maps": {
                    "type": "array",
                    "items": {"enum": list(_MAPS)},
                    "contains": {"const": "map"},
                },
                **record["properties"],
            },
            "required": ["format", "maps", *record["required"]],
            "additionalProperties": True,
        }

    def encode(
        self, suffix: ResultSuffix, *, uncertainty: bool = False, signed: bool = False
    ) -> bytes:
        """Return the contents of a result file.

        Parameters
        ----------
        suffix
            ".png": the overlay; ".npy": the map, float32 [H, W]; ".json": the record.
        uncertainty
            Include the uncertainty panel in the overlay.
        signed
            Include evidence against the target in the overlay; the .npy map is `signed`, in -1..1.

        Returns
        -------
        bytes
            The file's contents.

        Raises
        ------
        ResultError
            The suffix is none of these, or the map has no uncertainty or no negative evidence.
        """
        check_type("suffix", suffix, str, ".png, .npy or .json", ResultError)
        if suffix == ".png":
            return encode_png(self.overlay(uncertainty=uncertainty, signed=signed))
        if suffix == ".npy":
            return encode_npy(self.signed if signed else self.map)
        if suffix == ".json":
            return encode_json(self.record())
        raise ResultError(f"unsupported result format {suffix!r}; use .png, .npy or .json")

    def heat_map(
        self, format: ImageFormat = "png", *, size: tuple[int, int] | None = None
    ) -> bytes:
        """Return the map alone as an image file, coloured from dark indigo to light yellow.

        Parameters
        ----------
        format
            "png", "jpeg" or "webp".
        size
            Width and height in pixels, each 1 to 16383; None: the image's.

        Returns
        -------
        bytes
            The file's contents.

        Raises
        ------
        OptionError
            The format or the size is invalid.
        ResultError
            The image is too large for the format.
        """
        return encode_image(
            drawn_map(self.map, None if size is None else _drawn_size(size)), format
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write overlay.png, map.npy, image.png and explanation.json, which `load` reads back.

        If present, against.npy, effect.npy and uncertainty.npy are written too. Either all files
        are complete or, if one cannot be written, none is changed.

        Parameters
        ----------
        folder
            Destination; created if it does not exist.

        Raises
        ------
        ResultError
            The folder cannot be created or written to.
        """
        folder = _folder(folder)
        contents = {
            "overlay.png": self.encode(".png"),
            "image.png": encode_png(self.image),
            "explanation.json": self.encode(".json"),
        }
        contents |= {f"{name}.npy": encode_npy(each) for name, each in self.maps.items()}
        write_files({folder / name: data for name, data in contents.items()})

    @staticmethod
    def load(folder: str | os.PathLike[str], limits: Limits | None = None) -> Explanation:
        """Read back an explanation that `save` wrote.

        Parameters
        ----------
        folder
            The saved explanation. Files outside the folder are never read, and all contents are
            validated, so that it may come from anyone.
        limits
            Limits on file sizes and image size; None: from the environment.

        Returns
        -------
        Explanation
            The same maps, image and record.

        Raises
        ------
        ResultError
            A file is missing, damaged or too large, or has an unsupported format version.
        """
        folder, limits = _folder(folder), Limits.of(limits)
        try:
            record = parse_json(_read(folder, "explanation.json", limits).decode())
            if not isinstance(record, dict):
                raise ValueError("explanation.json is not an object")
            version = record.pop("format", None)
            if version not in _READ:
                raise ResultError(
                    f"{folder}: unsupported format {version!r}; this version reads "
                    f"{_READ[0]} to {_FORMAT}"
                )
            names = _map_names(record.pop("maps", None))
            values = read_fields(Explanation, record, "record", frozenset(("image", *_MAPS)))
            maps: dict[str, Any] = {name: _load_map(folder, name, limits) for name in names}
            size = maps["map"].shape
            image = decode_png(_read(folder, "image.png", limits), size, limits)
            _check_drawn(values["target"], values["sufficiency"], size)
            return Explanation(**maps, image=image, **values)
        except ValueError as error:  # includes UnicodeDecodeError
            raise ResultError(
                f"{folder}: the saved explanation is damaged ({error}); explain the image again"
            ) from error


def _folder(folder: str | os.PathLike[str]) -> Path:
    """Return a folder's path; raise ResultError if it cannot be one."""
    try:
        path = Path(folder)
        os.fsencode(path)
    except (TypeError, ValueError) as error:
        raise ResultError(f"{folder!r} is not a valid folder name: {error}") from error
    if "\0" in str(path):
        raise ResultError(f"{folder!r} is not a valid folder name: it contains a null byte")
    return path


def _drawn_size(size: Any) -> tuple[int, int]:
    """Return a width and height as integers; `OptionError` if they are none."""
    sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else []
    if len(sides) != 2 or not all(is_integer(each) and 0 < each <= _LONGEST_SIDE for each in sides):
        raise OptionError(
            f"size is {shown(size)}; pass width and height, each 1 to {_LONGEST_SIDE}"
        )
    return int(sides[0]), int(sides[1])


def _unnamed(target: ExplainedTarget) -> str:
    """Return a display name for a target whose own name cannot be drawn."""
    return target.kind if target.index is None else f"{target.kind} {target.index}"


def _read(folder: Path, name: str, limits: Limits) -> bytes:
    """Read a file of a saved explanation."""
    if not os.path.exists(folder / name):  # noqa: PTH110 - which never raises
        raise ResultError(
            f"{folder}: cannot read {name}: No such file or directory; "
            "pass a folder that Explanation.save wrote"
        )
    limit = "text_bytes" if name.endswith(".json") else "file_bytes"
    return read_file(folder / name, "saved result", ResultError, limits, limit)


def _map_names(said: Any) -> list[str]:
    """Return the names of the saved maps; raise ValueError if invalid, or if "map" is missing."""
    names = said if isinstance(said, list) and all(each in _MAPS for each in said) else []
    if "map" not in names or len(set(names)) < len(names):
        raise ValueError(f"maps is {said!r:.60}, expected some of {', '.join(_MAPS)}")
    return names


def _load_map(folder: Path, name: str, limits: Limits) -> npt.NDArray[np.float32]:
    """Read a map; raise ValueError if the file is not one."""
    file = f"{name}.npy"
    data = _read(folder, file, limits)
    try:
        map = read_npy(data, file, ResultError, limits)
    except ResultError as error:
        raise ValueError(str(error)) from error
    if map.dtype != np.float32 or map.ndim != 2 or not map.size:
        raise ValueError(f"{file} is {map.dtype} {list(map.shape)}, expected float32 [H, W]")
    if not np.isfinite(map).all():
        raise ValueError(f"{file} contains NaN or infinity")
    if map.size > limits.pixels:
        raise ValueError(
            f"{file} has {map.size:,} pixels, more than {limits.pixels:,}; set "
            f"{variable('pixels')} to allow more"
        )
    return map


def _check_drawn(
    target: ExplainedTarget, sufficiency: Sufficiency | None, size: tuple[int, ...]
) -> None:
    """Raise ValueError if a target's coordinates, or the tested areas, are impossible."""
    box, at, value = (target.details.get(name) for name in ("box", "at", "value"))
    places = [*(box or ()), *(at or ())] if all(_is_list(each) for each in (box, at)) else [None]
    if not all(is_number(each) and abs(each) <= _FARTHEST * max(size) for each in places):
        raise ValueError(f"target.details has box {box!r:.60} and at {at!r:.60}, outside any image")
    if value is not None and not is_number(value):
        raise ValueError(f"target.details.value is {value!r:.60}, expected a number")
    if sufficiency is None:
        return
    areas, probabilities = sufficiency.areas, sufficiency.probabilities
    if len(areas) != len(probabilities) or min(areas, default=1) > HALF:
        raise ValueError(
            f"sufficiency has {len(areas)} areas and {len(probabilities)} probabilities"
        )


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, list)
