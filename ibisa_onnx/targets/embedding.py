"""Embedders: vectors that stand for pictures, and how similar one is to another.

What is kept is the cosine similarity to a reference: another picture, a text's embedding, or what
the picture itself gives. A second reference asks what makes the picture like the first rather than
like the second. Similarities are no probabilities: how much of one is kept is measured between the
picture and what hides it. What an embedding looks like is in `output_kinds`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError, TargetError
from ibisa_onnx.io.arrays import load_npy
from ibisa_onnx.io.files import is_regular
from ibisa_onnx.io.images import Picture, Source
from ibisa_onnx.models.head import Head
from ibisa_onnx.models.onnx_graph import origin
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Doubles,
    Kind,
    Nodes,
    Objective,
    Raw,
    Reader,
    TargetSpec,
    check_numbers,
)
from ibisa_onnx.targets.endings import ends_in_probabilities, has_unit_length
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.output_kinds import EMBEDDING, LEAST_OF_EMBEDDING, OutputKinds
from ibisa_onnx.targets.retention import Range, Share, value_range, written

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.models.signature import TensorInfo

_IMAGES = "image_embeds"  # of CLIP and its kin, beside what they make of texts
_SMALLEST = 1e-12  # the least length of a vector that has a direction
_SAME = 1e-6  # a cosine: nearer to 1 two vectors are the same
_LINEAR = frozenset({"Gemm", "MatMul", "Add", "Sub", "Conv", "GlobalAveragePool", "ReduceMean"})
"""Operators that leave a vector whatever length it has."""
# As openai/CLIP and transformers' CLIPImageProcessor have it; mean and std are those of 0..1.
_CLIP = {
    "resize": "shortest",
    "interpolation": "bicubic",
    "channel_order": "RGB",
    "scale": 1 / 255,
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}

Reference = Source
"""A picture, as a path, bytes or an array; or a vector [D], as an array or the path of a .npy file,
such as a text's embedding."""


@dataclass(frozen=True)
class SimilarityObjective(Objective):
    """How much of a similarity is kept.

    Attributes
    ----------
    output
        Name of the output that holds the embedding e, [N, D] or [N, D, 1, 1], of any length.
    axis
        What it is held against, [D]: a unit vector u, whose cosine similarity s = e u / |e| is; or
        the difference of two.
    caption
        What to call it.
    own
        The picture's own similarity.
    share
        How much of it is kept: at first between -1 and 1 (of a difference, -2 and 2).
    hidden
        The least and the greatest similarity of its baselines, where none is clearly less than the
        picture's; else None.
    """

    output: str
    axis: tuple[float, ...]
    caption: str
    own: float
    share: Share
    hidden: Range | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output that holds the embedding."""
        return (self.output,)

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """None: the model has it."""
        return ()

    def similarity(self, raw: Raw) -> Doubles:
        """Return s, [N] in -1..1, or of a difference in -2..2; 0 where the embedding is 0."""
        rows = _rows(raw[self.output])
        return np.asarray(rows @ np.asarray(self.axis) / np.maximum(_lengths(rows), _SMALLEST))

    def score(self, raw: Raw) -> Doubles:
        """Return the logarithm of how much of it is kept, [N]."""
        return self.share.score(self.similarity(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its derivative by the embedding: ds / de = (u - s e / |e|) / |e|."""
        rows = _rows(raw[self.output])
        lengths, similarity = _lengths(rows)[:, None], self.similarity(raw)[:, None]
        safe = np.maximum(lengths, _SMALLEST)
        slopes = (np.asarray(self.axis) - similarity * rows / safe) / safe
        slopes *= (lengths > _SMALLEST) * self.share.slope(similarity[:, 0])[:, None]
        return {self.output: slopes.astype(np.float32).reshape(raw[self.output].shape)}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Write the score behind the embedding."""
        head = Head(graph)
        rows = head.rows(self.output)
        product = head.op("MatMul", rows, head.constant(np.asarray(self.axis)[:, None]))
        ones = head.constant(np.ones((len(self.axis), 1)))
        length = head.op("Sqrt", head.op("MatMul", head.op("Mul", rows, rows), ones))
        least = head.constant(_SMALLEST)
        length = head.op("Add", head.op("Relu", head.op("Sub", length, least)), least)
        return self.share.to_onnx(head, head.op("Div", product, length))

    def calibrated(self, raw: Raw, hidden: Raw) -> SimilarityObjective:
        """Return the objective that knows how similar what hides the picture is.

        Where none is clearly less similar than the picture, there is a warning; see
        `Share.between`.
        """
        found = self.similarity(hidden)
        share = Share.between(self.own, found)
        if share is None or share.own != self.own:
            return replace(self, share=share or self.share, hidden=value_range(found))
        return replace(self, share=share)

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Say where the picture as a whole is no more similar than what hides it."""
        if self.hidden is None:
            return ()
        return (
            f"the {self.caption} is {self.own:.3f}, and {written(self.hidden)} where the picture "
            "is hidden: as a whole it does not make it similar; the map shows which parts of it do",
        )

    def describe(self) -> dict[str, Any]:
        """Return the similarity and what it is to."""
        return {
            "kind": "similarity",
            "caption": self.caption,
            "output": self.output,
            "value": self.own,
        }


@dataclass(frozen=True, eq=False)
class SimilarityTarget:
    """The similarity of a picture's embedding to others.

    Attributes
    ----------
    like
        What it should be similar to; None: to what the picture itself gives, which asks what makes
        its embedding what it is.
    unlike
        What it should be less similar to: the cosine to it is subtracted. None: nothing.
    output
        Name of the output that holds the embedding; None: that of the model's kind.
    """

    like: Reference | None = None
    unlike: Reference | None = None
    output: str | None = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the output that holds the embedding.

        Raises
        ------
        TargetError
            None is named, and the model is no embedder.
        """
        if self.output is not None:
            return (self.output,)
        kind = reader.kind
        if not isinstance(kind, EmbedderKind):
            raise TargetError(
                f"the model's kind is {kind.name}, and no output is known to be an embedding; name "
                "one with output="
            )
        return kind.outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective of one picture; a pass for each reference that is a picture.

        Raises
        ------
        TargetError
            The output is no vector, a reference is none or has another length, or like and unlike
            are the same.
        ImageError
            A reference cannot be read.
        OutputError
            The picture's embedding is NaN, infinite, or 0.
        """
        (output,) = self.outputs(context.reader)
        own = _embedding(raw[output], output)
        name = "itself" if self.like is None else _name(self.like, "a reference")
        like = own if self.like is None else self._unit(self.like, name, output, own, context)
        axis, most, caption = like, 1.0, f"similarity to {name}"
        if self.unlike is not None:
            other = _name(self.unlike, "another reference")
            unlike = self._unit(self.unlike, other, output, own, context)
            if float(like @ unlike) > 1 - _SAME:
                raise TargetError(
                    f"{'the picture' if self.like is None else name} and {other} are the same to "
                    "the model, and nothing tells them apart; give another unlike="
                )
            axis, most, caption = like - unlike, 2.0, f"{caption} rather than {other}"
        value = float(np.clip(own @ axis, -most, most))
        return [
            SimilarityObjective(output, tuple(axis.tolist()), caption, value, Share(-most, most))
        ]

    @staticmethod
    def _unit(
        reference: Reference, name: str, output: str, own: Doubles, context: Context
    ) -> Doubles:
        """Return the unit vector of a reference, as long as the picture's."""
        given = _as_vector(reference)
        if given is None:
            given = _rows(context.ask(reference, (output,))[output])[0]
        if len(given) != len(own):
            raise TargetError(
                f"{name} has {len(given)} numbers, but the embedding {output} has {len(own)}"
            )
        length = float(np.linalg.norm(given))
        if not np.isfinite(length) or length <= _SMALLEST:
            what = "is 0 and has no direction" if length <= _SMALLEST else "is NaN or infinite"
            raise TargetError(f"the embedding of {name} {what}; give another reference")
        return np.asarray(given / length)


class EmbedderKind(Kind):
    """A model that gives a vector for a picture.

    Parameters
    ----------
    output
        Name of the output that holds it.
    reason
        How that is known.
    """

    name = "embedder"
    family = "embedders"
    asks = ("SimilarityTarget(FILE)", "SimilarityTarget(FILE, FILE)")

    def __init__(self, output: str, reason: str) -> None:
        self._output, self.reason = output, reason
        if output == _IMAGES:
            self.family, self.preprocessing = "CLIP", _CLIP

    def outputs(self) -> tuple[str, ...]:
        """Name the output that holds the embedding."""
        return (self._output,)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the similarity to a picture or a .npy file, by its path; None: to itself."""
        if wanted is None:
            return SimilarityTarget()
        if isinstance(wanted, str) and is_regular(wanted):
            return SimilarityTarget(like=wanted)
        raise TargetError(
            f"target {wanted!r} means nothing here: an embedder has no classes; give a picture "
            "with like=, or two with like= and unlike="
        )

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the embedding, with its length."""
        check_numbers(raw[self._output], self._output, finite=True)
        rows = _rows(raw[self._output])[:1]
        length = float(_lengths(rows)[0])
        details = {"unit": "value", "numbers": rows.shape[1]}
        return [Answer(f"embedding of {rows.shape[1]} numbers, length", length, details=details)]


def find(facts: ModelFacts) -> EmbedderKind | None:
    """Recognise an embedding by its name, by a division by its own length, or by its length.

    A model that gives class scores besides is none, but for those that compare pictures with texts.
    """
    kinds = OutputKinds(facts.outputs, facts.batch, facts.makers)
    scores = [each for each in facts.outputs if kinds.may_hold_scores(each)]
    signs = {each.name: _sign(each, kinds, facts) for each in scores}
    vectors = [name for name, sign in signs.items() if sign and "text" not in name.lower()]
    if not vectors:
        return None
    others = [each for each in scores if not signs[each.name] and _size(each, facts) > 0]
    named = (kinds.doubt_by_name(each.name, each.name, single=False) for each in others)
    if _IMAGES not in vectors and not all(named):
        return None
    vectors.sort(key=lambda name: (name != _IMAGES, not has_unit_length(name, facts.makers)))
    return EmbedderKind(vectors[0], f"output {vectors[0]} is an embedding ({signs[vectors[0]]})")


def find_told(facts: ModelFacts) -> EmbedderKind | None:
    """Return the embedder that a user says a model is: the tensor named, or the first vector."""
    if facts.named is not None:
        return EmbedderKind(facts.named, f"tensor {facts.named} was said to be")
    found = find(facts)
    vectors = (each.name for each in facts.outputs if _size(each, facts) > 1)
    if not facts.is_deployed:  # which has declared how many axes there are, if not how many numbers
        vectors = (each.name for each in facts.outputs if len(each.shape) == 2)
    name = next(vectors, None)
    return found or (None if name is None else EmbedderKind(name, f"output {name} was said to be"))


def _sign(output: TensorInfo, kinds: OutputKinds, facts: ModelFacts) -> str:
    """Return by what an output is known to be an embedding, "" where it is not.

    The model is run on noise only where its last operator may have brought the vector to length 1.
    """
    name, makers = output.name, facts.makers
    if not output.dtype.startswith("float") or ends_in_probabilities(name, makers):
        return ""
    by_graph = has_unit_length(name, makers)
    by_name = kinds.doubt_by_name(name, name, single=False).startswith(EMBEDDING)
    maker = makers.get(origin(name, makers))
    probed = facts.graph is not None and maker is not None and maker.op_type not in _LINEAR
    if not (by_graph or by_name or probed) or _size(output, facts) < LEAST_OF_EMBEDDING:
        return ""
    if by_graph or by_name:
        return "it is divided by its own length" if by_graph else "by its name"
    values = facts.values([name]).get(name)
    unit = values is not None and kinds.doubt(name, name, values).startswith(EMBEDDING)
    return "its length is 1" if unit else ""


def _size(output: TensorInfo, facts: ModelFacts) -> int:
    """Return how many numbers the vector of one image has, 0 where an output is none."""
    shape = facts.shape(output.name) if output.dtype.startswith("float") else None
    sides = shape[1:] if shape else ()
    count = int(np.prod(sides))
    return count if sides and max(sides) == count else 0


def _rows(values: npt.NDArray[Any]) -> Doubles:
    """Return embeddings [N, D, ...] as float64 [N, D]."""
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _lengths(rows: Doubles) -> Doubles:
    return np.asarray(np.sqrt(np.sum(rows**2, axis=1)))


def _embedding(values: npt.NDArray[Any], output: str) -> Doubles:
    """Return the unit vector of the picture's own embedding, values [1, D, ...]."""
    row = _rows(values)[0]
    if values.ndim < 2 or max(values.shape[1:]) != row.size or row.size < 2:
        raise TargetError(
            f"output {output} is {list(values.shape)}, not one vector [1, D] for the picture; name "
            "another with output="
        )
    length = float(np.linalg.norm(row))
    if not np.isfinite(length) or length <= _SMALLEST:
        what = "0 everywhere" if length <= _SMALLEST else "NaN or infinite"
        raise OutputError(
            f"output {output} is {what} for this picture; "
            "check the preprocessing (ibisa-onnx inspect) or the model file"
        )
    return np.asarray(row / length)


def _as_vector(reference: Reference) -> Doubles | None:
    """Return the numbers of a reference that is a vector; None where it is a picture."""
    values: Any = reference
    if isinstance(reference, str | os.PathLike) and Path(reference).suffix.lower() == ".npy":
        try:
            values = load_npy(reference, "reference", TargetError)
        except TargetError:
            return None  # reading it as a picture says what is wrong
        if values.ndim == 2 and len(values) > 1:
            raise TargetError(
                f"{Path(reference).name} holds {len(values)} vectors {list(values.shape)}; give one"
            )
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        return None
    one = values.ndim == 1 or (values.ndim == 2 and len(values) == 1)
    return np.asarray(values, np.float64).ravel() if one else None


def _name(reference: Reference, otherwise: str) -> str:
    """Return what to call a reference: its file's name, if it has one."""
    if isinstance(reference, str | os.PathLike):
        return Path(reference).name
    return (reference.name if isinstance(reference, Picture) else None) or otherwise
