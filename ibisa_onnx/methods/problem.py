"""What a method solves: a model, N images with baselines, and N objectives.

Methods reach the model through `score` and `gradient` only. How many images a call holds, what a
fixed batch costs, and whether a batch mixes its images is handled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError, IbisaError, OutputError
from ibisa_onnx.gradients.base import GradientSource, Raw
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.io.images import Picture
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.passes import PassCount, PassCounter
from ibisa_onnx.preprocessing.geometry import Geometry
from ibisa_onnx.targets.base import Objective

_WORDS = ("kind", "caption")
_SAME = 0.01  # in probability; above the rounding of half precision and 8 bits

Doubles = npt.NDArray[np.float64]
Rows = Sequence[int] | npt.NDArray[np.intp]
Reading = Callable[[Objective, Raw, int], Doubles]
"""Numbers [N] of an objective in outputs of N rows."""


@dataclass(frozen=True, eq=False)
class RowBaseline:
    """Baseline of an image, and the deployed model's score for it.

    Attributes
    ----------
    name
        Name of the baseline.
    image
        float32 [C, H, W] in model space.
    score
        Probability of the objective for the baseline, that is, with the whole image masked.
    level
        Its score for the baseline, in nats.
    """

    name: str
    image: Floats
    score: float
    level: float


@dataclass(frozen=True)
class Row:
    """One objective for one image.

    Attributes
    ----------
    objective
        The objective.
    answer
        Outputs of the deployed model for the unmasked image, run alone: [1, ...] by name.
    picture, geometry
        Original image, and the position of its pixels in the model input.
    shared
        Counts the passes that the rows of an image share (prediction, fidelity check); None for all
        rows of an image but the first.
    baselines
        Chosen baseline, followed by others that lose the prediction too; empty if none were scored.
    blind
        Whether the outputs are the same for the image and for every baseline tried.
    asked
        Passes spent to choose the baselines.
    warnings
        Warnings about what was done to the image.
    """

    objective: Objective
    answer: Raw
    picture: Picture
    geometry: Geometry
    shared: PassCounter | None = None
    baselines: tuple[RowBaseline, ...] = ()
    blind: bool = False
    asked: int = 0
    warnings: tuple[str, ...] = ()

    @cached_property
    def probability(self) -> float:
        """Probability of the objective for the unmasked image."""
        return float(checked_probability(self.objective, self.answer, 1)[0])

    def scores(self, raw: Raw) -> Doubles:
        """Return the objective's score in outputs [K, ...] by name, [K]; it may be NaN."""
        own = {name: raw[name] for name in self.objective.outputs}
        return _score(self.objective, own, len(raw[self.objective.outputs[0]]))

    def probabilities(self, raw: Raw) -> Doubles:
        """Return the objective's probability in outputs [K, ...] by name, [K]; it may be NaN."""
        own = {name: raw[name] for name in self.objective.outputs}
        return _probability(self.objective, own, len(raw[self.objective.outputs[0]]))


@dataclass(frozen=True, eq=False)
class MaskGradient:
    """Gradient and scores at sampled masks.

    Attributes
    ----------
    values
        d score / d mask, in nats, float32 [N, h, w].
    ratio
        p(z) / p(x): the fraction of the probability that the mask retains, float64 [N]; 1 if
        unknown.
    activation
        Class activation maps, float32 [N, 2, r, c], if the gradient source provides them.
    probability
        Probability of the objective where the gradient was taken, float64 [N]: for a quantised
        model, from its float counterpart's outputs.
    score
        The score there, in nats, float64 [N]: the log of the probability, or what an objective uses
        in its place.
    """

    values: Floats
    ratio: Doubles
    activation: Floats | None = None
    probability: Doubles | None = None
    score: Doubles | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """N objectives to be explained together.

    Attributes
    ----------
    model
        The model.
    masked
        Images and baselines, [N, C, H, W] in model space.
    rows
        The N rows.
    blank
        float32 [C, 1, 1]: the default mean colour in model space.
    passes
        Counts the passes of these rows, except those shared by the rows of an image.
    baseline_sha256
        Hash of the baseline's image file; None for all other baselines.
    """

    model: ImageModel
    masked: MaskedImages
    rows: tuple[Row, ...]
    blank: Floats
    passes: PassCounter
    baseline_sha256: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model input."""
        return self.masked.size

    @property
    def answers(self) -> Doubles:
        """Probabilities of the objectives for the unmasked images, [N]."""
        return np.array([row.probability for row in self.rows])

    @property
    def row(self) -> Row:
        """The only row; ValueError if there are several."""
        (row,) = self.rows
        return row

    @property
    def image(self) -> Floats:
        """The only image, [1, C, H, W]."""
        _ = self.row
        return self.masked.images

    def take(self, rows: Rows) -> Problem:
        """Return a problem of some of the rows; its passes are also counted here.

        For a problem of a single row, return the problem itself.
        """
        if len(self) == 1:
            return self
        chosen = tuple(self.rows[each] for each in rows)
        masked, passes = self.masked.take(rows), self.passes.scope()
        return replace(self, masked=masked, rows=chosen, passes=passes)

    def with_images(self, masked: MaskedImages) -> Problem:
        """Return the same problem for other images of the same size; one forward pass each.

        Parameters
        ----------
        masked
            Images and their baselines, one per row.
        """
        rows = [
            replace(row, answer=self.model.run(image, tuple(row.answer), self.passes), shared=None)
            for row, image in zip(self.rows, np.split(masked.images, len(self)), strict=True)
        ]
        for row in rows:
            _ = row.probability  # raises now if it is invalid
        return replace(self, masked=masked, rows=tuple(rows))

    def sharing(self) -> Problem:
        """Return the same problem, whose first row of each image counts what its rows share."""
        rows, seen = list(self.rows), set[int]()
        for place, row in enumerate(rows):
            if id(row.picture) not in seen and row.shared is None:
                rows[place] = replace(row, shared=self.model.passes.scope())
            seen.add(id(row.picture))
        return replace(self, rows=tuple(rows))

    def spent(self) -> list[PassCount]:
        """Return the passes of each row so far, which add up to all passes spent."""
        own = self.passes.count.split(len(self.rows))
        return [
            count + row.shared.count if row.shared else count
            for count, row in zip(own, self.rows, strict=True)
        ]

    @cached_property
    def pictures(self) -> list[npt.NDArray[np.intp]]:
        """Indices of the rows of each image."""
        pictures = [row.picture for row in self.rows]
        firsts = [n for n, each in enumerate(pictures) if n == 0 or each is not pictures[n - 1]]
        return np.split(np.arange(len(self)), firsts[1:])

    # -- running the model

    def score(self, images: Floats, rows: Rows | None = None) -> Doubles:
        """Return the objectives' probabilities, [M], under the deployed model.

        Parameters
        ----------
        images
            float32 [M, C, H, W] in model space.
        rows
            Row of each image, [M]; None for the only row.

        Raises
        ------
        OutputError
            An output is NaN or infinite.
        """
        (scores,) = self._read(images, rows, checked_probability)
        return np.asarray(scores)

    def probability_and_score(self, images: Floats, rows: Rows) -> Doubles:
        """Return the objectives' probabilities and scores, [2, M]; see `score` for the rest."""
        return self._read(images, rows, checked_probability, _score)

    def _read(self, images: Floats, rows: Rows | None, *readings: Reading) -> Doubles:
        """Run the model, and return what each reading makes of its outputs, [readings, M]."""
        rows = np.zeros(len(images), np.intp) if rows is None else np.asarray(rows)
        outputs = tuple(dict.fromkeys(name for row in self.rows for name in row.objective.outputs))
        most = (
            self.model.preferred_batch if len(self) > 1 else None
        )  # smaller calls run concurrently
        raw = self.model.run(images, outputs, self.passes, most)
        _check_finite(raw)
        found = np.empty((len(readings), len(images)))
        for number, row in enumerate(self.rows):
            mine = rows == number
            if mine.any():
                own = {name: values[mine] for name, values in raw.items()}
                for place, read in enumerate(readings):
                    found[place, mine] = read(row.objective, own, int(mine.sum()))
        return found

    def ask_pictures(self, images: Sequence[Floats]) -> list[tuple[Raw, int]]:
        """Run the model on several versions of each image, once for all its rows.

        Parameters
        ----------
        images
            float32 [K, C, H, W] for each image; the first is the unmasked one.

        Returns
        -------
        list of tuple
            Outputs [K, ...] by name, finite or not, and the passes spent. If a batch is found to
            mix its images, each is run again on its own.
        """

        def ask(number: int) -> tuple[Raw, int]:
            group, shown = self.pictures[number], images[number]
            objectives = [self.rows[row].objective for row in group]
            outputs = tuple(dict.fromkeys(name for each in objectives for name in each.outputs))
            passes = self.rows[group[0]].shared or self.passes
            batch, taken = self.model.max_batch, self.filled(len(shown))
            raw = self.model.run(shown, outputs, passes)
            first = int(group[0])
            if self.mixes(float(self.rows[first].probabilities(raw)[0]), batch, first):
                raw = self.model.run(shown, outputs, passes)
                taken += self.filled(len(shown))
            return raw, taken

        return self.model.map_concurrently(ask, range(len(self.pictures)))

    def gradient(
        self, source: GradientSource, rows: Rows | None = None
    ) -> Callable[[Floats], MaskGradient]:
        """Open a source of gradients for these rows.

        Parameters
        ----------
        source
            The source.
        rows
            Row of each mask, [M]; None for one mask per row.

        Returns
        -------
        callable
            Maps masks, float32 [M, h, w] in 0..1, to gradients. Calls run concurrently as far as
            the model allows; a fixed batch is filled with masks of other rows.
        """
        return _RowGradients(self, source, np.arange(len(self)) if rows is None else rows)

    # -- batches

    @property
    def fixed(self) -> int:
        """Images per call of a model with a fixed batch; otherwise 1.

        Also 1 if the batch was found to mix its images: calls are then filled with copies of one.
        """
        return min(self.model.image.batch or 1, self.model.max_batch)

    @property
    def pair(self) -> int:
        """Smallest number of images that makes whole pairs and whole calls."""
        return self.fixed if self.fixed % 2 == 0 else 2 * self.fixed

    def filled(self, images: int) -> int:
        """Return how many passes this many images cost: a fixed batch is filled up."""
        return -(-images // self.fixed) * (self.model.image.batch or 1)

    def check_batch_independence(self) -> int:
        """Find out whether a fixed batch mixes its images, unless known, by image and baseline.

        Returns the passes spent.
        """
        if self.model.max_batch == 1 or self.model.batch_mixes is not None:
            return 0
        ends = np.array([1, 0], np.float32).reshape(2, 1, 1, 1)
        first, batch = self.masked.take([0]).through(ends), self.model.max_batch
        taken = self.filled(len(ends))
        self.mixes(float(self.score(first, [0, 0])[0]), batch)
        return taken

    def rows_mix(self) -> bool:
        """Return whether a fixed batch mixes its images, by running the first among its baselines.

        This takes one call per model; there is a warning if it does.
        """
        if self.model.batch_mixes is None:
            ends = np.zeros((self.fixed, 1, 1, 1), np.float32)
            ends[0] = 1
            call = self.masked.take([0]).through(ends)
            self.mixes(float(self.score(call, [0] * self.fixed)[0]), self.fixed)
        return bool(self.model.batch_mixes)

    def mixes(self, probability: float, batch: int, row: int = 0) -> bool:
        """Return whether a batch mixes its images, judging by an unmasked image's score in a batch.

        If so, the model runs images one by one from now on. `batch` is the largest number of images
        that a call held.
        """
        if batch == 1:
            return False
        off = abs(probability - self.rows[row].probability) > _SAME
        if self.model.image.batch is not None:
            self.model.batch_mixes = off or bool(self.model.batch_mixes)
        if off:
            self.model.run_one_by_one("scores an image differently in a batch than alone")
        return off


class _RowGradients:
    """Maps masks to gradients, in calls of as many rows as is efficient."""

    def __init__(self, problem: Problem, source: GradientSource, rows: Rows) -> None:
        self._problem, self._rows = problem, np.asarray(rows)
        model = problem.model
        most = min(model.preferred_batch, model.max_batch)
        if problem.fixed > 1 and len(self._rows) > 1 and problem.rows_mix():
            most = 1
        calls = -(-len(self._rows) // most)
        self._calls = np.array_split(np.arange(len(self._rows)), calls)
        if model.image.batch is not None and most > 1:  # full calls, and a remainder
            self._calls = np.split(np.arange(len(self._rows)), range(most, len(self._rows), most))
        opened = source(problem.masked, problem.passes)
        self._open = [opened.take(self._rows[call]) for call in self._calls]

    def __call__(self, masks: Floats) -> MaskGradient:
        """Return the gradients at masks [M, h, w]."""
        found = self._problem.model.map_concurrently(
            lambda call: self._one_call(call, masks[self._calls[call]]), range(len(self._calls))
        )
        activations = [each.activation for each in found if each.activation is not None]
        return MaskGradient(
            np.concatenate([each.values for each in found]),
            np.concatenate([each.ratio for each in found]),
            np.concatenate(activations) if activations else None,
            np.concatenate([each.probability for each in found if each.probability is not None]),
            np.concatenate([each.score for each in found if each.score is not None]),
        )

    def _one_call(self, call: int, masks: Floats) -> MaskGradient:
        rows, masked = self._rows[self._calls[call]], self._open[call]
        raw, saved = masked.forward(masks[:, None])
        for values in raw.values():
            values.flags.writeable = False  # shared by all rows' objectives
        told = masked.differentiated(saved) or raw
        cotangents: dict[str, list[Floats]] = {}
        ratio, probability, score = np.ones((3, len(rows)))
        for place, number in enumerate(rows):
            row, mine = self._problem.rows[number], {k: v[place][None] for k, v in raw.items()}
            at = {name: values[place][None] for name, values in told.items()}
            for name, cotangent in _checked_vjp(row.objective, at).items():
                cotangents.setdefault(name, []).append(cotangent)
            shown = _probability(row.objective, mine, 1)[0]
            if row.probability > 0:
                ratio[place] = shown / row.probability
            probability[place] = shown if told is raw else _probability(row.objective, at, 1)[0]
            score[place] = _score(row.objective, at, 1)[0]
        whole = {name: np.concatenate(each) for name, each in cotangents.items()}
        gradients = masked.backward(saved, whole)[:, 0]
        gradients[~np.isfinite(ratio)] = np.nan  # the score is not a number
        return MaskGradient(gradients, ratio, masked.class_activation(saved), probability, score)


def checked_probability(objective: Objective, raw: Raw, count: int) -> Doubles:
    """Return an objective's probabilities, [N], after validation.

    Raises
    ------
    OutputError
        They are not one number per row, or not finite, or negative.
    """
    values = _probability(objective, raw, count)
    if not np.isfinite(values).all():
        raise OutputError(f"{_name(objective)} returned a score that is NaN or infinite")
    if (values < 0).any():
        raise OutputError(f"{_name(objective)} returned a probability below 0")
    return values


def _probability(objective: Objective, raw: Raw, count: int) -> Doubles:
    """Return an objective's probabilities, checked to be [N]; they may be NaN."""
    with _told(objective):
        values = np.asarray(objective.probability(raw), np.float64)
    return _one_per_row(objective, values, count)


def _score(objective: Objective, raw: Raw, count: int) -> Doubles:
    """Return an objective's scores, checked to be [N]; they may be NaN or infinite."""
    with _told(objective), np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(objective.score(raw), np.float64)
    return _one_per_row(objective, values, count)


def _one_per_row(objective: Objective, values: Doubles, count: int) -> Doubles:
    if values.shape != (count,):
        raise OutputError(
            f"{_name(objective)} returned scores {list(values.shape)} for {count} row(s); "
            "return one per row, [N]"
        )
    return values


def _checked_vjp(objective: Objective, raw: Raw) -> dict[str, Floats]:
    """Return the gradients of the outputs that an objective reads, with their shapes checked."""
    with _told(objective):
        found = dict(objective.vjp(raw))
    for name in objective.outputs:
        if name not in found or np.shape(found[name]) != raw[name].shape:
            got = list(np.shape(found[name])) if name in found else "nothing"
            raise GradientError(
                f"the vjp of {_name(objective)} returned {got} for {name} {list(raw[name].shape)}; "
                "return a gradient of the output's shape"
            )
    return {name: np.asarray(found[name], np.float32) for name in objective.outputs}


@contextmanager
def _told(objective: Objective) -> Iterator[None]:
    """Report any exception inside an objective as an `OutputError`, with its cause."""
    try:
        yield
    except IbisaError:
        raise
    except Exception as error:
        why = ": ".join(filter(None, (type(error).__name__, essence(error))))
        raise OutputError(f"{_name(objective)} failed: {why}") from error


def check_described(objective: Objective) -> None:
    """Raise `OutputError` if an objective's description, outputs or location are invalid."""
    with _told(objective):
        said, outputs, location = objective.describe(), objective.outputs, objective.location
        hash(objective.family)
    words = isinstance(said, dict) and all(isinstance(said.get(k), str) for k in _WORDS)
    if not words:
        raise OutputError(f"{_name(objective)}: describe() must return a kind and a caption")
    if not isinstance(outputs, tuple) or not outputs:
        raise OutputError(f"{_name(objective)} has outputs {outputs!r}; return a tuple of names")
    if location is not None and not _is_location(location):
        raise OutputError(
            f"{_name(objective)} has location {location!r}; return left, top, right, bottom in 0..1"
        )


def _is_location(location: Any) -> bool:
    try:
        left, top, right, bottom = map(float, location)
    except (TypeError, ValueError):
        return False
    return 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1


def _name(objective: Objective) -> str:
    try:
        return f"objective {objective.describe()['caption']!r}"
    except Exception:  # describe() is user code, and may be what failed
        return f"objective {type(objective).__name__}"


def _check_finite(raw: Raw) -> None:
    for name, values in raw.items():
        if not np.isfinite(values).all():
            raise OutputError(
                f"output {name} has NaN or infinite values on this input; "
                "check the preprocessing (ibisa-onnx inspect) or the model file"
            )
