"""What `run` does with one image: explains it, writes the results and reports them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ibisa_onnx.commands.ahead import Explanations
from ibisa_onnx.commands.console import Bar, Console, counted, report_error, write_bytes
from ibisa_onnx.commands.outputs import STDIO, Destinations
from ibisa_onnx.commands.report import details_text, explanation_text
from ibisa_onnx.commands.resuming import PictureResults, Request
from ibisa_onnx.errors import (
    AbsentTargetError,
    DeadlineError,
    GradientError,
    ImageError,
    OptionError,
    OutputError,
    ResultError,
)
from ibisa_onnx.methods.stopping import STOPPED

if TYPE_CHECKING:
    from ibisa_onnx import Explainer, Explanation
    from ibisa_onnx.io.formats import ResultSuffix
    from ibisa_onnx.methods import Method
    from ibisa_onnx.serving.scheduler import Scheduler


def request_of(
    explainer: Explainer,
    method: Method,
    targets: Any,
    seed: int,
    files: Sequence[Path],
    deadline: float | None,
    drawn: Mapping[str, bool],
) -> Request:
    """Return the request of a run; `drawn` are the options of the results' files."""
    from ibisa_onnx.benchmark.target_digest import request_digest

    more = {"versions": explainer.versions, "deadline": deadline, **drawn}
    return Request(request_digest(explainer, method, targets, seed, files, more))


def ended(error: ResultError, done: int, pictures: int) -> ResultError:
    """Return an error that counts the finished images and explains how to resume."""
    problem = f"stopped after {done} of {counted(pictures, 'image')}; {error.problem}"
    if not isinstance(error.__cause__, OSError):
        return ResultError(problem, error.advice)
    return ResultError(problem, f"{error.advice}, then rerun the same command to resume")


@dataclass(frozen=True)
class Work:
    """Explains images and writes the results.

    `deadline` is in seconds; `signed` also draws evidence against; `piped` is the image on stdin;
    `method` None is IBISA; `stop` returns whether to stop early; `name_of` returns an image's
    display name; with `request` None, results are not marked for resuming.
    """

    console: Console
    explainer: Explainer
    where: Destinations
    targets: Sequence[Any] | None
    seed: int
    deadline: float | None = None
    uncertainty: bool = False
    piped: bytes = b""
    name_of: Callable[[str], str] = str
    signed: bool = False
    method: Method | None = None
    stop: Callable[[], bool] = lambda: False
    request: Request | None = None

    def submit(self, picture: str, scheduler: Scheduler | None) -> Explanations | None:
        """Begin to explain an image in another thread, if there is a scheduler."""
        if scheduler is None:
            return None
        return scheduler.submit_all(
            self._source(picture), self.targets, seed=self.seed, deadline=self.deadline
        )

    def explain(self, picture: str, submitted: Explanations | None = None, *, alone: bool) -> bool:
        """Explain one image; unless `alone`, report failure instead of raising and return False.

        `submitted` is what `submit` returned for it.
        """
        results = self._results()
        try:
            with self.console.progress(Path(picture).name) as bar:
                for number, explanation in enumerate(self._explanations(picture, submitted, bar)):
                    bar.wipe()
                    self._deliver(picture, explanation, results, first=number == 0)
                    if self.stop():
                        break
                else:
                    results.end()
        except (ImageError, OutputError, GradientError, AbsentTargetError, DeadlineError) as error:
            if alone:
                raise
            text = str(error)
            report_error(text if picture in text else f"{picture}: {text}")
            return False
        return True

    def _results(self) -> PictureResults:
        return PictureResults(self.where.several_targets)

    def _source(self, picture: str) -> str | bytes:
        return self.piped if picture == STDIO else picture

    def _explanations(
        self, picture: str, submitted: Explanations | None, bar: Bar
    ) -> Iterable[Explanation]:
        if submitted is not None:
            return submitted.result()
        return self.explainer.iter_explanations(
            self._source(picture),
            self.targets,
            seed=self.seed,
            progress=bar,
            deadline=self.deadline,
            stop=self.stop,
            method=self.method,
        )

    def tell_finished(self, picture: str, explanations: Sequence[Sequence[Path]]) -> None:
        """Report the existing results of an image, for programs that read the output."""
        for paths in explanations:
            files = [str(path) for path in paths]
            data = {"image": picture, "files": files, "skipped": True}
            self.console.result([], data, bare=files)
        written = ", ".join(str(path) for paths in explanations for path in paths)
        self.console.note([f"{self.name_of(picture)}: already explained: {written}"])

    def _deliver(
        self, picture: str, explanation: Explanation, results: PictureResults, *, first: bool
    ) -> None:
        """Write one explanation and report it."""
        target = explanation.target
        extra = [name for name in explanation.maps if name not in ("map", "against")]
        number = target.details.get("number")
        name = target.name if number is None else f"{target.name} {number}"
        contents = self.where.of(picture, target.index, name, extra)
        paths = list(contents)
        if self.uncertainty and explanation.uncertainty is None:
            raise OptionError(
                f"--uncertainty is not available with the {explanation.certificate.gradient} "
                "gradient; add --gradient forward-only, or omit --uncertainty"
            )
        request = self._request_of(explanation)
        results.write(
            paths,
            {path: self._encode(explanation, what, request) for path, what in contents.items()},
            request,
        )
        if self.where.to_stdout:
            write_bytes(self._encode(explanation, ".png"))
        # Only now, so that a failure is one line without warnings before it.
        self.console.warn(explanation.warnings)
        self.console.result(
            explanation_text(self.name_of(picture), explanation, paths, first=first),
            {"image": picture, "files": [str(path) for path in paths], **explanation.record()},
            bare=[*map(str, paths)],
        )
        self.console.note(details_text(explanation))

    def _request_of(self, explanation: Explanation) -> str | None:
        """Return the request that marks a result; None if it is unfinished or unknown."""
        image = explanation.provenance.image_sha256
        if self.request is None or image is None or explanation.completion.cut_short == STOPPED:
            return None
        return self.request.of(image)

    def _encode(self, explanation: Explanation, what: str, request: str | None = None) -> bytes:
        """Return the content of a file, given by its suffix or the name of a map."""
        from ibisa_onnx.io.formats import encode_json, encode_npy

        if what == ".json" and request is not None:
            return encode_json({**explanation.record(), "request": request})
        if what in explanation.maps:
            return encode_npy(explanation.maps[what])
        suffix = cast("ResultSuffix", what)
        return explanation.encode(suffix, uncertainty=self.uncertainty, signed=self.signed)
