"""Requests and results of a served model, independent of any protocol or server.

A server's adapter passes tensors to `Request.of` and returns what `ServedModel.answer` or
`ServedModel.predict` gives it; the names, datatypes and shapes of all tensors are declared here,
once for all servers.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import (
    DeadlineError,
    IbisaError,
    ImageError,
    OptionError,
    OutputError,
    TargetError,
)
from ibisa_onnx.io.formats import jsonable
from ibisa_onnx.io.headers import read_header
from ibisa_onnx.io.literals import is_number
from ibisa_onnx.limits import Limits
from ibisa_onnx.methods.ibisa.options import Options, options_named
from ibisa_onnx.methods.settings import check_seed
from ibisa_onnx.models.running import time_limit
from ibisa_onnx.serving.target_text import parse_target
from ibisa_onnx.targets.base import Answer
from ibisa_onnx.targets.classification import NAME as CLASSIFIER
from ibisa_onnx.targets.value import ValueTarget

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer
    from ibisa_onnx.explanation import Explanation
    from ibisa_onnx.serving.scheduler import Scheduler

EXPLAINER_SUFFIX = "-explainer"
"""Appended to a model's name: the name of the model that explains it."""
IMAGE, TARGET = "image", "target"
MAP, OVERLAY, EXPLANATION = "map", "overlay", "explanation"
PROBABILITIES, PREDICTIONS = "probabilities", "predictions"
PARAMETERS = ("preset", "deadline_ms", "seed")
PROTOCOL_PARAMETERS = frozenset(
    (
        *("binary_data_output", "content_type", "headers", "priority", "timeout"),
        *("sequence_id", "sequence_start", "sequence_end"),
    )
)
"""Parameters that clients of the protocol add by themselves; ignored."""
_ANY = -1
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]*+={0,2}+\s*+")  # possessive: linear in any text
_TOP = 5
_TENSORS = "tensors"  # the stage of encoding that all servers share
_PER_PIXEL = 3e-8  # seconds of it for a map and for an overlay, until some are known
_MEMORY = 0.7  # weight of what is known against the latest

Tensors = dict[str, npt.NDArray[Any]]
"""Outputs by name: float32 arrays, and for BYTES object arrays [1] that hold bytes."""


@dataclass(frozen=True)
class Tensor:
    """Metadata of one input or output.

    Attributes
    ----------
    name
        Its name.
    datatype
        Its datatype as the Open Inference Protocol spells it: "BYTES", "FP32".
    shape
        Its shape; -1 for a dynamic axis.
    optional
        Whether a request may omit it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def declared(self) -> dict[str, Any]:
        """Return the metadata as the protocol's JSON."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


PREDICT_INPUTS = (Tensor(IMAGE, "BYTES", (1,)),)
"""Inputs of the model that predicts. `image` may also be UINT8 [H, W, 3]."""
EXPLAIN_INPUTS = (*PREDICT_INPUTS, Tensor(TARGET, "BYTES", (1,), optional=True))
"""Inputs of the model that explains."""
EXPLAIN_OUTPUTS = (
    Tensor(MAP, "FP32", (_ANY, _ANY)),
    Tensor(OVERLAY, "BYTES", (1,)),
    Tensor(EXPLANATION, "BYTES", (1,)),
)
"""Outputs of the model that explains: the map [H, W], the overlay (PNG) and the record (JSON)."""


@dataclass(frozen=True)
class Request:
    """A validated request.

    Attributes
    ----------
    image
        The bytes of an image file, or uint8 [H, W, 3] RGB.
    target
        What to explain, as `Explainer.explain` accepts it; None: the predicted class.
    preset
        Name of a preset of `Options`; None: the server's options.
    deadline
        Seconds from `received`; None: the server's default.
    seed
        Random seed; None: the server's.
    outputs
        Names of the requested outputs; empty: all.
    received
        When the request arrived, in seconds of `time.perf_counter`.
    """

    image: bytes | npt.NDArray[np.uint8]
    target: Any = None
    preset: str | None = None
    deadline: float | None = None
    seed: int | None = None
    outputs: tuple[str, ...] = ()
    received: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(
        cls,
        image: Any,
        target: Any = None,
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        received: float | None = None,
    ) -> Request:
        """Return the request that a protocol's tensors and parameters describe.

        Parameters
        ----------
        image
            The bytes of an image file, their base64 text, or uint8 [H, W, 3] or [1, H, W, 3]; an
            array or list of one of them.
        target
            As `serving.target_text.parse_target`; an array of one element is accepted.
        parameters
            `preset`, `deadline_ms` (milliseconds, above 0) and `seed`.
        outputs
            Names of the requested outputs; empty: all.
        received
            When the request arrived, in seconds of `time.perf_counter`; None: now.

        Raises
        ------
        ImageError
            The image is not one of these, or there are several.
        TargetError
            The target cannot be parsed.
        OptionError
            A parameter is unknown or invalid.
        """
        given = {
            name: value
            for name, value in (parameters or {}).items()
            if name not in PROTOCOL_PARAMETERS
        }
        unknown = next((name for name in given if name not in PARAMETERS), None)
        if unknown is not None:
            raise OptionError(f"unknown parameter {unknown!r}; known: {', '.join(PARAMETERS)}")
        return cls(
            image_of(image),
            parse_target(_single(target)),
            _preset(given.get("preset")),
            _seconds(given.get("deadline_ms")),
            _seed(given.get("seed")),
            tuple(outputs),
            time.perf_counter() if received is None else received,
        )

    def seconds_left(self, default: float | None, most: float | None) -> float | None:
        """Return the seconds until the deadline, of which the server allows at most `most`.

        Raises
        ------
        DeadlineError
            None are left.
        """
        bounds = [each for each in (self.deadline or default, most) if each is not None]
        if not bounds:
            return None
        left = min(bounds) - (time.perf_counter() - self.received)
        if left <= 0:
            raise DeadlineError("the deadline passed before the request was read; allow more time")
        return left


class EncodingTime:
    """How long results take to encode, from those encoded before; deadlines reserve it.

    Known by stage, outputs, and the power of two of the image's pixels: overlays have a largest
    size, so the time is not proportional.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[frozenset[str], int], dict[str, float]] = {}  # seconds per pixel

    def expected(self, request: Request) -> float:
        """Return the seconds that a request's results are expected to take."""
        names, pixels = _names(request), _pixels_of(request.image)
        rates = dict(self._known.get((names, pixels.bit_length()), {}))
        first = rates.pop(_TENSORS, _PER_PIXEL * len(names - {EXPLANATION}))
        return pixels * (first + max(rates.values(), default=0.0))

    def doubt(self, request: Request) -> None:
        """Expect less after a rejection, which encodes nothing that could correct the rates."""
        rates = self._known.get((_names(request), _pixels_of(request.image).bit_length()), {})
        for stage in list(rates):
            rates[stage] *= _MEMORY

    def note(self, request: Request, stage: str, seconds: float) -> None:
        """Note the seconds that a stage of encoding took for a request."""
        pixels = _pixels_of(request.image)
        if pixels:
            rates = self._known.setdefault((_names(request), pixels.bit_length()), {})
            rate = seconds / pixels
            rates[stage] = _MEMORY * rates.get(stage, rate) + (1 - _MEMORY) * rate


def _names(request: Request) -> frozenset[str]:
    return frozenset(request.outputs or (each.name for each in EXPLAIN_OUTPUTS))


def _pixels_of(image: bytes | npt.NDArray[np.uint8]) -> int:
    """Return an image's number of pixels; 0 if its header cannot be read."""
    if isinstance(image, np.ndarray):
        return int(image.shape[0] * image.shape[1])
    try:
        header = read_header(image, "the image", Limits())
    except ImageError:  # reported when the image is decoded
        return 0
    return header.width * header.height


@dataclass
class ServedModel:
    """One model as servers offer it: predicts, explains, and declares its tensors.

    Attributes
    ----------
    explainer
        Opens, runs and explains the model.
    scheduler
        Fills batches from its queue; None: each request is explained by its own thread.
    deadline
        Seconds for a request that names none; None: no limit.
    max_deadline
        Longest deadline in seconds; longer ones are shortened to it. None: any.
    seed
        Random seed of a request that names none.
    encoding
        How long results take to encode.
    """

    explainer: Explainer
    scheduler: Scheduler | None = None
    deadline: float | None = None
    max_deadline: float | None = None
    seed: int = 0
    encoding: EncodingTime = field(default_factory=EncodingTime)

    @property
    def predict_outputs(self) -> tuple[Tensor, ...]:
        """Outputs of the model that predicts: class probabilities if it has them, and answers."""
        answers = Tensor(PREDICTIONS, "BYTES", (1,))
        if self.explainer.kind.name != CLASSIFIER:
            return (answers,)
        labels = self.explainer.labels
        return (Tensor(PROBABILITIES, "FP32", (len(labels) if labels else _ANY,)), answers)

    def predict(self, request: Request) -> Tensors:
        """Predict; costs one forward pass.

        Returns
        -------
        dict
            `probabilities`, float32 [K], for classifiers; `predictions`, JSON of `Answer`s, the
            five most probable classes or everything that the model detects.

        Raises
        ------
        IbisaError
            As `Explainer.answers`.
        """
        wanted = _requested(request.outputs, self.predict_outputs)
        with time_limit(request.seconds_left(self.deadline, self.max_deadline)):
            return self._predict(request, wanted)

    def _predict(self, request: Request, wanted: Sequence[str]) -> Tensors:
        if PROBABILITIES not in wanted:
            return _bytes(PREDICTIONS, _answers_text(self.explainer.answers(request.image)))
        found = self.explainer.predict(request.image, top=np.iinfo(np.int32).max)
        values = np.empty(len(found), np.float32)
        values[[each.index for each in found]] = [each.probability for each in found]
        answers = [
            Answer(each.label or f"class {each.index}", each.probability, each.index, each.label)
            for each in found[:_TOP]
        ]
        made = {PROBABILITIES: values, **_bytes(PREDICTIONS, _answers_text(answers))}
        return {name: made[name] for name in wanted}

    def check(self, request: Request) -> None:
        """Raise `OptionError` if the request names an output that does not exist."""
        _requested(request.outputs, EXPLAIN_OUTPUTS)

    def submit(self, request: Request) -> Future[Explanation]:
        """Queue a request of the model that explains; see `Scheduler.submit`.

        Raises
        ------
        OverloadError
            The queue is full.
        DeadlineError
            The deadline has passed.
        OptionError
            The request names an output that does not exist.
        """
        self.check(request)
        future: Future[Explanation]
        left = self._seconds_to_explain(request)
        options = self._options(request.preset)
        seed = self.seed if request.seed is None else request.seed
        if self.scheduler is not None:
            future = self.scheduler.submit(
                request.image, request.target, seed=seed, deadline=left, options=options
            )
            return future
        future = Future()
        method = None
        if options is not None:
            method = replace(self.explainer.method, options=options)
        try:
            explanation = self.explainer.explain(
                request.image, request.target, seed=seed, deadline=left, method=method
            )
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(explanation)
        return future

    def _seconds_to_explain(self, request: Request) -> float | None:
        """Return the seconds until the deadline, less what encoding the results will take."""
        left = request.seconds_left(self.deadline, self.max_deadline)
        if left is None:
            return None
        encoding = self.encoding.expected(request)
        if encoding >= left:
            self.encoding.doubt(request)
            raise DeadlineError(
                f"encoding the results of this image takes about {encoding:.1g} s, more than the "
                f"{left:.1g} s that are left",
                "request fewer outputs or a smaller image, or allow more time",
            )
        return left - encoding

    def encode(self, request: Request, explanation: Explanation) -> Tensors:
        """Return the requested outputs of an explanation; see `encode`."""
        begin = time.perf_counter()
        tensors = encode(explanation, request.outputs)
        self.encoding.note(request, _TENSORS, time.perf_counter() - begin)
        return tensors

    def wait(self, request: Request, future: Future[Explanation]) -> Explanation:
        """Return a request's explanation; see `blamed` for its errors."""
        try:
            return future.result()
        except IbisaError as error:
            raise blamed(request, error) from error

    def cancel(self, future: Future[Explanation]) -> None:
        """Drop a request from the queue, or stop its explanation."""
        future.cancel()
        if self.scheduler is not None:
            self.scheduler.stop(future)

    def answer(self, request: Request) -> Tensors:
        """Explain, and return the requested outputs.

        Returns
        -------
        dict
            `map`, float32 [H, W]; `overlay`, a PNG file; `explanation`, the JSON of
            `Explanation.record`.

        Raises
        ------
        IbisaError
            As `submit` and `Explainer.explain`.
        """
        return self.encode(request, self.wait(request, self.submit(request)))

    def _options(self, preset: str | None) -> Options | None:
        """Return the options of a preset with the server's own baseline; None for the server's."""
        if preset is None:
            return None
        own = self.explainer.options
        return replace(options_named(preset), baseline=own.baseline, blur=own.blur)


def blamed(request: Request, error: IbisaError) -> IbisaError:
    """Return an error as the caller's if it is about an output that the request itself chose."""
    chosen = isinstance(request.target, ValueTarget) and isinstance(error, OutputError)
    return TargetError(error.problem, error.advice) if chosen else error


def encode(explanation: Explanation, outputs: Sequence[str] = ()) -> Tensors:
    """Return the requested outputs of an explanation, and compute no others.

    Parameters
    ----------
    explanation
        The explanation.
    outputs
        Names of outputs; empty: all.

    Returns
    -------
    dict
        As `ServedModel.answer`.
    """
    found: Tensors = {}
    for name in _requested(outputs, EXPLAIN_OUTPUTS):
        if name == MAP:
            found[MAP] = explanation.map
        elif name == OVERLAY:
            found |= _bytes(OVERLAY, explanation.encode(".png"))
        else:
            found |= _bytes(EXPLANATION, _json(explanation.record()))
    return found


def image_of(given: Any) -> bytes | npt.NDArray[np.uint8]:
    """Return an image as the bytes of a file or as uint8 [H, W, 3].

    Raises
    ------
    ImageError
        It is neither, or there are several.
    """
    given = _single(given, ImageError) if not _is_pixels(given) else given
    if isinstance(given, str):
        try:
            return _decoded(given.encode(errors="replace"))
        except binascii.Error as error:
            raise ImageError(f"the image is not valid base64: {error}") from None
    if isinstance(given, bytes | bytearray | memoryview):
        data = bytes(given)
        try:  # no whole image file consists of these characters alone
            return _decoded(data) if _BASE64.fullmatch(data) else data
        except binascii.Error:
            return data
    if given is None:
        raise ImageError("the request has no image; pass an image file's bytes, or uint8 [H, W, 3]")
    return _pixels(given)


def _is_pixels(given: Any) -> bool:
    """Return whether a value is an array of numbers, or nested lists of them."""
    if isinstance(given, np.ndarray):
        return given.dtype.kind not in "OSU"
    first = given
    while isinstance(first, list) and first:
        first = first[0]
    return isinstance(first, int | float)


def _decoded(data: bytes) -> bytes:
    """Decode base64."""
    if not data.strip():
        raise ImageError("the image is empty; pass an image file's bytes, or uint8 [H, W, 3]")
    return base64.b64decode(b"".join(data.split()), validate=True)


def _pixels(given: Any) -> npt.NDArray[np.uint8]:
    """Return pixels as uint8 [H, W, 3]."""
    try:
        values = np.asarray(given)
    except (ValueError, OverflowError):  # ragged lists, and integers of any length
        values = np.empty(0, object)
    if values.ndim == 4 and len(values) != 1:
        raise ImageError(f"the request has {len(values)} images; send one request for each")
    values = values[0] if values.ndim == 4 else values
    if values.dtype.kind in "iu" and values.ndim == 3 and values.shape[2] == 3 and values.size:
        if values.dtype == np.uint8 or (values.min() >= 0 and values.max() <= 255):
            return np.ascontiguousarray(values, np.uint8)
        raise ImageError(f"image has values from {values.min()} to {values.max()}; pass 0 to 255")
    raise ImageError(
        f"image is {values.dtype} {list(values.shape)}; pass an image file's bytes, or uint8 "
        "[H, W, 3]"
    )


def _single(given: Any, error: type[ImageError | TargetError] = TargetError) -> Any:
    """Return the only element of an array or list, however nested."""
    name = IMAGE if error is ImageError else TARGET
    if isinstance(given, np.ndarray):
        given = given.reshape(-1).tolist()
    while isinstance(given, list | tuple):
        if len(given) != 1:
            raise error(f"the request has {len(given)} elements in {name!r}; send one per request")
        given = given[0]
    return given


def _preset(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise OptionError(f"preset is {shown(value)}; pass a name")
    if value is not None:
        options_named(value)
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if not is_number(value) or value <= 0:
        raise OptionError(f"deadline_ms is {shown(value)}; pass milliseconds, above 0")
    return float(value) / 1000


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    check_seed(value)
    return int(value)


def _requested(outputs: Sequence[str], declared: Sequence[Tensor]) -> tuple[str, ...]:
    """Return the names of the outputs to compute; `OptionError` if one does not exist."""
    names = tuple(each.name for each in declared)
    unknown = next((each for each in outputs if each not in names), None)
    if unknown is not None:
        raise OptionError(f"there is no output {unknown!r}; choose from: {', '.join(names)}")
    return tuple(dict.fromkeys(outputs)) or names


def _answers_text(answers: Sequence[Answer]) -> bytes:
    return _json([jsonable(each) for each in answers])


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode()


def _bytes(name: str, data: bytes) -> Tensors:
    """Return one BYTES tensor."""
    value = np.empty(1, object)
    value[0] = data
    return {name: value}
