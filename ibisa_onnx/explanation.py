"""The result: a map, and everything needed to trust and to reproduce it.

Only data and its storage; pictures are drawn in `render`.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.atomic import write_files

_FORMAT = 3
_MAPS = ("map", "effect", "uncertainty")


@dataclass(frozen=True)
class Passes:
    """What an explanation cost: images pushed forward and backward, and the calls that took."""

    forward: int
    backward: int
    forward_calls: int
    backward_calls: int


@dataclass(frozen=True)
class ExplainedTarget:
    """What was explained: the output's name, the class index, its label, and its score.

    `probability` is the model's own answer on the untouched image, in 0..1; `activation` tells how
    the raw output was read, one of `targets.Activation`.
    """

    output: str
    index: int
    label: str | None
    probability: float
    activation: str


@dataclass(frozen=True)
class Sufficiency:
    """What the deployed model says when it sees the most needed pixels alone, over the baseline.

    `areas` are fractions of the picture, from 0 (the baseline alone) up; `probabilities` the
    target's at each.
    """

    areas: tuple[float, ...]
    probabilities: tuple[float, ...]

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

    done: int
    planned: int
    unit: str
    cut_short: str | None = None

    @property
    def ended(self) -> bool:
        """Whether no more work follows."""
        return self.cut_short is not None or self.done == self.planned


@dataclass(frozen=True)
class Certificate:
    """How the map was obtained and how far that path is from the deployed model.

    `gradient` is one of `gradients.choice.GRADIENTS`, never "auto", or "none" for methods that need
    none; `reason` says why that one; `difference` is the largest absolute difference between the
    differentiable path's probabilities and ONNX Runtime's on this image, to be held against
    `tolerance`. Without a gradient there is no other path than the model itself: `difference` is
    None, and it holds.
    """

    gradient: str
    reason: str
    difference: float | None
    tolerance: float
    holds: bool


@dataclass(frozen=True)
class Provenance:
    """What makes the explanation reproducible: hashes, settings, versions and the seed."""

    model: str | None
    model_sha256: str | None
    image: str | None
    image_sha256: str | None
    preprocessing: dict[str, Any]
    providers: tuple[str, ...]
    versions: dict[str, str]
    seed: int
    options: dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """An attribution map and how it came about.

    Attributes
    ----------
    map
        float32 [H, W], at the size of the picture given, in 0..1: how much the model needed each
        pixel, near 0 where it never did (and 0 where it never saw it: cropped away). That is the
        keep-probability lambda, joined with the evidence of the steps where there is a gradient
        (see `ibisa`). Other methods than IBISA have saliencies of their own.
    image
        uint8 [H, W, 3] RGB, the picture explained.
    sufficiency
        None where it is not checked: for a map on the way to another, or of another method.
    timings
        Seconds by stage.
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
    timings: dict[str, float]
    certificate: Certificate
    provenance: Provenance
    warnings: tuple[str, ...] = field(default=())
    effect: npt.NDArray[np.float32] | None = None
    uncertainty: npt.NDArray[np.float32] | None = None
    method: str = "ibisa"

    def __repr__(self) -> str:
        target, passes = self.target, self.passes
        name = f"{target.label} ({target.index})" if target.label else f"class {target.index}"
        return (
            f"<Explanation of {name} {target.probability:.1%}, map {list(self.map.shape)}, "
            f"{self.certificate.gradient}, {passes.forward} forward + {passes.backward} backward>"
        )

    @property
    def maps(self) -> dict[str, npt.NDArray[np.float32]]:
        """Those of map, effect and uncertainty that there are, float32 [H, W], by name."""
        found = {name: getattr(self, name) for name in _MAPS}
        return {name: each for name, each in found.items() if each is not None}

    def record(self) -> dict[str, Any]:
        """Return all but the arrays as plain JSON data; NaN and infinity become None."""
        plain = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("image", *_MAPS)
        }
        return {"format": _FORMAT, "maps": list(self.maps), **_jsonable(plain)}

    def encode(self, suffix: str, *, uncertainty: bool = False) -> bytes:
        """Return the contents of a result file of that kind.

        Parameters
        ----------
        suffix
            ".png": the overlay; ".npy": the map, float32 [H, W]; ".json": the record.
        uncertainty
            Whether the overlay shows how sure the map is, too.

        Raises
        ------
        ResultError
            Another suffix, or there is no uncertainty to show.
        """
        if suffix == ".png":
            # `render` stands above this module, so it is fetched only when a picture is asked for.
            from ibisa_onnx.io.overlay import overlay

            return encode_png(overlay(self, uncertainty=uncertainty))
        if suffix == ".npy":
            return encode_npy(self.map)
        if suffix == ".json":
            text = json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False)
            return f"{text}\n".encode()
        raise ResultError(f"a result is written as .png, .npy or .json, not as {suffix!r}")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write overlay.png, map.npy, image.png and explanation.json, which `load` reads back.

        With effect.npy and uncertainty.npy, where there are these. The folder is made where it does
        not exist. Either all files are complete or, where one cannot be written, none is touched.

        Raises
        ------
        ResultError
            The folder cannot be made or written to.
        """
        folder = Path(folder)
        contents = {
            "overlay.png": self.encode(".png"),
            "image.png": encode_png(self.image),
            "explanation.json": self.encode(".json"),
        }
        contents |= {f"{name}.npy": encode_npy(each) for name, each in self.maps.items()}
        write_files({folder / name: data for name, data in contents.items()})

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Explanation:
        """Read back what `save` wrote: the same map, picture and record.

        Raises
        ------
        ResultError
            A file is missing or damaged, or was written in a format of another version.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
            if record["format"] != _FORMAT:
                raise ResultError(
                    f"{folder}: the format is {record['format']!r}, this version reads {_FORMAT}"
                )
            image = decode_png((folder / "image.png").read_bytes())
            maps = {name: _load_map(folder / f"{name}.npy", image) for name in record["maps"]}
            return _from_record(record, maps, image)
        except OSError as error:
            raise ResultError(
                f"{folder}: cannot read {Path(error.filename or folder).name}: {error.strerror}; "
                "give a folder that Explanation.save wrote"
            ) from error
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise ResultError(
                f"{folder}: the saved explanation is damaged ({error}); explain the image again"
            ) from error


def encode_npy(map: npt.NDArray[np.float32]) -> bytes:
    """Return a map as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, map, allow_pickle=False)
    return buffer.getvalue()


def _load_map(path: Path, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Read a map of a picture; ValueError where it has another size."""
    map: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
    if map.shape != image.shape[:2]:
        raise ValueError(f"{path.stem} {list(map.shape)}, picture {list(image.shape[:2])}")
    return map


def _from_record(
    record: Mapping[str, Any],
    maps: Mapping[str, npt.NDArray[np.float32]],
    image: npt.NDArray[np.uint8],
) -> Explanation:
    provenance = {**record["provenance"], "providers": tuple(record["provenance"]["providers"])}
    return Explanation(
        **maps,
        image=image,
        target=ExplainedTarget(**record["target"]),
        sufficiency=_sufficiency(record["sufficiency"]),
        completion=Completion(**record["completion"]),
        passes=Passes(**record["passes"]),
        timings=dict(record["timings"]),
        certificate=Certificate(**record["certificate"]),
        provenance=Provenance(**provenance),
        warnings=tuple(record["warnings"]),
        method=record["method"],
    )


def _sufficiency(record: Mapping[str, Any] | None) -> Sufficiency | None:
    if record is None:
        return None
    return Sufficiency(tuple(record["areas"]), tuple(record["probabilities"]))


def _jsonable(value: Any) -> Any:
    """Return `value` in JSON's own types."""
    if is_dataclass(value) and not isinstance(value, type):
        return _jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 [H, W, 3] RGB, as the bytes of a PNG file."""
    import cv2

    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    return bytes(encoded.tobytes())


def decode_png(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the picture, uint8 [H, W, 3] RGB, in the bytes of a PNG file; ValueError if none."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError("image.png is not a picture")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
