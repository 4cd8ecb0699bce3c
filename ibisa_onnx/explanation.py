"""The result: a map, and everything needed to trust and to reproduce it.

Only data, its storage and how it shows itself; pictures are drawn in `io.overlay`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ResultError
from ibisa_onnx.escaping import escaped, shortened
from ibisa_onnx.imports import import_extra
from ibisa_onnx.io.arrays import read_npy
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import read_file
from ibisa_onnx.io.formats import decode_png, encode_json, encode_npy, encode_png, jsonable
from ibisa_onnx.io.literals import is_number, parse_json
from ibisa_onnx.io.overlay import ascii_fold, beside, blend, scale_of
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.record import Amount, Between, Count, Share, read_fields
from ibisa_onnx.targets.base import is_point
from ibisa_onnx.targets.retention import KEPT

_FORMAT = 6
_READ = (5, _FORMAT)  # 5 has no map of what speaks against
_FLAT = 0.01  # a map that varies by less lets next to nothing through
_HALF = 0.5  # of the picture
_RESTORED = 0.5  # of what the baseline loses: a map whose best half gives that back points at it

_LONGEST = 200  # characters of a caption
_FARTHEST = 100  # sides of the picture: what is drawn lies no farther out
_MAPS = ("map", "against", "effect", "uncertainty")


@dataclass(frozen=True)
class Passes:
    """What an explanation cost: images pushed forward and backward, and the calls that took."""

    forward: Count
    backward: Count
    forward_calls: Count
    backward_calls: Count


@dataclass(frozen=True)
class ExplainedTarget:
    """What was explained.

    Attributes
    ----------
    kind
        "class", or what else the objective says of itself.
    caption
        What to call it: "bloodhound (164)".
    output
        Names of the outputs that it reads, with commas between them.
    probability
        The model's own answer for the untouched picture, in 0..1.
    index, label, activation
        Of a class: its index, what it is called, and how the raw output was read, one of
        `targets.class_scores.Activation`; of a value: which numbers of the output. None of others.
    details
        What else the objective says of itself.
    """

    kind: str
    caption: str
    output: str
    probability: Amount
    index: int | str | None = None
    label: str | None = None
    activation: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The label alone, or the caption where there is none."""
        return self.label or self.caption

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Where it is: left, top, right, bottom in the picture's pixels; None: in no one place."""
        sides = self.details.get("box")
        if sides is None or len(sides) != 4:
            return None
        left, top, right, bottom = (float(side) for side in sides)
        return left, top, right, bottom

    @property
    def at(self) -> tuple[float, float] | None:
        """The point that it is about, x and y in the picture's pixels; None: there is none."""
        at = self.details.get("at")
        if not is_point(at):
            return None
        x, y = (float(each) for each in at or ())
        return x, y

    @property
    def value(self) -> float | None:
        """The value of what is no probability; None of all else.

        Of a value, `probability` is how much of it is kept where the picture is hidden.
        """
        value = self.details.get("value")
        return None if value is None else float(value)

    @property
    def reading(self) -> str:
        """The probability in percent, or the value of what is none."""
        return f"{100 * self.probability:.1f}%" if self.value is None else f"{self.value:.4g}"


@dataclass(frozen=True)
class Sufficiency:
    """What the deployed model says when it sees the most needed pixels alone, over the baseline.

    `areas` are fractions of the picture, from 0 (the baseline alone) up; `probabilities` the
    target's at each.
    """

    areas: tuple[Share, ...]
    probabilities: tuple[Amount, ...]

    def share_added(self, probability: float) -> float:
        """Return what half of the picture or less adds to the baseline, as a share, 0 to 1.

        `probability` is the picture's own, of which it is a share.
        """
        return float(np.clip(self._added / probability, 0, 1)) if probability > 0 else 0.0

    def share_restored(self, probability: float) -> float:
        """Return what half of the picture or less gives back of what the baseline loses, 0 to 1.

        0 where the baseline keeps the answer, whose `probability` that of the picture is.
        """
        if self.probabilities[0] >= KEPT * probability:
            return 0.0
        return float(np.clip(self._added / (probability - self.probabilities[0]), 0, 1))

    @property
    def _added(self) -> float:
        shown = [p for area, p in zip(self.areas, self.probabilities, strict=True) if area <= _HALF]
        return max(shown) - self.probabilities[0]

    def area_for(self, probability: float) -> float | None:
        """Return the smallest of the areas that gives at least this probability, if one does."""
        pairs = zip(self.areas, self.probabilities, strict=True)
        return next((area for area, given in pairs if given >= probability), None)


@dataclass(frozen=True)
class Completion:
    """How much of the planned work went into a map.

    `unit` says what was counted: "steps" with a gradient, "queries" without. `cut_short` says what
    ended it early, "deadline" or "stop" (someone's wish); None where it was not, or not yet.
    """

    done: Count
    planned: Count
    unit: str
    cut_short: str | None = None

    @property
    def ended(self) -> bool:
        """Whether no more work follows."""
        return self.cut_short is not None or self.done == self.planned


def is_flat(
    map: npt.NDArray[np.float32], sufficiency: Sufficiency | None, probability: float
) -> bool:
    """Tell whether a map points at nothing.

    It varies by less than a hundredth, and no half of the picture that was shown in its order gives
    back half of what the baseline loses. Where very little of the picture is enough, if only it
    is seen faintly, a map is low but in order.
    """
    height = float(np.ptp(map))
    restored = sufficiency.share_restored(probability) if sufficiency and height > 0 else 0.0
    return height < _FLAT and restored < _RESTORED


@dataclass(frozen=True)
class Certificate:
    """How the map was obtained and how far that path is from the deployed model.

    `gradient` is one of `gradients.selection.GRADIENTS`, never "auto", or "none" for methods that
    need none; `reason` says why that one; `difference` is the largest absolute difference between
    the differentiable path's probabilities and ONNX Runtime's on this image, to be held against
    `tolerance`. `gradient_error` is the relative error of the directional derivative that the
    gradient gives, 0 to 2, beside what the deployed model answers a step further, to be held
    against `gradient_tolerance`; None where nothing tells: of other methods than IBISA, or where
    the answer hardly changes. Without a gradient there is no other path than the model itself:
    both are None, and it holds.
    """

    gradient: str
    reason: str
    difference: Amount | None
    tolerance: Amount
    holds: bool
    gradient_error: Amount | None = None
    gradient_tolerance: Amount = 0.0


@dataclass(frozen=True)
class Provenance:
    """What makes the explanation reproducible: hashes, settings, versions and the seed.

    `reduction` is by what both sides of a very large picture were divided as it was read: 1, 2, 4
    or 8. `baseline_sha256` is that of the file where the baseline is a picture's, else None.
    """

    model: str | None
    model_sha256: str | None
    image: str | None
    image_sha256: str | None
    preprocessing: dict[str, Any]
    providers: tuple[str, ...]
    versions: dict[str, str]
    seed: int
    options: dict[str, Any]
    baseline_sha256: str | None = None
    reduction: Annotated[int, Between(1, 64)] = 1


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """An attribution map and how it came about.

    Attributes
    ----------
    map
        float32 [H, W], at the size of the picture given, or of a very large one as it was read
        (`provenance.reduction`), in 0..1: how much the model needed each pixel, near 0 where it
        never did (and 0 where it never saw it: cropped away). That is the keep-probability lambda,
        joined with the evidence of the steps where there is a gradient (see `ibisa`). Other methods
        than IBISA have saliencies of their own.
    against
        float32 [H, W] in 0..1, on the map's scale: how much each pixel speaks against the answer,
        that is lowers its probability where it is seen. None of methods whose maps have no sign.
    image
        uint8 [H, W, 3] RGB, the picture explained, as it is drawn, of the map's size.
    sufficiency
        None where it is not checked: for a map on the way to another, or of another method.
    timings
        Seconds by stage, of all explanations that were made together.
    together
        How many that were; `passes` are this one's share.
    baseline
        What stood where the picture was masked: "blur", one of `methods.baselines.BASELINES`, a
        colour or a picture's file; of rounds that took several in turn all, with commas. None of a
        method that does not say.
    effect, uncertainty
        float32 [H, W] where the gradient is "forward-only", else None: what showing each pixel adds
        to the probability, so that the sum over a region is what showing the region adds, and the
        standard deviation of that estimate (the true effect of a pixel lies within 1.64 of it in 9
        of 10 cases). Neighbours err together: deviations of a region do not add up.
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
        """Whether the map points at nothing: the answer needs no part of the picture, or all."""
        return is_flat(self.map, self.sufficiency, self.target.probability)

    @property
    def strength(self) -> float:
        """How much of the answer the map accounts for, 0 to 1: how bright it is drawn.

        That is what the most needed half of the picture adds to what the baseline alone gives, as a
        share of the answer's probability; 1 of a map that was not checked.
        """
        if self.sufficiency is None:
            return 1.0
        return self.sufficiency.share_added(self.target.probability)

    @property
    def signed(self) -> npt.NDArray[np.float32]:
        """The map less what speaks against, float32 [H, W] in -1..1; `ResultError` without sign."""
        return np.asarray(self.map - self._known_against(), np.float32)

    def _repr_png_(self) -> bytes:
        """Show itself in a notebook."""
        return encode_png(self.overlay())

    def overlay(self, *, uncertainty: bool = False, signed: bool = False) -> npt.NDArray[np.uint8]:
        """Draw it: picture, picture with map, and a caption with what was explained.

        Parameters
        ----------
        uncertainty
            Draw a third panel with the map's uncertainty, in full colour where it is as large as
            the largest effect.
        signed
            Draw what speaks against the answer too, in blue.

        Returns
        -------
        uint8 [H, W, 3], RGB; see `io.overlay.beside` for the arrangement and the size.

        Raises
        ------
        ResultError
            There is no uncertainty to draw, or no sign.
        """
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
        """Draw the picture under its map with matplotlib; return the axes.

        Parameters
        ----------
        axes
            A `matplotlib.axes.Axes`; None: those of a new figure.
        signed
            Draw what speaks against the answer too, in blue.

        Raises
        ------
        ResultError
            The map has no sign.
        MissingDependencyError
            matplotlib is not installed.
        """
        against = self._known_against() if signed else None
        if axes is None:
            axes = import_extra("matplotlib.pyplot", "bench").subplots()[1]
        axes.imshow(blend(self.image, self.map, None if self.flat else self.strength, against))
        axes.set_title(f"{self.target.name}  {self.target.reading}")
        axes.set_axis_off()
        return axes

    def _drawn(self, place: Sequence[float]) -> list[float]:
        """Return a place in pixels of the picture given in those of the map."""
        return [each / self.provenance.reduction for each in place]

    def _known_against(self) -> npt.NDArray[np.float32]:
        if self.against is None:
            raise ResultError(f"{self.method} does not tell what speaks against the answer")
        return self.against

    def _relative_uncertainty(self) -> npt.NDArray[np.float32]:
        """Return the uncertainty over the largest effect, at most 1, [H, W]."""
        if self.uncertainty is None or self.effect is None:
            raise ResultError(
                f"the {self.certificate.gradient} gradient does not tell how sure the map is; "
                "forward-only does"
            )
        pixels = np.float32(self.effect.size)  # a pixel of a large picture does next to nothing
        scale = np.float32(scale_of(pixels * self.effect))
        return np.asarray(np.clip(pixels * self.uncertainty / scale, 0, 1))

    @property
    def maps(self) -> dict[str, npt.NDArray[np.float32]]:
        """Those of map, against, effect and uncertainty that there are, float32 [H, W], by name."""
        found = {name: getattr(self, name) for name in _MAPS}
        return {name: each for name, each in found.items() if each is not None}

    def record(self) -> dict[str, Any]:
        """Return all but the arrays as plain JSON data; NaN and infinity become None."""
        plain = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("image", *_MAPS)
        }
        return {"format": _FORMAT, "maps": list(self.maps), **jsonable(plain)}

    def encode(self, suffix: str, *, uncertainty: bool = False, signed: bool = False) -> bytes:
        """Return the contents of a result file of that kind.

        Parameters
        ----------
        suffix
            ".png": the overlay; ".npy": the map, float32 [H, W]; ".json": the record.
        uncertainty
            Whether the overlay shows how sure the map is, too.
        signed
            Whether the overlay shows what speaks against, too, and the map is `signed`, in -1..1.

        Raises
        ------
        ResultError
            Another suffix, or there is no uncertainty or no sign to show.
        """
        if suffix == ".png":
            return encode_png(self.overlay(uncertainty=uncertainty, signed=signed))
        if suffix == ".npy":
            return encode_npy(self.signed if signed else self.map)
        if suffix == ".json":
            return encode_json(self.record())
        raise ResultError(f"a result is written as .png, .npy or .json, not as {suffix!r}")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write overlay.png, map.npy, image.png and explanation.json, which `load` reads back.

        With against.npy, effect.npy and uncertainty.npy, where there are these. The folder is made
        where it does not exist. Either all files are complete or, where one cannot be written, none
        is touched.

        Raises
        ------
        ResultError
            The folder cannot be made or written to.
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
        """Read back what `save` wrote: the same map, picture and record.

        Parameters
        ----------
        folder
            Where; nothing outside it is read, and nothing of it is believed before it is checked.
        limits
            How large its files and its picture may be; None: as the environment says.

        Raises
        ------
        ResultError
            A file is missing, damaged or too large, or was written in a format of another version.
        """
        folder, limits = _folder(folder), limits or Limits.from_environment()
        try:
            record = parse_json(_read(folder, "explanation.json", limits).decode())
            if not isinstance(record, dict):
                raise ValueError("explanation.json holds no table")
            version = record.pop("format", None)
            if version not in _READ:
                raise ResultError(
                    f"{folder}: the format is {version!r}, this version reads "
                    f"{' and '.join(map(str, _READ))}"
                )
            names = _map_names(record.pop("maps", None))
            values = read_fields(Explanation, record, "the record", frozenset(("image", *_MAPS)))
            maps: dict[str, Any] = {name: _load_map(folder, name, limits) for name in names}
            size = maps["map"].shape
            image = decode_png(_read(folder, "image.png", limits), size, limits)
            _check_drawn(values["target"], values["sufficiency"], size)
            return Explanation(**maps, image=image, **values)
        except ValueError as error:  # of text that is not UTF-8 too
            raise ResultError(
                f"{folder}: the saved explanation is damaged ({error}); explain the image again"
            ) from error


def _folder(folder: str | os.PathLike[str]) -> Path:
    """Return a folder's path; ResultError where it can be none."""
    try:
        path = Path(folder)
        os.fsencode(path)
    except (TypeError, ValueError) as error:
        raise ResultError(f"{folder!r} is no folder: {error}") from error
    if "\0" in str(path):
        raise ResultError(f"{folder!r} is no folder: a name cannot hold a zero byte")
    return path


def _unnamed(target: ExplainedTarget) -> str:
    """Return what to call a target whose name cannot be drawn."""
    return target.kind if target.index is None else f"{target.kind} {target.index}"


def _read(folder: Path, name: str, limits: Limits) -> bytes:
    """Read a file of a saved explanation."""
    if not os.path.exists(folder / name):  # noqa: PTH110 - which never raises
        raise ResultError(
            f"{folder}: cannot read {name}: No such file or directory; "
            "give a folder that Explanation.save wrote"
        )
    limit = "text_bytes" if name.endswith(".json") else "file_bytes"
    return read_file(folder / name, "saved result", ResultError, limits, limit)


def _map_names(said: Any) -> list[str]:
    """Return which maps there are; ValueError where these are none, or the first is missing."""
    names = said if isinstance(said, list) and all(each in _MAPS for each in said) else []
    if "map" not in names or len(set(names)) < len(names):
        raise ValueError(f"maps is {said!r:.60}, expected some of {', '.join(_MAPS)}")
    return names


def _load_map(folder: Path, name: str, limits: Limits) -> npt.NDArray[np.float32]:
    """Read a map; ValueError where it is none."""
    file = f"{name}.npy"
    data = _read(folder, file, limits)
    try:
        map = read_npy(data, file, ResultError, limits)
    except ResultError as error:
        raise ValueError(str(error)) from error
    if map.dtype != np.float32 or map.ndim != 2 or not map.size:
        raise ValueError(f"{file} is {map.dtype} {list(map.shape)}, expected float32 [H, W]")
    if not np.isfinite(map).all():
        raise ValueError(f"{file} holds NaN or infinity")
    if map.size > limits.pixels:
        raise ValueError(
            f"{file} has {map.size:,} pixels, more than {limits.pixels:,}; set "
            f"{variable('pixels')} to allow more"
        )
    return map


def _check_drawn(
    target: ExplainedTarget, sufficiency: Sufficiency | None, size: tuple[int, ...]
) -> None:
    """Raise ValueError where what is drawn and said of a target, or of areas, cannot be true."""
    box, at, value = (target.details.get(name) for name in ("box", "at", "value"))
    places = [*(box or ()), *(at or ())] if all(_is_list(each) for each in (box, at)) else [None]
    if not all(is_number(each) and abs(each) <= _FARTHEST * max(size) for each in places):
        raise ValueError(f"target.details has box {box!r:.60} and at {at!r:.60}, in no picture")
    if value is not None and not is_number(value):
        raise ValueError(f"target.details.value is {value!r:.60}, expected a number")
    if sufficiency is None:
        return
    areas, probabilities = sufficiency.areas, sufficiency.probabilities
    if len(areas) != len(probabilities) or min(areas, default=1) > _HALF:
        raise ValueError(
            f"sufficiency has {len(areas)} areas and {len(probabilities)} probabilities"
        )


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, list)
