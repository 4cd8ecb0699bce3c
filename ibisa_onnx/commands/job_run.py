"""What the jobs of `run --jobs` and `run --on ray` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ibisa_onnx.commands.console import Console, counted, report_error
from ibisa_onnx.commands.explaining import MethodChoice
from ibisa_onnx.commands.job_options import JobChoice
from ibisa_onnx.commands.job_worker import Opening
from ibisa_onnx.commands.work import request_of
from ibisa_onnx.serving.jobs import Hope


@dataclass
class Run:
    """A run over images in other processes."""

    console: Console
    images: Sequence[str]
    out: str | None
    job: JobChoice
    methods: MethodChoice
    opening: Opening
    overwrite: bool
    hope: Hope = field(default_factory=Hope)
    done: int = 0
    failed: int = 0
    providers: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def prepare(self, pictures: Sequence[str], more: Mapping[str, Any]) -> dict[str, Any]:
        """Open the model once, before any worker; return the facts of the job.

        What is wrong with the model or the options is reported here.
        """
        from ibisa_onnx.methods.registry import MethodSettings

        opening = self.opening
        explainer = opening.open()
        method, files = self.methods.named(
            opening.method,
            explainer,
            [Path(each) for each in pictures],
            lambda path, text: self.console.warn([f"{path}: {text}"]),
        )
        chosen = self.methods
        settings = MethodSettings(chosen.masks, chosen.gradcam_layer, chosen.iba_layer, files)
        request = request_of(
            explainer, method, opening.targets, opening.seed, files, opening.deadline, opening.drawn
        )
        self.opening = replace(opening, settings=settings, request=request.digest)
        self.providers, self.warnings = explainer.model.providers, explainer.warnings
        from ibisa_onnx.benchmark.target_digest import digestible

        return {
            "model": {"file": opening.choice.model, "identity": explainer.model.identity},
            "method": [method.name, dict(method.settings)],
            "target": digestible(opening.targets),
            "seed": opening.seed,
            "deadline": opening.deadline,
            "settings": explainer.settings,
            "versions": explainer.versions,
            "results": {**opening.drawn, **more},
        }

    def report(self, message: str) -> None:
        """Report an image that could not be explained."""
        report_error(message)


def failed_before(count: int) -> str:
    """Return a message on images that are not tried again."""
    return (
        f"skipped {counted(count, 'image')} that failed in an earlier run; use --retry-errors to "
        "try again"
    )
