"""`Monitor`: observes explanations from any thread, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from ibisa_onnx.checks import check_count, check_type, shown
from ibisa_onnx.errors import OptionError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.literals import is_number
from ibisa_onnx.monitor.observation import Observation, observation_of
from ibisa_onnx.monitor.regions import Region, checked_region, name_of_region
from ibisa_onnx.monitor.summary import FEWEST, LARGEST, Summary

_LEVELS = (1e-9, 0.5)


class Monitor:
    """A running summary of explanations: a reference window against a recent window.

    The first `window` explanations are the reference, unless one is passed; the latest `window`
    explanations after it are compared with it. Neither maps nor images are stored. Thread-safe.

    Parameters
    ----------
    region
        Where maps should have their weight: a box (left, top, right, bottom) in fractions of the
        image, for images of any size; a boolean mask [H, W], scaled to images of its aspect ratio;
        or a function that returns either for an explanation, or None if it has no region. None:
        `outside` is not measured.
    reference
        A summary whose reference window is used; its region must be the same. None: the first
        `window` explanations.
    window
        Observations in each window, at most 10000.
    minimum
        Fewest values of a measure, in each window, that are compared; at least 10. Until then no
        measure has drifted.
    alpha
        Largest probability of a false alarm in any measure, for one comparison of a full recent
        window, at most 0.5. Windows that overlap are not independent, and each further full window
        is a further chance of a false alarm.

    Raises
    ------
    OptionError
        An argument is invalid, or the reference has another region or too few observations.

    Examples
    --------
    ```python
    monitor = Monitor(region=(0.1, 0.1, 0.9, 0.9))
    monitor.observe(explainer.explain("photo.jpg"))
    monitor.summary().drifted
    ```
    """

    def __init__(
        self,
        region: Region | None = None,
        reference: Summary | None = None,
        *,
        window: int = 200,
        minimum: int = 30,
        alpha: float = 0.01,
    ) -> None:
        self._region = checked_region(region)
        self._name = name_of_region(self._region)
        self._window, self._minimum = _sizes(window, minimum)
        if not is_number(alpha) or not _LEVELS[0] <= alpha <= _LEVELS[1]:
            raise OptionError(f"alpha is {shown(alpha)}; pass a number, 1e-9 to 0.5")
        self._alpha = float(alpha)
        self._reference: list[Observation] = []
        self._given = reference is not None
        if reference is not None:
            self._reference.extend(self._checked_reference(reference))
        self._recent: deque[Observation] = deque(maxlen=self._window)
        self._observed = 0
        self._lock = threading.Lock()

    def observe(self, explanation: Explanation | Observation | Mapping[str, Any]) -> Observation:
        """Add an explanation to the summary.

        Parameters
        ----------
        explanation
            An explanation, also a loaded one; its record, to which `outside` and `flat` may be
            added; or an `Observation` made in another process.

        Returns
        -------
        Observation
            What is kept of it.

        Raises
        ------
        OptionError
            The region does not fit the image, or its function fails. Nothing is added.
        ResultError
            `explanation` is none of these, or a field is missing or invalid. Nothing is added.
        """
        found = observation_of(explanation, self._region)
        with self._lock:
            self._observed += 1
            if not self._given and len(self._reference) < self._window:
                self._reference.append(found)
            else:
                self._recent.append(found)
        return found

    def summary(self) -> Summary:
        """Return both windows as they are now, and their comparison.

        Returns
        -------
        Summary
            A snapshot, which does not change.
        """
        with self._lock:
            reference, recent = tuple(self._reference), tuple(self._recent)
            observed = self._observed
        return Summary(observed, self._name, self._minimum, self._alpha, reference, recent)

    def _checked_reference(self, reference: Any) -> tuple[Observation, ...]:
        """Return a summary's reference window; `OptionError` if it cannot serve this monitor."""
        check_type("reference", reference, Summary, "a Summary, such as Summary.load returns")
        if reference.region != self._name:
            raise OptionError(
                f"reference was measured with region {reference.region}, not {self._name}; "
                "pass the same region, or observe a new reference"
            )
        if len(reference.reference) < self._minimum:
            raise OptionError(
                f"reference has {len(reference.reference)} observations, fewer than the minimum of "
                f"{self._minimum}; observe more, or reduce minimum"
            )
        return tuple(reference.reference)


def _sizes(window: Any, minimum: Any) -> tuple[int, int]:
    """Return the window and the minimum as integers; `OptionError` if they do not fit."""
    window, minimum = check_count("window", window), check_count("minimum", minimum)
    if window > LARGEST:
        raise OptionError(f"window is {shown(window)}; pass at most {LARGEST}")
    if not FEWEST <= minimum <= window:
        raise OptionError(
            f"minimum is {shown(minimum)} and window {window}; pass a minimum from {FEWEST} to the "
            "window"
        )
    return window, minimum
