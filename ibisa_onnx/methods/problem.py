"""What a method solves: the model, N images with their baselines, and N objectives.

`score` and `gradient` are the only ways from a method to the model. How many images a call takes,
what a fixed batch costs, and whether the images of a batch mix is known here.
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
_SAME = 0.01  # in probability; more than rounding makes of it, in half precision or in 8 bits

Doubles = npt.NDArray[np.float64]
Rows = Sequence[int] | npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class RowBaseline:
    """A baseline of an answer, and what the deployed model says of it.

    Attributes
    ----------
    name
        What it is called.
    image
        float32 [C, H, W] in model space.
    score
        The answer's probability where the whole picture is hidden.
    """

    name: str
    image: Floats
    score: float


@dataclass(frozen=True)
class Row:
    """One answer to one picture.

    Attributes
    ----------
    objective
        What is explained.
    answer
        The deployed model's outputs for the untouched picture, run alone: [1, ...] by name.
    picture, geometry
        The picture as it was given, and where its pixels fell in the model's input.
    shared
        Counts the passes that the rows of a picture share (the prediction, the fidelity check);
        None in all rows of a picture but the first.
    baselines
        The chosen one, and after it others that lose the answer too; empty where the model was not
        asked about any.
    blind
        Whether the outputs are the same for the picture and for every baseline that was tried.
    asked
        How many passes it took to settle the baselines.
    warnings
        What was done to the picture that its owner should know.
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
        """What the objective is for the untouched picture."""
        return float(checked_probability(self.objective, self.answer, 1)[0])

    def probabilities(self, raw: Raw) -> Doubles:
        """Return what the objective is in outputs [K, ...] by name, [K]; it may be NaN."""
        own = {name: raw[name] for name in self.objective.outputs}
        return _probability(self.objective, own, len(raw[self.objective.outputs[0]]))


@dataclass(frozen=True, eq=False)
class MaskGradient:
    """What was learnt at sampled masks.

    Attributes
    ----------
    values
        d score / d mask, in nats, float32 [N, h, w].
    ratio
        p(z) over p(x): what the masks left of the answers, float64 [N]; 1 where that is unknown.
    activation
        Class activation maps, float32 [N, 2, r, c], where the gradient comes with them.
    probability
        The objective where the gradient was asked, float64 [N]: of a quantised model at its float
        counterpart's outputs.
    """

    values: Floats
    ratio: Doubles
    activation: Floats | None = None
    probability: Doubles | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """N answers to be explained together.

    Attributes
    ----------
    model
        The model.
    masked
        Images and baselines, [N, C, H, W] in model space.
    rows
        The answers, N.
    blank
        float32 [C, 1, 1]: the usual mean colour in model space.
    passes
        Counts what these rows spend, but for the passes that the rows of a picture share.
    baseline_sha256
        Of the file where the baseline is a picture's; None of all others.
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
        """Height and width of the model's input."""
        return self.masked.size

    @property
    def answers(self) -> Doubles:
        """The objectives for the untouched pictures, [N]."""
        return np.array([row.probability for row in self.rows])

    @property
    def row(self) -> Row:
        """The only row; ValueError where there are several."""
        (row,) = self.rows
        return row

    @property
    def image(self) -> Floats:
        """The only image, [1, C, H, W]."""
        _ = self.row
        return self.masked.images

    def take(self, rows: Rows) -> Problem:
        """Return the problem of some of the rows, whose passes are counted apart, and here too.

        The problem of one row is itself.
        """
        if len(self) == 1:
            return self
        chosen = tuple(self.rows[each] for each in rows)
        masked, passes = self.masked.take(rows), self.passes.scope()
        return replace(self, masked=masked, rows=chosen, passes=passes)

    def with_images(self, masked: MaskedImages) -> Problem:
        """Return the same questions about other images of the same size, a forward pass each.

        Parameters
        ----------
        masked
            The images and their baselines, one for each row.
        """
        rows = [
            replace(row, answer=self.model.run(image, tuple(row.answer), self.passes), shared=None)
            for row, image in zip(self.rows, np.split(masked.images, len(self)), strict=True)
        ]
        for row in rows:
            _ = row.probability  # an answer that is none is told of here
        return replace(self, masked=masked, rows=tuple(rows))

    def sharing(self) -> Problem:
        """Return the same, in which the first row of each picture counts what its rows share."""
        rows, seen = list(self.rows), set[int]()
        for place, row in enumerate(rows):
            if id(row.picture) not in seen and row.shared is None:
                rows[place] = replace(row, shared=self.model.passes.scope())
            seen.add(id(row.picture))
        return replace(self, rows=tuple(rows))

    def spent(self) -> list[PassCount]:
        """Return the passes of each row so far; they add up to all that were spent."""
        own = self.passes.count.split(len(self.rows))
        return [
            count + row.shared.count if row.shared else count
            for count, row in zip(own, self.rows, strict=True)
        ]

    @cached_property
    def pictures(self) -> list[npt.NDArray[np.intp]]:
        """The numbers of the rows of each picture."""
        pictures = [row.picture for row in self.rows]
        firsts = [n for n, each in enumerate(pictures) if n == 0 or each is not pictures[n - 1]]
        return np.split(np.arange(len(self)), firsts[1:])

    # -- asking the model

    def score(self, images: Floats, rows: Rows | None = None) -> Doubles:
        """Return the objectives' probabilities [M] by the deployed model.

        Parameters
        ----------
        images
            float32 [M, C, H, W] in model space.
        rows
            Which row each belongs to, [M]; None: to the only one.

        Raises
        ------
        OutputError
            An output is NaN or infinite.
        """
        rows = np.zeros(len(images), np.intp) if rows is None else np.asarray(rows)
        outputs = tuple(dict.fromkeys(name for row in self.rows for name in row.objective.outputs))
        most = (
            self.model.preferred_batch if len(self) > 1 else None
        )  # what runs beside others is cut small
        raw = self.model.run(images, outputs, self.passes, most)
        _check_finite(raw)
        scores = np.empty(len(images))
        for number, row in enumerate(self.rows):
            mine = rows == number
            if mine.any():
                own = {name: values[mine] for name, values in raw.items()}
                scores[mine] = checked_probability(row.objective, own, int(mine.sum()))
        return scores

    def ask_pictures(self, images: Sequence[Floats]) -> list[tuple[Raw, int]]:
        """Ask about images of each picture, once for all its rows.

        Parameters
        ----------
        images
            float32 [K, C, H, W] for each picture, of which the first is the untouched one.

        Returns
        -------
        list of tuple
            Outputs [K, ...] by name, finite or not, and the passes that took. Where the images of a
            batch are found to mix, each is asked about again, alone.
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
        """Open a source of gradients.

        Parameters
        ----------
        source
            The source.
        rows
            Which row each mask belongs to, [M]; None: a mask for each row.

        Returns
        -------
        callable
            From masks, float32 [M, h, w] in 0..1, to what is learnt at them. Calls run side by side
            as far as the model allows, and a fixed batch is filled with other rows' masks.
        """
        return _RowGradients(self, source, np.arange(len(self)) if rows is None else rows)

    # -- what a batch does

    @property
    def fixed(self) -> int:
        """Images that share a call where the model takes no other number, else 1.

        Also 1 where they were found to mix: a call is then filled with copies of one.
        """
        return min(self.model.image.batch or 1, self.model.max_batch)

    @property
    def pair(self) -> int:
        """The fewest images that are whole pairs and whole calls."""
        return self.fixed if self.fixed % 2 == 0 else 2 * self.fixed

    def filled(self, images: int) -> int:
        """Return how many passes so many images take: a fixed batch is filled up."""
        return -(-images // self.fixed) * (self.model.image.batch or 1)

    def check_batch_independence(self) -> int:
        """Run the first image beside its baseline, where that is not known of a fixed batch.

        Returns the passes that took.
        """
        if self.model.max_batch == 1 or self.model.batch_mixes is not None:
            return 0
        ends = np.array([1, 0], np.float32).reshape(2, 1, 1, 1)
        first, batch = self.masked.take([0]).through(ends), self.model.max_batch
        taken = self.filled(len(ends))
        self.mixes(float(self.score(first, [0, 0])[0]), batch)
        return taken

    def rows_mix(self) -> bool:
        """Tell whether a fixed batch mixes its images, by the first among its baselines.

        It is found out once for each model, for one call; there is a warning where it does.
        """
        if self.model.batch_mixes is None:
            ends = np.zeros((self.fixed, 1, 1, 1), np.float32)
            ends[0] = 1
            call = self.masked.take([0]).through(ends)
            self.mixes(float(self.score(call, [0] * self.fixed)[0]), self.fixed)
        return bool(self.model.batch_mixes)

    def mixes(self, probability: float, batch: int, row: int = 0) -> bool:
        """Tell by what an untouched picture got in a batch whether the images of one mix.

        The model then runs one by one from here on. `batch` is the most images that a call took
        when it was run.
        """
        if batch == 1:
            return False
        off = abs(probability - self.rows[row].probability) > _SAME
        if self.model.image.batch is not None:
            self.model.batch_mixes = off or bool(self.model.batch_mixes)
        if off:
            self.model.run_one_by_one("gives an image other scores in a batch than alone")
        return off


class _RowGradients:
    """Masks to gradients, cut into calls of as many rows as are worth it."""

    def __init__(self, problem: Problem, source: GradientSource, rows: Rows) -> None:
        self._problem, self._rows = problem, np.asarray(rows)
        model = problem.model
        most = min(model.preferred_batch, model.max_batch)
        if problem.fixed > 1 and len(self._rows) > 1 and problem.rows_mix():
            most = 1
        calls = -(-len(self._rows) // most)
        self._calls = np.array_split(np.arange(len(self._rows)), calls)
        if model.image.batch is not None and most > 1:  # whole calls, and what is left
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
        )

    def _one_call(self, call: int, masks: Floats) -> MaskGradient:
        rows, masked = self._rows[self._calls[call]], self._open[call]
        raw, saved = masked.forward(masks[:, None])
        for values in raw.values():
            values.flags.writeable = False  # all rows' objectives read them
        told = masked.differentiated(saved) or raw
        cotangents: dict[str, list[Floats]] = {}
        ratio, probability = np.ones(len(rows)), np.ones(len(rows))
        for place, number in enumerate(rows):
            row, mine = self._problem.rows[number], {k: v[place][None] for k, v in raw.items()}
            at = {name: values[place][None] for name, values in told.items()}
            for name, cotangent in _checked_vjp(row.objective, at).items():
                cotangents.setdefault(name, []).append(cotangent)
            shown = _probability(row.objective, mine, 1)[0]
            if row.probability > 0:
                ratio[place] = shown / row.probability
            probability[place] = shown if told is raw else _probability(row.objective, at, 1)[0]
        whole = {name: np.concatenate(each) for name, each in cotangents.items()}
        gradients = masked.backward(saved, whole)[:, 0]
        gradients[~np.isfinite(ratio)] = np.nan  # of a score that is none
        return MaskGradient(gradients, ratio, masked.class_activation(saved), probability)


def checked_probability(objective: Objective, raw: Raw, count: int) -> Doubles:
    """Return an objective's probabilities, [N], once they are as they must be.

    Raises
    ------
    OutputError
        They are not one number for each row, or not finite.
    """
    values = _probability(objective, raw, count)
    if not np.isfinite(values).all():
        raise OutputError(f"{_name(objective)} gives a score that is NaN or infinite")
    if (values < 0).any():
        raise OutputError(f"{_name(objective)} gives a probability below 0")
    return values


def _probability(objective: Objective, raw: Raw, count: int) -> Doubles:
    """Return an objective's probabilities once they are [N]; they may be NaN."""
    with _told(objective):
        values = np.asarray(objective.probability(raw), np.float64)
    if values.shape != (count,):
        raise OutputError(
            f"{_name(objective)} gives scores {list(values.shape)} for {count} row(s); "
            "return one for each, [N]"
        )
    return values


def _checked_vjp(objective: Objective, raw: Raw) -> dict[str, Floats]:
    """Return the cotangents of the outputs that an objective reads, once they fit these."""
    with _told(objective):
        found = dict(objective.vjp(raw))
    for name in objective.outputs:
        if name not in found or np.shape(found[name]) != raw[name].shape:
            got = list(np.shape(found[name])) if name in found else "nothing"
            raise GradientError(
                f"the vjp of {_name(objective)} gives {got} for {name} {list(raw[name].shape)}; "
                "return a derivative of the output's shape"
            )
    return {name: np.asarray(found[name], np.float32) for name in objective.outputs}


@contextmanager
def _told(objective: Objective) -> Iterator[None]:
    """Tell of whatever goes wrong inside an objective as a user's mistake, with its cause."""
    try:
        yield
    except IbisaError:
        raise
    except Exception as error:
        why = ": ".join(filter(None, (type(error).__name__, essence(error))))
        raise OutputError(f"{_name(objective)} failed: {why}") from error


def check_described(objective: Objective) -> None:
    """Raise `OutputError` where an objective does not say what it is and what it reads."""
    with _told(objective):
        said, outputs, location = objective.describe(), objective.outputs, objective.location
        hash(objective.family)
    words = isinstance(said, dict) and all(isinstance(said.get(k), str) for k in _WORDS)
    if not words:
        raise OutputError(f"{_name(objective)}: describe() must give a kind and a caption")
    if not isinstance(outputs, tuple) or not outputs:
        raise OutputError(f"{_name(objective)} reads {outputs!r}; give a tuple of names")
    if location is not None and not _is_location(location):
        raise OutputError(
            f"{_name(objective)} lies at {location!r}; give left, top, right and bottom in 0..1"
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
    except Exception:  # describe() is a user's, and may be what failed
        return f"objective {type(objective).__name__}"


def _check_finite(raw: Raw) -> None:
    for name, values in raw.items():
        if not np.isfinite(values).all():
            raise OutputError(
                f"output {name} has NaN or infinite values for this image; "
                "check the preprocessing (ibisa-onnx inspect) or the model file"
            )
