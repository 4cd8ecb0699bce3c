"""All errors that this package raises on purpose.

Every message is one line: what is wrong, with which file or value, and what to do. Text quoted
from files is escaped, so messages can be logged as they are. Messages name Python arguments
(`output=NAME`), which the command line translates to its flags. A service can catch `IbisaError`
alone.
"""

from __future__ import annotations

from ibisa_onnx.escaping import escaped, shortened

_LONGEST = 1000  # characters: untrusted names and values may have any length


class IbisaError(Exception):
    """Base class of all errors of this package; its message is one line.

    Parameters
    ----------
    problem
        What is wrong.
    advice
        What to do about it, if that is not part of `problem`; `str()` joins both.

    Attributes
    ----------
    problem : str
        What is wrong, on one line.
    advice : str
        What to do about it; empty if `problem` includes it.

    Examples
    --------
    ```python
    try:
        explanation = explainer.explain(upload)
    except ibisa_onnx.ImageError as error:
        return 400, str(error)
    except ibisa_onnx.IbisaError as error:
        log.error("%s", error)
    ```
    """

    def __init__(self, problem: str = "", advice: str = "") -> None:
        self.problem, self.advice = (_one_line(text) for text in (problem, advice))
        whole = f"{self.problem}; {self.advice}" if advice else self.problem
        super().__init__(shortened(whole, _LONGEST))


class ModelError(IbisaError):
    """The model file cannot be read, opened or run, or is not an image model.

    Also raised if the model exceeds `Limits`, and for an argument that does not fit the model's
    inputs (`input=`, `extra_inputs=`, an `InputSpec`).
    """


class RemoteError(ModelError):
    """A model server cannot be reached, does not answer in time, or reports an error."""


class ProviderError(IbisaError):
    """A requested execution provider is unknown, not in this build, or failed to start."""


class ImageError(IbisaError):
    """The image cannot be read or decoded, exceeds `Limits`, or does not fit the model."""


class PreprocessingError(IbisaError):
    """The preprocessing is incomplete or contradictory, or does not fit the model's input."""


class TargetError(IbisaError):
    """The target does not exist in this model: no such class, output or kind of target."""


class AbsentTargetError(TargetError):
    """The model supports the target, but this image has no such box, region or character."""


class OutputError(IbisaError):
    """The model's outputs cannot be explained: no class scores, NaN, or class indices."""


class PredictionMismatchError(IbisaError):
    """The prediction that a service returned differs from what the explained model predicts."""


class GradientError(IbisaError):
    """The requested gradient is not available for this model."""


class UnsupportedOperatorError(GradientError):
    """An operator on the path from image to output has no gradient rule."""


class NonFiniteGradientError(GradientError):
    """The gradient is NaN or infinite for this image."""


class OptionError(IbisaError, ValueError):
    """An argument has the wrong type, is out of range, or is not one of the choices.

    Also a `ValueError`.
    """


class MetricError(IbisaError, ValueError):
    """A metric cannot use the map, region or scores it was given.

    Also a `ValueError`.
    """


class ResultError(IbisaError):
    """A result cannot be written, read back or drawn."""


class ExportError(IbisaError):
    """A trained model cannot be exported, or the exported file's outputs differ from its own."""


class MissingDependencyError(IbisaError):
    """A feature requires a package that is not installed; the message names the extra."""


class DeadlineError(IbisaError):
    """A model call was still running long after the deadline, and was ended.

    Slow models finish on their own: `Explainer.explain` returns the best map at its deadline. This
    error means that a single call did not return, or that the time of a `time_limit` expired.
    """


class OverloadError(IbisaError):
    """The queue of a scheduler or server is full; the request may be repeated later."""


def _one_line(text: str) -> str:
    """Return text as one printable line; line breaks become spaces."""
    return shortened(escaped(" ".join(text.splitlines())), _LONGEST)
