"""Settings of a distillation, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType

import numpy as np

from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import OptionError

STUDENTS = ("auto", "own", "small")
RATES = {"own": 1e-5, "small": 2e-3}
_EPOCHS = {"own": 0, "small": 12}


@dataclass(frozen=True)
class Settings:
    """How a student is fitted and evaluated.

    Attributes
    ----------
    student
        "own": the deployed file's own graph; "small": a small CNN trained from scratch; "auto": the
        own graph if possible, else a small network.
    masks
        Masks per training image; a quarter as many are applied to its mirror image.
    held_out
        Fraction of the images that are held out for evaluation, 0 or more, below 1. 0: evaluation
        uses other masks of the training images only.
    epochs
        Epochs over the training set. Default: 12 for a small network, which requires at least one,
        and 0 for the deployed graph, which is then evaluated without fitting.
    minutes
        Time limit of the fit; None: no limit. With a limit, results depend on the machine's speed.
    seed
        Seed of masks, held-out images and fit.

    Raises
    ------
    OptionError
        A value is out of range.
    """

    student: str = "auto"
    masks: int = 128
    held_out: float = 0.2
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `OptionError` if a value is out of range."""
        if self.student not in STUDENTS:
            known = ", ".join(STUDENTS)
            raise OptionError(f"student is {self.student!r}; choose from: {known}")
        for name, least in (("masks", 1), ("epochs", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | np.integer) and value >= least):
                raise OptionError(f"{name} is {value!r}; pass an integer, {least} or more")
        check_type("held_out", self.held_out, (int, float), "a number")
        check_type("minutes", self.minutes, (int, float, NoneType), "a number")
        if not 0 <= self.held_out < 1:
            raise OptionError(f"held_out is {self.held_out!r}; pass 0 or more, below 1")
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"minutes is {self.minutes!r}; pass more than 0")
        if self.student == "small":
            self.epochs_of("small")

    def epochs_of(self, kind: str) -> int:
        """Return the number of epochs for a kind of student.

        Parameters
        ----------
        kind
            "own" or "small".

        Returns
        -------
        int
            The number of epochs.

        Raises
        ------
        OptionError
            `epochs` is 0 for a small network.
        """
        epochs = _EPOCHS[kind] if self.epochs is None else self.epochs
        if kind == "small" and not epochs:
            raise OptionError("epochs is 0, but a small network must be trained; pass 1 or more")
        return epochs
