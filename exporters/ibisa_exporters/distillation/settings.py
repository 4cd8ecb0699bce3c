"""How a student is fitted: what may be chosen, and what is chosen unless it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ibisa_onnx.errors import OptionError

STUDENTS = ("auto", "own", "small")
RATES = {"own": 1e-5, "small": 2e-3}
_EPOCHS = {"own": 0, "small": 12}


@dataclass(frozen=True)
class Settings:
    """How a student is fitted.

    Attributes
    ----------
    student
        "own", the deployed file's own graph; "small", a small network that knows nothing yet;
        "auto": the former where it can be had.
    masks
        Of each picture in the training set; a quarter as many are put on its mirror image.
    held_out
        Share of the pictures that the student is not fitted to, but judged by. 0: it is judged by
        other masks of the same pictures alone.
    epochs
        Times over the training set; None: 12, and none for the deployed graph itself, which is then
        judged as it is. A small network needs one.
    minutes
        The most that the fit takes; None: as long as the epochs take. Without it the student is
        the same each time, on one machine.
    seed
        Of masks, held-out pictures and fit.
    """

    student: str = "auto"
    masks: int = 128
    held_out: float = 0.2
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `OptionError` where a value is out of its range."""
        if self.student not in STUDENTS:
            known = ", ".join(STUDENTS)
            raise OptionError(f"student is {self.student!r}; choose from: {known}")
        for name, least in (("masks", 1), ("epochs", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | np.integer) and value >= least):
                raise OptionError(f"{name} is {value!r}; give a whole number, {least} or more")
        if not 0 <= self.held_out < 1:
            raise OptionError(f"held_out is {self.held_out!r}; give 0 or more, below 1")
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"minutes is {self.minutes!r}; give more than 0")
        if self.student == "small":
            self.epochs_of("small")

    def epochs_of(self, kind: str) -> int:
        """Return how many a student of a kind is fitted for.

        Raises
        ------
        OptionError
            A small network would learn nothing.
        """
        epochs = _EPOCHS[kind] if self.epochs is None else self.epochs
        if kind == "small" and not epochs:
            raise OptionError("epochs is 0, and a small network knows nothing yet; give 1 or more")
        return epochs
