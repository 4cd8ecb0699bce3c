"""Embedding models: vectors that represent images, and similarity targets.

The score is the cosine similarity to a reference: another image, a text embedding, or the image's
own embedding. With a second reference it is the difference of both similarities: what makes the
image resemble the first rather than the second. A similarity is not a probability, so it is
measured between the image and its baselines. `output_kinds` recognises embeddings.
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

_IMAGES = "image_embeds"  # of CLIP-like models, which also have text outputs
_SMALLEST = 1e-12  # minimum length of a vector with a direction
_SAME = 1e-6  # vectors whose cosine is within this of 1 are equal
_LINEAR = frozenset({"Gemm", "MatMul", "Add", "Sub", "Conv", "GlobalAveragePool", "ReduceMean"})
"""Operators that do not normalise the length of a vector."""
# As in openai/CLIP and transformers' CLIPImageProcessor; mean and std are for pixels in 0..1.
_CLIP = {
    "resize": "shortest",
    "interpolation": "bicubic",
    "channel_order": "RGB",
    "scale": 1 / 255,
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}

Reference = Source
"""Reference of a similarity: an image (path, bytes or array) or a vector [D] (array or .npy file).
"""


@dataclass(frozen=True)
class SimilarityObjective(Objective):
    """Fraction of an embedding's similarity to a reference that is retained.

    Attributes
    ----------
    output
        Name of the output that holds the embedding e, [N, D] or [N, D, 1, 1], of any length.
    axis
        Reference, [D]: a unit vector u, with cosine similarity s = e u / |e|; or the difference of
        two unit vectors.
    caption
        Short text for people.
    own
        Similarity of the unmasked image.
    share
        Measure of the retained fraction; before calibration, on the scale -1..1 (-2..2 for a
        difference).
    hidden
        Smallest and largest similarity among the baselines, if none is clearly lower than the
        image's; otherwise None.
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
        """Empty: the model itself has the output."""
        return ()

    def similarity(self, raw: Raw) -> Doubles:
        """Return s, float64 [N], in -1..1 (difference: -2..2); 0 for a zero embedding."""
        rows = _rows(raw[self.output])
        return np.asarray(rows @ np.asarray(self.axis) / np.maximum(_lengths(rows), _SMALLEST))

    def score(self, raw: Raw) -> Doubles:
        """Return the logarithm of the retained fraction, float64 [N]."""
        return self.share.score(self.similarity(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its gradient with respect to e, from ds / de = (u - s e / |e|) / |e|."""
        rows = _rows(raw[self.output])
        lengths, similarity = _lengths(rows)[:, None], self.similarity(raw)[:, None]
        safe = np.maximum(lengths, _SMALLEST)
        slopes = (np.asarray(self.axis) - similarity * rows / safe) / safe
        slopes *= (lengths > _SMALLEST) * self.share.slope(similarity[:, 0])[:, None]
        return {self.output: slopes.astype(np.float32).reshape(raw[self.output].shape)}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Append nodes that compute the score."""
        head = Head(graph)
        rows = head.rows(self.output)
        product = head.op("MatMul", rows, head.constant(np.asarray(self.axis)[:, None]))
        ones = head.constant(np.ones((len(self.axis), 1)))
        length = head.op("Sqrt", head.op("MatMul", head.op("Mul", rows, rows), ones))
        least = head.constant(_SMALLEST)
        length = head.op("Add", head.op("Relu", head.op("Sub", length, least)), least)
        return self.share.to_onnx(head, head.op("Div", product, length))

    def calibrated(self, raw: Raw, hidden: Raw) -> SimilarityObjective:
        """Return the objective, calibrated with the similarities of the baselines.

        It carries a warning if no baseline is clearly less similar than the image; see
        `Share.between`.
        """
        found = self.similarity(hidden)
        share = Share.between(self.own, found)
        if share is None or share.own != self.own:
            return replace(self, share=share or self.share, hidden=value_range(found))
        return replace(self, share=share)

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return a warning if the whole image is no more similar than its baselines."""
        if self.hidden is None:
            return ()
        return (
            f"the {self.caption} is {self.own:.3f}, and {written(self.hidden)} for the baselines: "
            "the whole image is not similar to the reference; the map shows which parts are",
        )

    def describe(self) -> dict[str, Any]:
        """Return the similarity and its references."""
        return {
            "kind": "similarity",
            "caption": self.caption,
            "output": self.output,
            "value": self.own,
        }


@dataclass(frozen=True, eq=False)
class SimilarityTarget:
    """Explain the similarity of an image's embedding to reference images or vectors.

    Attributes
    ----------
    like
        Reference: an image (path, bytes or array) or a vector [D] (array or path of a .npy file).
        None for the image's own embedding, which explains what the embedding depends on.
    unlike
        Second reference, whose cosine similarity is subtracted; None for none.
    output
        Name of the output that holds the embedding; None for the one that was detected.

    Raises
    ------
    TargetError
        When bound: the output is not a vector, a reference does not match it in length or is zero
        or not finite, or `like` and `unlike` are the same to the model.
    ImageError
        When bound: a reference cannot be read.
    OutputError
        When bound: the image's embedding is NaN, infinite or zero.

    Examples
    --------
    >>> SimilarityTarget("anna.jpg", "berta.jpg")
    SimilarityTarget(like='anna.jpg', unlike='berta.jpg', output=None)
    """

    like: Reference | None = None
    unlike: Reference | None = None
    output: str | None = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the name of the output that holds the embedding.

        Raises
        ------
        TargetError
            No output is specified, and the model is not an embedder.
        """
        if self.output is not None:
            return (self.output,)
        kind = reader.kind
        if not isinstance(kind, EmbedderKind):
            raise TargetError(
                f"the model's kind is {kind.name}, and no output is known to be an embedding; "
                "specify one with output="
            )
        return kind.outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective for one image; each reference image costs one forward pass.

        Raises
        ------
        TargetError
            The output is not a vector, a reference does not match it in length or is zero or not
            finite, or `like` and `unlike` are the same to the model.
        ImageError
            A reference cannot be read.
        OutputError
            The image's embedding is NaN, infinite or zero.
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
                    f"{'the image' if self.like is None else name} and {other} have the same "
                    "embedding, so they cannot be distinguished; pass another unlike="
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
        """Return the unit vector of a reference, which has the length of the image's embedding."""
        given = _as_vector(reference)
        if given is None:
            given = _rows(context.ask(reference, (output,))[output])[0]
        if len(given) != len(own):
            raise TargetError(
                f"{name} has {len(given)} values, but the embedding {output} has {len(own)}"
            )
        length = float(np.linalg.norm(given))
        if not np.isfinite(length) or length <= _SMALLEST:
            what = "is zero and has no direction" if length <= _SMALLEST else "is NaN or infinite"
            raise TargetError(f"the embedding of {name} {what}; use another reference")
        return np.asarray(given / length)


class EmbedderKind(Kind):
    """Model that returns an embedding: one vector per image.

    Parameters
    ----------
    output
        Name of the output that holds it.
    reason
        How the output was recognised.
    """

    name = "embedder"
    family = "embedders"
    asks = ("SimilarityTarget(FILE)", "SimilarityTarget(FILE, FILE)")

    def __init__(self, output: str, reason: str) -> None:
        self._output, self.reason = output, reason
        if output == _IMAGES:
            self.family, self.preprocessing = "CLIP", _CLIP

    def outputs(self) -> tuple[str, ...]:
        """Return the name of the output that holds the embedding."""
        return (self._output,)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target of the similarity to an image or .npy file; None for itself."""
        if wanted is None:
            return SimilarityTarget()
        if isinstance(wanted, str) and is_regular(wanted):
            return SimilarityTarget(like=wanted)
        raise TargetError(
            f"target {wanted!r} is not supported: an embedder has no classes; pass an image with "
            "like=, or two with like= and unlike="
        )

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return a single entry: the embedding, with its length."""
        check_numbers(raw[self._output], self._output, finite=True)
        rows = _rows(raw[self._output])[:1]
        length = float(_lengths(rows)[0])
        details = {"unit": "value", "numbers": rows.shape[1]}
        return [
            Answer(f"length of the embedding ({rows.shape[1]} values)", length, details=details)
        ]


def find(facts: ModelFacts) -> EmbedderKind | None:
    """Recognise an embedding by its name, by an L2 normalisation, or by its length.

    A model that also returns class scores is not an embedder, unless it compares images with texts.
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
    """Return the embedder for `kind="embedder"`: the named tensor or the first vector."""
    if facts.named is not None:
        return EmbedderKind(facts.named, f"kind=embedder was specified; read from {facts.named}")
    found = find(facts)
    vectors = (each.name for each in facts.outputs if _size(each, facts) > 1)
    if not facts.is_deployed:  # its number of axes is declared, if not their sizes
        vectors = (each.name for each in facts.outputs if len(each.shape) == 2)
    name = next(vectors, None)
    if found is not None or name is None:
        return found
    return EmbedderKind(name, f"kind=embedder was specified; read from output {name}")


def _sign(output: TensorInfo, kinds: OutputKinds, facts: ModelFacts) -> str:
    """Return how an output was recognised as an embedding; empty if it was not.

    The model is run on noise only if its last operator may have normalised the vector.
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
        return "it is L2-normalised" if by_graph else "by its name"
    values = facts.values([name]).get(name)
    unit = values is not None and kinds.doubt(name, name, values).startswith(EMBEDDING)
    return "its length is 1" if unit else ""


def _size(output: TensorInfo, facts: ModelFacts) -> int:
    """Return the number of values in the vector of one image; 0 if an output is not a vector."""
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
    """Return the unit vector of the image's own embedding, values [1, D, ...]."""
    row = _rows(values)[0]
    if values.ndim < 2 or max(values.shape[1:]) != row.size or row.size < 2:
        raise TargetError(
            f"output {output} is {list(values.shape)}, not one vector [1, D] per image; "
            "specify another with output="
        )
    length = float(np.linalg.norm(row))
    if not np.isfinite(length) or length <= _SMALLEST:
        what = "zero" if length <= _SMALLEST else "NaN or infinite"
        raise OutputError(
            f"output {output} is {what} for this image; "
            "check the preprocessing (ibisa-onnx inspect) or the model file"
        )
    return np.asarray(row / length)


def _as_vector(reference: Reference) -> Doubles | None:
    """Return the values of a vector reference; None for an image."""
    values: Any = reference
    if isinstance(reference, str | os.PathLike) and Path(reference).suffix.lower() == ".npy":
        try:
            values = load_npy(reference, "reference", TargetError)
        except TargetError:
            return None  # reading it as an image raises the right error
        if values.ndim == 2 and len(values) > 1:
            raise TargetError(
                f"{Path(reference).name} holds {len(values)} vectors {list(values.shape)}; pass one"
            )
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        return None
    one = values.ndim == 1 or (values.ndim == 2 and len(values) == 1)
    return np.asarray(values, np.float64).ravel() if one else None


def _name(reference: Reference, otherwise: str) -> str:
    """Return the name of a reference: its file name, if it has one."""
    if isinstance(reference, str | os.PathLike):
        return Path(reference).name
    return (reference.name if isinstance(reference, Picture) else None) or otherwise
