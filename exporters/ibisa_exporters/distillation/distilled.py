"""What comes of a distillation: a student, and what is known of it."""

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
    """A student, and what is known of it.

    Attributes
    ----------
    student
        Takes images float32 [N, C, H, W] in model space and returns raw scores [N, K].
    shape
        Channels, height and width of its images.
    model
        What the deployed model is called.
    sha256, graph_sha256
        The deployed model's digest, with its metadata and without; None where it has none.
    kind
        "own" or "small".
    reason
        Why it is not the deployed graph; else empty.
    seen, unseen
        Its agreement on other masks of the pictures it was fitted to, and on pictures it was not
        fitted to; None where none were held out.
    queries
        Images that the deployed model was asked about.
    steps
        Of the fit.
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
        """Whether it agrees well enough wherever it was judged."""
        return self.seen.holds and (self.unseen is None or self.unseen.holds)

    @property
    def figures(self) -> str:
        """Its agreement in words."""
        known = "on pictures it was fitted to" if self.steps else "unfitted,"
        seen = f"{known} {self.seen}"
        return seen if self.unseen is None else f"{seen}; on others {self.unseen}"

    @property
    def facts(self) -> dict[str, Any]:
        """What travels in the file, plain data."""
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
        """Raise `GradientError` where it is not certified."""
        if not self.certified:
            raise GradientError(self._fault)

    @property
    def _fault(self) -> str:
        """Why it is not certified, and what to do."""
        if self.seen.unknown or (self.unseen is not None and self.unseen.unknown):
            which = "the pictures" if self.seen.unknown else "the held-out pictures"
            return (
                f"{self.model} answers the same under every mask of {which}, so that nothing can "
                "be learned from them; give pictures of which it is sure, and see that it gets "
                "them as it expects (preprocessing=)"
            )
        more = "more pictures, masks= or epochs=" if self.steps else "epochs= to fit it"
        agrees = f"the surrogate agrees too little with {self.model}: {self.figures}"
        return f"{agrees}; give {more}"

    def save(self, path: Path) -> None:
        """Write it as a surrogate, complete or not at all, once the file is seen to say the same.

        The student is on the CPU after that, at rest.

        Parameters
        ----------
        path
            An ONNX file; a program of `torch.export` where it ends in `.pt2`.

        Raises
        ------
        ExportError
            torch cannot write it, or what it wrote answers otherwise.
        ResultError
            The file cannot be written.
        """
        with staged_folder(path.parent) as stage:
            write_surrogate(self._network(), stage / path.name, self.facts)

    def to_bytes(self) -> bytes:
        """Return its ONNX file, of up to 2 GB; the student is on the CPU after that, at rest."""
        graph = surrogate_graph(self._network(), self.facts)
        return bytes(graph.SerializeToString(deterministic=True))

    def _network(self) -> TrainedModel:
        return TrainedModel("student", self.student.cpu().eval(), torch.zeros(1, *self.shape))
