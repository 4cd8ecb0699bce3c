"""Base classes of explanation targets, objectives and model kinds.

A target is what a caller asks to have explained: a class, `top:3`, a detector's box. Binding it to
the model's prediction for one image yields objectives, each a scalar per image. Everything
downstream (gradients, batches, the fidelity check, metrics) deals with objectives only. Each kind
of model (classifier, detector, ...) is a `Kind`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, GradientError, OutputError, TargetError
from ibisa_onnx.io.images import Source
from ibisa_onnx.preprocessing.geometry import Geometry

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.targets.class_scores import ClassScores
    from ibisa_onnx.targets.facts import ModelFacts
    from ibisa_onnx.targets.labels import ClassCount

Raw = Mapping[str, npt.NDArray[Any]]
"""Model outputs by name, one row per image, in the model's own dtypes."""
Doubles = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

USUAL_BASELINES = ("blur", "mean", "noise")
"""Default baselines for `baseline="auto"`, in order of preference."""


def check_numbers(values: npt.NDArray[Any], *names: str, finite: bool = False) -> None:
    """Raise `OutputError` if values read from these tensors are NaN, or not finite."""
    bad = ~np.isfinite(values) if finite else np.isnan(values)
    if bad.any():
        one = f"output {names[0]} has" if len(names) == 1 else f"outputs {', '.join(names)} have"
        raise OutputError(
            f"{one} {'NaN or infinite' if finite else 'NaN'} values for this image; check the "
            "preprocessing (ibisa-onnx inspect) or the model file"
        )


def wrong_kind(kind: Kind, what: str) -> TargetError:
    """Return the error for a target that this kind of model does not have."""
    why = f" ({kind.reason})" if kind.reason else ""
    return TargetError(f"the model's kind is {kind.name}, which has no {what}{why}; {kind.may}")


def is_point(at: Any) -> bool:
    """Return whether a value is a point: two finite numbers."""
    try:
        x, y = at
        return bool(np.isfinite([float(x), float(y)]).all()) and not isinstance(at, str)
    except (TypeError, ValueError):
        return False


class Nodes(Protocol):
    """Nodes that can be appended to a model's graph, and the tensors they produce."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that the nodes produce."""

    def to_onnx(self, graph: onnx.GraphProto) -> object:
        """Append the nodes to `graph`, in place."""


class Objective(ABC):
    """Scalar per image that an explanation attributes to the image's pixels.

    Base class of all objectives. A subclass implements `outputs`, `score` and `describe`, and, to
    be explained with gradients, `vjp`; without it the objective is explained from forward passes
    alone. The scalar is a log-probability, or behaves like one: higher means that more of the
    prediction is preserved.

    Examples
    --------
    >>> import numpy as np
    >>> class LogitMargin(Objective):
    ...     outputs = ("logits",)
    ...
    ...     def score(self, raw):
    ...         values = np.asarray(raw["logits"], np.float64)
    ...         return -np.logaddexp(0, values[:, 1] - values[:, 0])
    ...
    ...     def describe(self):
    ...         return {"kind": "margin", "caption": "class 0 rather than 1"}
    """

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors read: outputs, inner tensors, or the one made by `to_onnx`."""

    @abstractmethod
    def score(self, raw: Raw) -> Doubles:
        """Return the score to preserve.

        Parameters
        ----------
        raw
            Values of the tensors in `outputs` by name, each [N, ...].

        Returns
        -------
        ndarray
            float64 [N], in nats: a log-probability, or a value that behaves like one.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the objective as plain JSON data.

        Returns
        -------
        dict
            `kind`, `caption` (a short text for people), and optionally `output`, `index`, `label`
            and `activation`; any other field appears in `explanation.target.details`.
        """

    def probability(self, raw: Raw) -> Doubles:
        """Return exp(score), float64 [N]: the unit in which maps and metrics are measured."""
        return np.exp(self.score(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return the gradient of each row's score with respect to the outputs it reads.

        Parameters
        ----------
        raw
            Values of the tensors in `outputs` by name, each [N, ...].

        Returns
        -------
        dict
            By tensor name, float32 in the tensor's shape: row n is d score[n] / d output[n].

        Raises
        ------
        GradientError
            The objective is not differentiable. It is then explained from forward passes alone.
        """
        raise GradientError(f"{type(self).__name__} is not differentiable: it implements no vjp")

    def readout(self, raw: Raw) -> Doubles:
        """Return what the fidelity check compares between gradient path and deployed model.

        Returns
        -------
        ndarray
            float64 [N, ...], in units of probability.
        """
        return self.probability(raw)[:, None]

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return warnings about the prediction for one image; `raw` holds values [1, ...]."""
        return ()

    def to_onnx(self, graph: onnx.GraphProto) -> str | None:
        """Append nodes that compute the score to a graph.

        Required only if `outputs` names the tensor that these nodes make.

        Parameters
        ----------
        graph
            Model graph, changed in place; its outputs and inner tensors may be read.

        Returns
        -------
        str or None
            Name of a float32 tensor [N, 1]; None if the score is defined in Python only.
        """
        return None

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """Writers of the tensors in `outputs` that the model itself does not have."""
        return (self,)

    @property
    def beside(self) -> tuple[str, ...]:
        """Further tensors read by some methods; D-RISE reads the boxes, for example."""
        return ()

    @property
    def location(self) -> Box | None:
        """Box of the explained object in the model input, as fractions 0..1; None if unknown."""
        return None

    @property
    def extent(self) -> float | None:
        """Fraction of the model input that the objective covers, 0..1; None if unknown."""
        if self.location is None:
            return None
        left, top, right, bottom = self.location
        return (right - left) * (bottom - top)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Baselines that `baseline="auto"` chooses from, in order of preference."""
        return USUAL_BASELINES

    def calibrated(self, raw: Raw, hidden: Raw) -> Objective:
        """Return the objective, calibrated with the scores of the baselines.

        Objectives that are no probabilities, such as a similarity, are measured between their value
        for the image and their value for a baseline. The default returns the objective unchanged.

        Parameters
        ----------
        raw
            Outputs for the unmasked image by name, each [1, ...].
        hidden
            Outputs for its K baselines by name, each [K, ...].
        """
        return self

    @property
    def family(self) -> Hashable:
        """Key of the prepared gradient: objectives with equal keys share one."""
        return type(self), self.outputs


class Reader(Protocol):
    """Model interface for targets, implemented by `reader.OutputReader`.

    Attributes
    ----------
    facts
        What is known about the model before its first image.
    labels
        Class names by index; None if unknown.
    """

    facts: ModelFacts
    labels: tuple[str, ...] | None

    @property
    def kind(self) -> Kind:
        """Kind of the model."""

    @property
    def declared_classes(self) -> ClassCount | None:
        """Number of classes according to shapes and graph; None if these do not determine it."""

    def candidates(self) -> list[str]:
        """Return the names of tensors that may hold class scores; `OutputError` if none may."""

    def read(self, raws: Raw) -> ClassScores:
        """Determine which candidate holds class scores, and how to read it."""

    def label(self, index: int) -> str | None:
        """Return the name of a class."""

    def labels_for(self, classes: int | None) -> tuple[str, ...] | None:
        """Return names for this many classes, if any are known; None for any number of classes."""


@dataclass(frozen=True)
class Context:
    """Everything a target needs to bind to one image: the model's reader and the image's geometry.

    Attributes
    ----------
    reader
        The model's reader: labels, kind, and which output holds class scores.
    geometry
        Mapping between pixels of the original image and of the model input.
    ask
        Runs the model on another image, preprocessed like this one, and returns the named outputs,
        each [1, ...]. Costs one forward pass.
    """

    reader: Reader
    geometry: Geometry
    ask: Callable[[Source, Sequence[str]], Raw]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by index; None if unknown."""
        return self.reader.labels

    def check_point(self, at: Any) -> tuple[float, float]:
        """Validate a point and return it as floats.

        Parameters
        ----------
        at
            x and y, in pixels of the original image.

        Raises
        ------
        TargetError
            The value is not a point, or the point lies outside the image.
        """
        if not is_point(at):
            raise TargetError(f"at is {at!r}; pass x and y in image pixels")
        (x, y), (height, width) = at, self.geometry.picture
        if not (0 <= x <= width and 0 <= y <= height):
            raise AbsentTargetError(
                f"at {x:g},{y:g} is outside the image, which is {width} x {height} pixels"
            )
        return float(x), float(y)


@runtime_checkable
class TargetSpec(Protocol):
    """What to explain, before it is bound to an image.

    Protocol of all targets. Passing one to `Explainer.explain` binds it to the image's prediction.
    """

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the names of the model outputs that `bind` reads."""

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Resolve the target for one image.

        Parameters
        ----------
        raw
            Prediction for the image: the outputs named by `outputs`, each [1, ...].
        context
            The model's labels and kind, and the image's geometry.

        Returns
        -------
        list of Objective
            One objective per explanation.

        Raises
        ------
        TargetError
            The prediction does not contain the target.
        OutputError
            The model's outputs are of another kind.
        """


class FixedTarget:
    """Target that already is an objective, the same for every image."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the names of the tensors that the objective and some methods read."""
        return tuple(dict.fromkeys((*self.objective.outputs, *self.objective.beside)))

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective."""
        return [self.objective]


@dataclass(frozen=True)
class Answer:
    """One entry of a model's prediction: a class, a box, a region, a character or a value.

    Attributes
    ----------
    caption
        Short text without the score, such as "person".
    score
        Confidence in 0..1; for values, embeddings and heat maps, the value itself.
    index, label
        Class index and class name; None if there is none.
    box
        Left, top, right, bottom, in pixels of the original image; None if not localised.
    details
        Further data, JSON-serialisable.
    number
        Number, from 1, by which a box or a character can be targeted; None for all others.
    """

    caption: str
    score: float
    index: int | None = None
    label: str | None = None
    box: tuple[float, float, float, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    number: int | None = None


class Kind(ABC):
    """Kind of model: what its outputs are, what it predicts, and which targets it supports.

    Attributes
    ----------
    name
        Name of the kind, such as "classifier" or "detector".
    reason
        How the kind was determined.
    family
        Name of the specific output format, such as "YOLOX".
    asks
        Supported targets, in Python notation; `commands.flags` translates them to flags.
    warnings
        Warnings about inferred settings.
    preprocessing
        Typical preprocessing of such models, as fields of `Preprocessing`. Assumed, so everything
        that is specified takes precedence.
    """

    name: str
    reason: str = ""
    family: str = ""
    asks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = {}

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """Writers of the tensors in `outputs` that the model itself does not have."""
        return ()

    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the tensors that hold the prediction."""

    @abstractmethod
    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target that a word or number stands for.

        Parameters
        ----------
        wanted
            What the caller passed, such as a label or an index; None for the default target, such
            as the predicted class or the highest-scoring box.

        Raises
        ------
        TargetError
            The word has no meaning for this kind of model.
        """

    def at(self, point: tuple[float, float], wanted: str | int | None = None) -> TargetSpec:
        """Return the target at a point.

        Parameters
        ----------
        point
            x and y, in pixels of the original image.
        wanted
            Class at that point, by label or index; None for whichever class is found there.

        Raises
        ------
        TargetError
            This kind of model predicts nothing for single points.
        """
        raise TargetError(
            f"the model's kind is {self.name}, which predicts nothing for single points; {self.may}"
        )

    @property
    def may(self) -> str:
        """Describe the supported targets, for error messages."""
        if not self.asks:
            return "no target is supported"
        return f"supported targets: {', '.join(self.asks)}"

    @abstractmethod
    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the prediction for one image, highest score first.

        Parameters
        ----------
        raw
            Outputs by name, each [1, ...].
        context
            The model's reader and the image's geometry.
        """
