"""What is explained: the objective, one scalar a picture, and the target that it was made from.

A target is what a user wrote: a class, `top:3`, a box of a detector. It binds to the model's first
answer to a picture and gives objectives. All that comes after (gradients, batches, the fidelity
check, the metrics) knows objectives alone. What the models are that can be asked (classifiers,
detectors ...) is a `Kind` each.
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
"""Values of a model's outputs by name, a row for each image, in the model's own dtypes."""
Doubles = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

USUAL_BASELINES = ("blur", "mean", "noise")
"""What stands where a picture is hidden, in the order in which they are preferred."""


def check_numbers(values: npt.NDArray[Any], *names: str, finite: bool = False) -> None:
    """Raise `OutputError` where values that are read off these tensors are NaN, or not finite."""
    bad = ~np.isfinite(values) if finite else np.isnan(values)
    if bad.any():
        one = f"output {names[0]} has" if len(names) == 1 else f"outputs {', '.join(names)} have"
        raise OutputError(
            f"{one} {'NaN or infinite' if finite else 'NaN'} values for this image; check the "
            "preprocessing (ibisa-onnx inspect) or the model file"
        )


def wrong_kind(kind: Kind, what: str) -> TargetError:
    """Return the error that a kind of model has nothing of what was asked for."""
    why = f" ({kind.reason})" if kind.reason else ""
    return TargetError(f"the model's kind is {kind.name}, which has no {what}{why}; {kind.may}")


def is_point(at: Any) -> bool:
    """Tell whether a value is a point: two finite numbers."""
    try:
        x, y = at
        return bool(np.isfinite([float(x), float(y)]).all()) and not isinstance(at, str)
    except (TypeError, ValueError):
        return False


class Nodes(Protocol):
    """Nodes that are added behind a model's graph, and the tensors that they make."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that they make."""

    def to_onnx(self, graph: onnx.GraphProto) -> object:
        """Write them, in place."""


class Objective(ABC):
    """What should be kept of a picture's answer, as one scalar a picture.

    A subclass needs `outputs`, `score` and `describe`, and either `vjp` or `to_onnx`.
    """

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The tensors that it reads: outputs, inner tensors, or the one that `to_onnx` makes."""

    @abstractmethod
    def score(self, raw: Raw) -> Doubles:
        """Return what should be kept, [N] in nats: the logarithm of a probability, or like one."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return a JSON record of it: `kind`, `caption` (for people), and what else there is."""

    def probability(self, raw: Raw) -> Doubles:
        """Return the exponential of the score, [N]: what maps and metrics are measured in."""
        return np.exp(self.score(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return the derivative of each row's score by each output it reads, in its shape.

        Raises
        ------
        GradientError
            There is none: it is explained by forward passes alone.
        """
        raise GradientError(f"{type(self).__name__} has no derivative")

    def readout(self, raw: Raw) -> Doubles:
        """Return what the fidelity check compares, [N, ...], in units of probability."""
        return self.probability(raw)[:, None]

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return what a user must know of one picture's answer, values [1, ...]."""
        return ()

    def to_onnx(self, graph: onnx.GraphProto) -> str | None:
        """Write the score as nodes behind the graph's outputs or inner tensors.

        Returns the name of the tensor float32 [N, 1]; None where it lives only in Python.
        """
        return None

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What writes the tensors that it reads, where the model itself has them not."""
        return (self,)

    @property
    def beside(self) -> tuple[str, ...]:
        """Further tensors, which some methods read of the same answer: D-RISE a box's own boxes."""
        return ()

    @property
    def location(self) -> Box | None:
        """Where in the model's input the answer lies, in 0..1 of each side; None: nothing says."""
        return None

    @property
    def extent(self) -> float | None:
        """The share of the model's input that it is about, in 0..1; None where nothing says."""
        if self.location is None:
            return None
        left, top, right, bottom = self.location
        return (right - left) * (bottom - top)

    @property
    def baselines(self) -> tuple[str, ...]:
        """What `auto` hides the picture by, in order of preference (`methods.baselines`)."""
        return USUAL_BASELINES

    def calibrated(self, raw: Raw, hidden: Raw) -> Objective:
        """Return the objective once it is known what the model says where the picture is hidden.

        For what is a probability only between the two, as a similarity is.

        Parameters
        ----------
        raw
            The answer to the untouched picture, values [1, ...].
        hidden
            The answers to its baselines, values [K, ...].
        """
        return self

    @property
    def family(self) -> Hashable:
        """What a prepared gradient depends on: objectives of one family share it."""
        return type(self), self.outputs


class Reader(Protocol):
    """What targets may ask of a model; `reader.OutputReader` answers.

    Attributes
    ----------
    facts
        What is known of it before it has seen a picture.
    labels
        Names of the classes by index; None where nobody gave any.
    """

    facts: ModelFacts
    labels: tuple[str, ...] | None

    @property
    def kind(self) -> Kind:
        """What kind of model it is."""

    @property
    def declared_classes(self) -> ClassCount | None:
        """How many classes there are by shapes and graph; None where these do not say."""

    def candidates(self) -> list[str]:
        """Name the tensors that may hold class scores; `OutputError` where none may."""

    def read(self, raws: Raw) -> ClassScores:
        """Tell which of the candidates holds class scores, and how."""

    def label(self, index: int) -> str | None:
        """Return what a class is called."""

    def labels_for(self, classes: int | None) -> tuple[str, ...] | None:
        """Return names for so many classes, where somebody gave as many; None: for any number."""


@dataclass(frozen=True)
class Context:
    """What a target is bound in: the model's reader, and where the picture lies in its input.

    Attributes
    ----------
    reader
        Of the model: its labels, its kind, and which output holds class scores.
    geometry
        From the picture's pixels to the input's, and back.
    ask
        Pushes another picture forward, brought to the model as this one: the outputs named, values
        [1, ...]. It costs a pass.
    """

    reader: Reader
    geometry: Geometry
    ask: Callable[[Source, Sequence[str]], Raw]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes by index."""
        return self.reader.labels

    def check_point(self, at: Any) -> tuple[float, float]:
        """Return a point, x and y in the picture's pixels.

        Raises
        ------
        TargetError
            It is none, or outside of the picture.
        """
        if not is_point(at):
            raise TargetError(f"at is {at!r}; give x and y in the picture's pixels")
        (x, y), (height, width) = at, self.geometry.picture
        if not (0 <= x <= width and 0 <= y <= height):
            raise AbsentTargetError(
                f"at {x:g},{y:g} is outside the picture, which is {width} x {height}"
            )
        return float(x), float(y)


@runtime_checkable
class TargetSpec(Protocol):
    """What a user asks to have explained; not yet tied to a picture."""

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the outputs of the model that `bind` needs to see."""

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objectives that it means for one picture.

        Parameters
        ----------
        raw
            The first answer: values [1, ...] of those outputs.
        context
            The model's labels and kind, and where the picture lies in its input.

        Raises
        ------
        TargetError
            There is nothing of the kind in this answer.
        OutputError
            The model's outputs are of another kind.
        """


class FixedTarget:
    """A target that is an objective already, the same for every picture."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name what it reads, and what some methods read beside."""
        return tuple(dict.fromkeys((*self.objective.outputs, *self.objective.beside)))

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return it."""
        return [self.objective]


@dataclass(frozen=True)
class Answer:
    """One of the things that a model says of a picture.

    Attributes
    ----------
    caption
        What to call it: "person 91.2%" without the number.
    score
        How sure the model is, in 0..1, or the value itself where it is none of these.
    index, label
        Of its class; None where it has none.
    box
        Left, top, right, bottom in the picture's pixels; None where it is in no one place.
    details
        What else there is to say, as plain JSON data.
    number
        By which it can be asked for, from 1: of a box or a character; None: not by a number.
    """

    caption: str
    score: float
    index: int | None = None
    label: str | None = None
    box: tuple[float, float, float, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    number: int | None = None


class Kind(ABC):
    """A kind of model: what its outputs are, what it says of a picture, and what can be asked.

    Attributes
    ----------
    name
        "classifier", "detector" ...
    reason
        How that is known.
    family
        What models of that very format are called.
    asks
        What can be asked of it, as Python says it; `commands.flags` knows the flags.
    warnings
        What a user must know where something is inferred.
    preprocessing
        What such models usually do to a picture, as fields of `Preprocessing`; a guess.
    """

    name: str
    reason: str = ""
    family: str = ""
    asks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = {}

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What writes the tensors that it reads, where the model itself has them not."""
        return ()

    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Name the tensors that hold its answer."""

    @abstractmethod
    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target that a user's word means; None: what the model says first.

        Raises
        ------
        TargetError
            The word can mean nothing here.
        """

    def at(self, point: tuple[float, float], wanted: str | int | None = None) -> TargetSpec:
        """Return the target at a point.

        Parameters
        ----------
        point
            x and y in the picture's pixels.
        wanted
            A class there; None: whichever is there.

        Raises
        ------
        TargetError
            Such a model says nothing of single places.
        """
        raise TargetError(
            f"the model's kind is {self.name}, which says nothing about single places; {self.may}"
        )

    @property
    def may(self) -> str:
        """Say what can be asked of such a model."""
        return f"ask with {', '.join(self.asks)}" if self.asks else "nothing can be asked"

    @abstractmethod
    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return what the model says of a picture, the surest first.

        Parameters
        ----------
        raw
            Values [1, ...] of the outputs.
        context
            Where the picture lies.
        """
