"""Which preprocessing a model was made for, judged by what it makes of a few pictures.

Each candidate is a preset in a colour order. A model that gets the pixels it was trained on gives
sharp answers, and different ones to different pictures: the mutual information of picture and
answer is large,

    I = H(mean p) - mean H(p) = mean KL(p || mean p)   [nats]

which is the logarithm of the Inception Score (Salimans et al., arXiv 1606.03498). Presets that
differ by an offset alone are told apart by brightness: a model knows its pictures in all lights, so
p is the mean over a picture and the same darker and brighter. Where the pictures' classes are
known, their probability decides instead.

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
"""What a candidate is called that is no preset: the preprocessing that is in use."""

_ORDERS = {"RGB": "BGR", "BGR": "RGB", "RGBA": "BGRA", "BGRA": "RGBA"}
_SETTINGS = ("channel_order", "scale", "mean", "std")
# Each picture is mixed with black (0) or white (1), with that share of it.
_LIGHTS = ((0.0, 0.5), (1.0, 0.5), (0.0, 0.75), (1.0, 0.75))
_BEHIND = 0.5  # of the largest information: what has less is not asked again
_ERRORS = 3.0  # standard errors of a paired difference that tell two candidates apart
_FEWEST = 3  # pictures, of which less tell nothing for sure
_TINY = 1e-12


@dataclass(frozen=True)
class Trial:
    """What a model made of the pictures, prepared in one way.

    Attributes
    ----------
    preset, channel_order
        The candidate; `preset` may be `CURRENT`.
    spec
        All of its preprocessing.
    information
        Mutual information of picture and answer, nats.
    sharpness
        The mean probability of the likeliest class.
    agreement
        The share of the pictures whose own class is the likeliest; None where classes are unknown.
    level
        Whether it cannot be told from the first by these pictures.
    """

    preset: str
    channel_order: str
    spec: Preprocessing
    information: float
    sharpness: float
    agreement: float | None
    level: bool


@dataclass(frozen=True)
class TrialRanking:
    """Candidates, the best first; and how many pictures and forward passes say so."""

    trials: tuple[Trial, ...]
    pictures: int
    passes: int

    @property
    def level(self) -> tuple[Trial, ...]:
        """The first, and those that cannot be told from it."""
        return tuple(trial for trial in self.trials if trial.level)

    @property
    def is_sure(self) -> bool:
        """Whether the first stands apart from all others."""
        return len(self.level) == 1


@dataclass(frozen=True)
class _Candidate:
    """One way to prepare pictures, and the answers to it, [V, N, K], of V views of each."""

    preset: str
    spec: Preprocessing
    tensors: Floats
    answers: Doubles

    @property
    def probabilities(self) -> Doubles:
        """The mean over the views, [N, K], or [N, K, 2] of classes that stand each for itself."""
        return _distributions(self.answers.mean(0))

    def evidence(self, classes: Sequence[int] | None) -> Doubles:
        """What each picture says for it, [N]: the class's probability, or information in nats."""
        if classes is not None:
            answers: Doubles = self.answers.mean(0)[np.arange(len(classes)), list(classes)]
            return answers
        p = self.probabilities
        alone = len(p) == 1  # then nothing but its sharpness speaks
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
    """Rank presets and colour orders by what a model makes of pictures.

    Parameters
    ----------
    spec
        The preprocessing that is in use. Size, resizing and, where it was not guessed, the channel
        order are kept.
    pictures
        One or more; five of different things say far more than one.
    answer
        The model: some 15 to 50 images for each picture are put to it, those of a candidate in one
        call.
    classes
        The class of each picture; None: not known.

    Raises
    ------
    OptionError
        There are no pictures, or not as many classes.
    OutputError
        The model gives no class scores, whatever the candidate.
    """
    if not pictures:
        raise OptionError("there are no pictures to try preprocessing on; give one or more")
    if classes is not None and len(classes) != len(pictures):
        raise OptionError(f"there are {len(classes)} classes for {len(pictures)} pictures")
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
    trials = tuple(
        _trial(found[n], classes, level=open_[n] and _is_level(best, found[n].evidence(classes)))
        for n in order
    )
    return TrialRanking(trials, len(pictures), passes)


def _at_input_size(pictures: Sequence[Picture], spec: Preprocessing) -> list[Picture]:
    """Resize pictures once for all candidates; bytes stay the bytes that each would get."""
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
    """Yield each preset in each colour order that the input can take, and what is in use."""
    orders = [spec.channel_order]
    if spec.is_guess("channel_order") and spec.channel_order in _ORDERS:
        orders.append(_ORDERS[spec.channel_order])
    seen = []
    for preset in PRESETS:
        usual = usual_order(preset, spec)
        for order in sorted(orders, key=lambda each: each != usual):
            try:
                candidate = replace(spec, **spell_out(preset, order, spec.channels))
            except PreprocessingError:  # bytes cannot be normalized
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
    """Ask about the pictures as each candidate prepares them; leave out those that it cannot."""
    failures: list[ImageError | OutputError] = []
    none = True
    for preset, candidate in _candidates(spec):
        fitted = replace(candidate, guessed=("resize",))  # those at the input's size stay so
        try:
            tensors = np.concatenate(
                [prepare(p, candidate if p.deep else fitted).tensor for p in pictures]
            )
            answers = answer(tensors)
        except (ImageError, OutputError) as error:  # NaN, say, of values that it was not made for
            failures.append(error)
            continue
        none = False
        yield _Candidate(preset, candidate, tensors, answers[None])
    if none:
        raise failures[0]


def _in_all_lights(candidate: _Candidate, answer: Answer) -> _Candidate:
    """Ask about the pictures darker and brighter, too."""
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
    """Return [N, K] as it is where classes exclude each other, else each with its complement."""
    exclusive = probabilities.shape[1] > 1 and np.allclose(probabilities.sum(1), 1, atol=0.05)
    return probabilities if exclusive else np.stack([probabilities, 1 - probabilities], axis=-1)


def _is_level(best: Doubles, other: Doubles) -> bool:
    """Tell whether the mean of one is not above the other's by more than chance explains."""
    difference = best - other
    if not difference.any():
        return True
    if len(difference) < _FEWEST:
        return True
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() <= _ERRORS * error)


def _trial(candidate: _Candidate, classes: Sequence[int] | None, *, level: bool) -> Trial:
    """Sum up a candidate."""
    plain, spec = candidate.answers[0], candidate.spec
    right = None if classes is None else float((plain.argmax(1) == np.array(classes)).mean())
    return Trial(
        candidate.preset,
        spec.channel_order,
        spec,
        float(candidate.evidence(None).mean()),
        float(np.maximum(plain, 1 - plain if plain.shape[1] == 1 else 0).max(1).mean()),
        right,
        level,
    )


def usual_order(preset: str, spec: Preprocessing) -> str:
    """Return the channel order that a preset has for an input where none is said."""
    return str(spell_out(preset, None, spec.channels)["channel_order"])
