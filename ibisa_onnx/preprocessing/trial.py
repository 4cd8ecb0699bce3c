"""Ranks candidate preprocessings of a model by its predictions on a few images.

Each candidate is a preset in a channel order. Given the pixels it was trained on, a model makes
confident predictions that differ between images: the mutual information of image and prediction is
large,

    I = H(mean p) - mean H(p) = mean KL(p || mean p)   [nats]

which is the logarithm of the Inception Score (Salimans et al., arXiv 1606.03498). Presets that
differ only by an offset are distinguished by brightness: a model recognises images in any light, so
p is averaged over the image and darker and brighter copies. If the images' classes are known, their
probability is used instead.

The model is a function here, from images to probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError, OptionError, OutputError, PreprocessingError
from ibisa_onnx.io.images import Picture
from ibisa_onnx.preprocessing.resolve import spell_out
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing, prepare, unprepare

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Answer = Callable[[Floats], Doubles]
"""From images float32 [N, C, h, w] in model space to the probabilities of all classes, [N, K]."""

CURRENT = "as inferred"
"""Name of the candidate that is not a preset: the preprocessing in use."""

_ORDERS = {"RGB": "BGR", "BGR": "RGB", "RGBA": "BGRA", "BGRA": "RGBA"}
_SETTINGS = ("channel_order", "scale", "mean", "std")
# Each image is mixed with a fraction of black (0) or white (1).
_LIGHTS = ((0.0, 0.5), (1.0, 0.5), (0.0, 0.75), (1.0, 0.75))
_BEHIND = 0.5  # of the largest information: candidates with less are not tested further
_ERRORS = 3.0  # standard errors of a paired difference that separate two candidates
_FEWEST = 3  # images; fewer are never conclusive
_TINY = 1e-12


@dataclass(frozen=True)
class Trial:
    """The result of one candidate preprocessing.

    Attributes
    ----------
    preset
        Name of the preset, or `CURRENT`.
    channel_order
        Channel order of the candidate.
    spec
        Its complete preprocessing.
    information
        Mutual information of image and prediction, nats.
    sharpness
        Mean probability of the predicted class.
    agreement
        Fraction of the images predicted correctly; None if their classes are unknown.
    level
        Whether these images do not distinguish it from the first candidate.
    score
        What candidates are ranked by, averaged over darker and brighter copies of the images too:
        the probability of the right class if classes are known, else the information. None for
        candidates that fell behind before that.
    """

    preset: str
    channel_order: str
    spec: Preprocessing
    information: float
    sharpness: float
    agreement: float | None
    level: bool
    score: float | None


@dataclass(frozen=True)
class TrialRanking:
    """Candidate preprocessings, best first.

    Attributes
    ----------
    trials
        The candidates.
    pictures
        Number of images.
    passes
        Number of forward passes.
    """

    trials: tuple[Trial, ...]
    pictures: int
    passes: int

    @property
    def level(self) -> tuple[Trial, ...]:
        """The first candidate, and those that cannot be distinguished from it."""
        return tuple(trial for trial in self.trials if trial.level)

    @property
    def is_sure(self) -> bool:
        """Whether the first candidate is clearly better than all others."""
        return len(self.level) == 1


@dataclass(frozen=True)
class _Candidate:
    """A candidate with its predictions, [V, N, K], for V views of each image."""

    preset: str
    spec: Preprocessing
    tensors: Floats
    answers: Doubles

    @property
    def probabilities(self) -> Doubles:
        """The mean over the views, [N, K], or [N, K, 2] for independent classes."""
        return _distributions(self.answers.mean(0))

    def evidence(self, classes: Sequence[int] | None) -> Doubles:
        """Return each image's score, [N]: the class's probability, or information in nats."""
        if classes is not None:
            answers: Doubles = self.answers.mean(0)[np.arange(len(classes)), list(classes)]
            return answers
        p = self.probabilities
        alone = len(p) == 1  # then only its sharpness counts
        mean = np.full_like(p, 1 / p.shape[-1]) if alone else p.mean(0, keepdims=True)
        logs = np.log(np.maximum(p, _TINY)) - np.log(np.maximum(mean, _TINY))
        information: Doubles = (p * logs).reshape(len(p), -1).sum(1)
        return information


def rank_preprocessing(
    spec: Preprocessing,
    pictures: Sequence[Picture],
    answer: Answer,
    classes: Sequence[int] | None = None,
) -> TrialRanking:
    """Rank presets and channel orders by a model's predictions on a few images.

    Parameters
    ----------
    spec
        The preprocessing in use. Its size, resize mode and, if specified, channel order are
        retained.
    pictures
        One or more images; five of different things are far more conclusive than one.
    answer
        The model: called with about 15 to 50 variants of each image, those of a candidate in one
        call.
    classes
        The class of each image; None: unknown.

    Returns
    -------
    TrialRanking
        The candidates, best first.

    Raises
    ------
    OptionError
        There are no images, or not as many classes.
    OutputError
        The model returns no class scores for any candidate.
    """
    if not pictures:
        raise OptionError("no images to try preprocessing on; pass one or more")
    if classes is not None and len(classes) != len(pictures):
        raise OptionError(f"{len(classes)} classes for {len(pictures)} images; pass one per image")
    found = list(_first_round(spec, _at_input_size(pictures, spec), answer))
    passes = len(pictures) * len(found)
    evidence = [each.evidence(classes).mean() for each in found]
    open_ = [bool(each >= _BEHIND * max(evidence)) for each in evidence]
    found = [
        _in_all_lights(c, answer) if again else c for c, again in zip(found, open_, strict=True)
    ]
    passes += len(pictures) * len(_LIGHTS) * sum(open_)
    order = sorted(
        range(len(found)), key=lambda n: (not open_[n], -found[n].evidence(classes).mean())
    )
    best = found[order[0]].evidence(classes)
    trials = tuple(_trial(found[n], classes, ranked=open_[n], best=best) for n in order)
    return TrialRanking(trials, len(pictures), passes)


def _at_input_size(pictures: Sequence[Picture], spec: Preprocessing) -> list[Picture]:
    """Resize images once for all candidates; bytes remain the bytes each would get."""
    plain = replace(
        spec, channel_order="RGB", channels=0, scale=1.0, mean=(0.0,), std=(1.0,), dtype="float32"
    )
    return [
        replace(each, pixels=unprepare(prepare(each, plain).tensor, plain))
        if each.deep is None
        else each
        for each in pictures
    ]


def _candidates(spec: Preprocessing) -> Iterator[tuple[str, Preprocessing]]:
    """Yield each preset in each possible channel order, and the preprocessing in use."""
    orders = [spec.channel_order]
    if spec.is_guess("channel_order") and spec.channel_order in _ORDERS:
        orders.append(_ORDERS[spec.channel_order])
    seen = []
    for preset in PRESETS:
        usual = usual_order(preset, spec)
        for order in sorted(orders, key=lambda each: each != usual):
            try:
                candidate = replace(spec, **spell_out(preset, order, spec.channels))
            except PreprocessingError:  # bytes cannot be normalised
                continue
            seen.append(_numbers(candidate))
            yield preset, candidate
    if not spec.is_guess("mean") and _numbers(spec) not in seen:
        yield CURRENT, spec


def _numbers(spec: Preprocessing) -> tuple[Any, ...]:
    return tuple(getattr(spec, name) for name in _SETTINGS)


def _first_round(
    spec: Preprocessing, pictures: Sequence[Picture], answer: Answer
) -> Iterator[_Candidate]:
    """Predict the images as prepared by each candidate; skip candidates that cannot."""
    failures: list[ImageError | OutputError] = []
    none = True
    for preset, candidate in _candidates(spec):
        fitted = replace(candidate, guessed=("resize",))  # does not resize again
        try:
            tensors = np.concatenate(
                [prepare(p, candidate if p.deep else fitted).tensor for p in pictures]
            )
            answers = answer(tensors)
        except (ImageError, OutputError) as error:  # such as NaN from unsuitable values
            failures.append(error)
            continue
        none = False
        yield _Candidate(preset, candidate, tensors, answers[None])
    if none:
        raise failures[0]


def _in_all_lights(candidate: _Candidate, answer: Answer) -> _Candidate:
    """Also predict darker and brighter copies of the images."""
    spec = candidate.spec
    mean, std = (np.reshape(each, (-1, 1, 1)).astype(np.float32) for each in (spec.mean, spec.std))
    black = -mean / std
    white = black + np.float32(spec.scale) / std * 255
    if spec.takes_own_values:
        white = np.maximum(white, candidate.tensors.max())
    views = [candidate.answers]
    for light, share in _LIGHTS:
        mixed = (1 - share) * candidate.tensors + share * (black + light * (white - black))
        views.append(answer(mixed.astype(np.float32))[None])
    return replace(candidate, answers=np.concatenate(views))


def _distributions(probabilities: Doubles) -> Doubles:
    """Return [N, K] unchanged if classes are exclusive, else each with its complement."""
    exclusive = probabilities.shape[1] > 1 and np.allclose(probabilities.sum(1), 1, atol=0.05)
    return probabilities if exclusive else np.stack([probabilities, 1 - probabilities], axis=-1)


def _is_level(best: Doubles, other: Doubles) -> bool:
    """Return whether the mean difference is within chance."""
    difference = best - other
    if not difference.any():
        return True
    if len(difference) < _FEWEST:
        return True
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() <= _ERRORS * error)


def _trial(
    candidate: _Candidate, classes: Sequence[int] | None, *, ranked: bool, best: Doubles
) -> Trial:
    """Summarise a candidate; `best` is the evidence for the first one, [N]."""
    evidence = candidate.evidence(classes)
    plain, spec = candidate.answers[0], candidate.spec
    right = None if classes is None else float((plain.argmax(1) == np.array(classes)).mean())
    return Trial(
        candidate.preset,
        spec.channel_order,
        spec,
        float(candidate.evidence(None).mean()),
        float(np.maximum(plain, 1 - plain if plain.shape[1] == 1 else 0).max(1).mean()),
        right,
        ranked and _is_level(best, evidence),
        float(evidence.mean()) if ranked else None,
    )


def usual_order(preset: str, spec: Preprocessing) -> str:
    """Return a preset's channel order for an input whose order is not specified."""
    return str(spell_out(preset, None, spec.channels)["channel_order"])
