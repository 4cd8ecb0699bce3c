"""Result of a distillation: a student, and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibisa_exporters.distillation.agreement import Agreement
from ibisa_exporters.surrogate import surrogate_graph, write_surrogate
from ibisa_exporters.trained import TrainedModel
from ibisa_onnx.errors import GradientError
from ibisa_onnx.io.atomic import staged_folder


@dataclass(frozen=True)
class Distilled:
    """A student, and its evaluation.

    Attributes
    ----------
    student
        Module from images float32 [N, C, H, W] in model space to raw scores [N, K].
    shape
        Channels, height and width of its images.
    model
        Name of the deployed model.
    sha256, graph_sha256
        Digests of the deployed model, with and without its metadata; None if it has none.
    kind
        "own" (the deployed graph) or "small" (a small network).
    reason
        Why it is not the deployed graph; empty if it is.
    seen
        Agreement on other masks of the training images.
    unseen
        Agreement on held-out images; None if there are none.
    queries
        Number of images the deployed model was queried on.
    steps
        Number of optimisation steps.
    """

    student: nn.Module
    shape: tuple[int, int, int]
    model: str
    sha256: str | None
    graph_sha256: str | None
    kind: str
    reason: str
    seen: Agreement
    unseen: Agreement | None
    queries: int
    steps: int

    @property
    def certified(self) -> bool:
        """Whether its agreement is sufficient on all evaluated images."""
        return self.seen.holds and (self.unseen is None or self.unseen.holds)

    @property
    def figures(self) -> str:
        """Its agreement, in one line."""
        known = "training images" if self.steps else "not fitted, evaluation images"
        seen = f"{known}: {self.seen}"
        return seen if self.unseen is None else f"{seen}; held-out: {self.unseen}"

    @property
    def facts(self) -> dict[str, Any]:
        """Metadata embedded in the file, as plain data."""
        return {
            "version": 1,
            "model": self.model,
            "model_sha256": self.sha256,
            "graph_sha256": self.graph_sha256,
            "student": self.kind,
            "certified": self.certified,
            "seen": self.seen.to_dict(),
            "unseen": None if self.unseen is None else self.unseen.to_dict(),
            "queries": self.queries,
            "steps": self.steps,
        }

    def check(self) -> None:
        """Raise `GradientError` if it is not certified."""
        if not self.certified:
            raise GradientError(self._fault)

    @property
    def _fault(self) -> str:
        """Why it is not certified, and what to do."""
        if self.seen.unknown or (self.unseen is not None and self.unseen.unknown):
            which = "images" if self.seen.unknown else "held-out images"
            return (
                f"{self.model} predicts the same under every mask of the {which}, so nothing can "
                "be learned from them; use images it classifies with confidence, and check "
                "preprocessing="
            )
        more = "use more images, masks= or epochs=" if self.steps else "pass epochs= to fit it"
        return (
            f"surrogate rejected: agreement with {self.model} is below the threshold "
            f"({self.figures}); {more}"
        )

    def save(self, path: Path) -> None:
        """Write the student as a surrogate file, verified and atomically.

        Afterwards the student is on the CPU, in evaluation mode.

        Parameters
        ----------
        path
            The file: a `torch.export` program if it ends in `.pt2`, else an ONNX file.

        Raises
        ------
        ExportError
            torch cannot write the file, or its scores or gradient differ from the student's.
        ResultError
            The file cannot be written.
        """
        with staged_folder(path.parent) as stage:
            write_surrogate(self._network(), stage / path.name, self.facts)

    def to_bytes(self) -> bytes:
        """Return the student as an ONNX file of up to 2 GB.

        Afterwards the student is on the CPU, in evaluation mode.

        Returns
        -------
        bytes
            The ONNX file.

        Raises
        ------
        ExportError
            torch cannot export the student.
        """
        graph = surrogate_graph(self._network(), self.facts)
        return bytes(graph.SerializeToString(deterministic=True))

    def _network(self) -> TrainedModel:
        return TrainedModel("student", self.student.cpu().eval(), torch.zeros(1, *self.shape))
