"""The one error tree.

Every message is a single line that says what is wrong, with which file or value, and what to do
about it; what is quoted from files is escaped, so that it can be logged as it is. Arguments are
written as Python has them (`output=NAME`), which the command line turns into its flags; a service
can catch `IbisaError` alone.
"""

from __future__ import annotations

from ibisa_onnx.escaping import escaped, shortened

_LONGEST = 1000  # characters: a stranger's names and values may have any length


class IbisaError(Exception):
    """Anything that this package cannot do, in one line.

    Parameters
    ----------
    problem
        What is wrong.
    advice
        What to do about it, where that is said apart; `str()` gives both.
    """

    def __init__(self, problem: str = "", advice: str = "") -> None:
        self.problem, self.advice = (_one_line(text) for text in (problem, advice))
        whole = f"{self.problem}; {self.advice}" if advice else self.problem
        super().__init__(shortened(whole, _LONGEST))


class ModelError(IbisaError):
    """The model file cannot be read, loaded or run, or is not an image model."""


class ProviderError(IbisaError):
    """An execution provider that was asked for did not come up."""


class ImageError(IbisaError):
    """The picture cannot be read or used."""


class PreprocessingError(IbisaError):
    """The preprocessing is incomplete, contradictory or does not fit the model's input."""


class TargetError(IbisaError):
    """What should be explained does not exist in this model's outputs."""


class AbsentTargetError(TargetError):
    """What should be explained is not in this image: no such box, region or character."""


class OutputError(IbisaError):
    """The model's outputs are not what an explanation needs (no class scores, NaN, integers)."""


class GradientError(IbisaError):
    """The gradient that was asked for cannot be had."""


class UnsupportedOperatorError(GradientError):
    """An operator on the path from image to output has no gradient rule."""


class NonFiniteGradientError(GradientError):
    """The gradient is NaN or infinite on this image."""


class OptionError(IbisaError, ValueError):
    """A setting is out of its range, or not one of those there are."""


class MetricError(IbisaError, ValueError):
    """A map, a region or scores that a metric cannot use."""


class ResultError(IbisaError):
    """A result cannot be written or read back."""


class ExportError(IbisaError):
    """A trained model cannot be exported, or the exported file answers otherwise than it does."""


class MissingDependencyError(IbisaError):
    """A feature needs a package that is not installed; the message names the extra."""


class DeadlineError(IbisaError):
    """The model had not answered long after the deadline, and was ended."""


def _one_line(text: str) -> str:
    """Return text as one line that can be shown; several lines are joined."""
    return shortened(escaped(" ".join(text.splitlines())), _LONGEST)
