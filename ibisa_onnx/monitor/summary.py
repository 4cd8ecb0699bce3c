"""A monitor's state at one moment: both windows and their comparison, saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import name_of, read_text
from ibisa_onnx.io.formats import encode_json, jsonable
from ibisa_onnx.io.literals import parse_json
from ibisa_onnx.io.record import Between, Count, read_fields
from ibisa_onnx.limits import Limits
from ibisa_onnx.monitor.drift import Comparison, compare
from ibisa_onnx.monitor.observation import MEASURES, Observation

_FORMAT = 1
LARGEST = 10_000
"""Most observations of a window."""
FEWEST = 10
"""Smallest minimum: fewer values reach no usual level."""


@dataclass(frozen=True)
class Summary:
    """A reference window and a recent window of explanations, and what changed between them.

    Attributes
    ----------
    observed
        Explanations observed so far, in the windows or not.
    region
        Name of the region of interest; None without one.
    minimum
        Fewest values of a measure, in each window, that are compared.
    alpha
        Largest probability of a false alarm in any measure of one comparison.
    reference
        Observations of the reference window.
    recent
        Observations of the recent window, oldest first.
    """

    observed: Count
    region: str | None
    minimum: Annotated[int, Between(FEWEST, LARGEST)]
    alpha: Annotated[float, Between(1e-9, 0.5)]
    reference: tuple[Observation, ...]
    recent: tuple[Observation, ...]

    @cached_property
    def comparisons(self) -> Mapping[str, Comparison]:
        """Each measure of `MEASURES` compared, by name; `alpha` is divided among the measures."""
        return {
            name: compare(
                [getattr(each, name) for each in self.reference],
                [getattr(each, name) for each in self.recent],
                minimum=self.minimum,
                level=self.alpha / len(MEASURES),  # Bonferroni's correction
            )
            for name in MEASURES
        }

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the measures that drifted."""
        return tuple(name for name, each in self.comparisons.items() if each.drifted)

    def record(self) -> dict[str, Any]:
        """Return the summary as JSON data, with `comparisons` and `drifted`.

        Returns
        -------
        dict
            What `save` writes.
        """
        computed = {"comparisons": self.comparisons, "drifted": self.drifted}
        return {"format": _FORMAT, **jsonable(self), **jsonable(computed)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the summary as JSON, complete or not at all.

        Parameters
        ----------
        path
            The file; its folder is created if it does not exist.

        Raises
        ------
        ResultError
            The file cannot be written, or the path is invalid.
        """
        write_files({_path(path): encode_json(self.record())})

    @staticmethod
    def load(path: str | os.PathLike[str], limits: Limits | None = None) -> Summary:
        """Read a summary that `save` wrote.

        Every field is validated, and comparisons are computed from the observations rather than
        read, so the file may come from anyone.

        Parameters
        ----------
        path
            The file.
        limits
            Limits on file sizes; None: from the environment.

        Returns
        -------
        Summary
            The saved summary.

        Raises
        ------
        ResultError
            The file is missing, too large or damaged, or has an unsupported format version.
        """
        text = read_text(_path(path), "summary", ResultError, limits)
        try:
            record = parse_json(text)
            if not isinstance(record, dict):
                raise ValueError("it is not an object")
            version = record.pop("format", None)
            if version != _FORMAT or isinstance(version, bool):
                raise ValueError(f"its format is {version!r:.60}, and this version reads {_FORMAT}")
            for computed in ("comparisons", "drifted"):
                record.pop(computed, None)
            summary = Summary(**read_fields(Summary, record, "summary"))
            if max(len(summary.reference), len(summary.recent)) > LARGEST:
                raise ValueError(f"a window has more than {LARGEST:,} observations")
        except ValueError as error:
            raise ResultError(
                f"{name_of(path)}: the saved summary is invalid ({error}); save one again"
            ) from error
        return summary


def _path(path: Any) -> Path:
    """Return a file's path; `ResultError` if it cannot be one."""
    try:
        found = Path(path)
        if "\0" in os.fsdecode(os.fsencode(found)):
            raise ValueError("it contains a null byte")
    except (TypeError, ValueError) as error:
        raise ResultError(f"{path!r:.200} is not a valid file name: {error}") from error
    return found
