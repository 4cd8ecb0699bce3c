"""`ibisa-onnx run`: explain a model's predictions for images and write the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ibisa_onnx.commands.ahead import Explanations, tasks
from ibisa_onnx.commands.console import (
    INTERRUPTED,
    Bar,
    Console,
    console_options,
    counted,
    is_terminal,
    report_error,
    write_bytes,
)
from ibisa_onnx.commands.deadlines import deadline_of_maps
from ibisa_onnx.commands.explaining import (
    IBISA,
    METHOD_NAMES,
    SIGNED_METHODS,
    MethodChoice,
    explaining_options,
    method_options,
)
from ibisa_onnx.commands.interruption import Interruption
from ibisa_onnx.commands.job_options import JobChoice, job_options
from ibisa_onnx.commands.model_options import ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, Destinations, expand
from ibisa_onnx.commands.report import details_text, explanation_text
from ibisa_onnx.commands.resuming import FinishedPictures, PictureResults, Request
from ibisa_onnx.commands.stdin import piped_picture
from ibisa_onnx.commands.target_options import AskedTargets, target_options
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


@click.command("run", short_help="Explain predictions: write attribution maps of images.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@target_options
@click.option(
    "-o",
    "--out",
    metavar="PATH",
    help="Output: a .png, .npy or .json file, a folder, or - for stdout. Default: beside IMAGE.",
)
@click.option(
    "--with-data", is_flag=True, help="Also write the maps (.npy) and the record (.json)."
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="With a folder or several images: recompute existing results.",
)
@click.option(
    "--method",
    "method_name",
    type=click.Choice(METHOD_NAMES),
    default=IBISA,
    show_default=True,
    help="Attribution method.",
)
@method_options
@model_options
@explaining_options
@deadline_of_maps
@job_options
@click.option(
    "--uncertainty", is_flag=True, help="Also draw the map's uncertainty (--gradient forward-only)."
)
@click.option(
    "--signed",
    is_flag=True,
    help="Also draw evidence against the prediction, in blue. A .npy map is then in -1..1.",
)
@console_options
def command(
    console: Console,
    images: tuple[str, ...],
    asked: AskedTargets,
    out: str | None,
    with_data: bool,
    overwrite: bool,
    choice: ModelChoice,
    method_name: str,
    methods: MethodChoice,
    deadline: float | None,
    job: JobChoice,
    uncertainty: bool,
    signed: bool,
    seed: int,
    **options: Any,
) -> None:
    """Find the pixels that MODEL's prediction for each IMAGE depends on.

    IMAGE is a file, a folder of images, or - for stdin. Writes NAME.ibisa.png beside each image:
    the image, and the image overlaid with its map. Ctrl-C stops with the best map so far. With a
    folder or several images, those that already have results from the same model and options are
    skipped.
    """
    from ibisa_onnx.models.running import deadline_limit

    if (choice.model, *images).count(STDIO) > 1:
        raise click.UsageError("only one of MODEL and IMAGE can be -; stdin is read once")
    if uncertainty and method_name != IBISA:
        raise click.UsageError(f"--method {method_name} does not support --uncertainty")
    if signed and method_name not in SIGNED_METHODS:
        raise click.UsageError(
            f"--method {method_name} does not support --signed; use "
            f"{' or '.join(SIGNED_METHODS)}, or omit --signed"
        )
    if uncertainty and options["gradient"] not in ("auto", "forward-only"):
        raise click.UsageError(
            f"--gradient {options['gradient']} does not support --uncertainty; use forward-only"
        )
    methods.check([method_name])
    if job.is_job:
        from ibisa_onnx.commands.job_worker import Opening
        from ibisa_onnx.commands.jobs import run_job

        opening = Opening(
            choice.for_values(asked.reads_output),
            options,
            asked.targets(choice.output),
            asked.several,
            method_name,
            seed,
            deadline,
            uncertainty,
            signed,
            with_data,
            console,
        )
        run_job(console, images, out, job, methods, opening, overwrite=overwrite)
        return
    pictures = expand(images)
    where = Destinations(
        pictures, out, several_targets=asked.several, with_data=with_data, model=choice.model
    )
    console = _free_stdout(console) if where.to_stdout else console
    where.check()
    workers = _workers(choice, len(pictures), method_name)
    if workers > 1:
        choice = replace(choice, threads=1)
    with deadline_limit(deadline):
        explainer = choice.for_values(asked.reads_output).explainer(**options)
    method, files = methods.named(
        method_name,
        explainer,
        [Path(each) for each in pictures if each != STDIO],
        lambda path, text: console.warn([f"{path}: {text}"]),
    )
    meant = asked.targets(choice.output)
    request = None
    if not where.to_stdout:
        drawn = {"uncertainty": uncertainty, "signed": signed, "data": with_data}
        request = request_of(explainer, method, meant, seed, files, deadline, drawn)
    piped = piped_picture() if STDIO in pictures else b""  # before Ctrl-C is caught
    with Interruption(console) as interruption:
        work = Work(
            console,
            explainer,
            where,
            meant,
            seed,
            deadline,
            uncertainty,
            piped,
            signed=signed,
            method=method,
            stop=interruption,
            request=request,
        )
        # An image that is passed by name alone is always explained.
        resumes = not overwrite and (len(images) > 1 or Path(images[0]).is_dir())
        before = FinishedPictures(request, where) if request and resumes else None
        with _scheduler(work, workers) as scheduler:
            _explain_all(work, pictures, before, scheduler, workers)


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


def _workers(choice: ModelChoice, pictures: int, method: str) -> int:
    """Return how many images are explained at a time: one per core of an ONNX file on the CPU."""
    from ibisa_onnx.models.onnx_session import cores

    on_cpu = {each.lower() for each in choice.providers} <= {"cpu", "cpuexecutionprovider"}
    if method != IBISA or choice.threads or choice.is_remote or not on_cpu:
        return 1
    return min(pictures, cores())


@contextmanager
def _scheduler(work: Work, workers: int) -> Iterator[Scheduler | None]:
    """Yield a scheduler for several images at a time; None for one after the other."""
    from ibisa_onnx.serving.scheduler import Scheduler, default_workers

    if workers == 1 or default_workers(work.explainer) == 1:  # for instance, CUDA was found
        yield None
        return
    scheduler = Scheduler(work.explainer, max_batch=1, workers=workers, stop=work.stop)
    try:
        yield scheduler
    finally:
        scheduler.close(drain=False)


def _explain_all(
    work: Work,
    pictures: Sequence[str],
    before: FinishedPictures | None,
    scheduler: Scheduler | None,
    ahead: int,
) -> None:
    """Explain all images except those with finished results.

    Raises
    ------
    click.exceptions.Exit
        Some images could not be explained, or the run was interrupted.
    ResultError
        A result cannot be written; with several images, the message counts those done.
    """
    alone, failed, skipped, code = len(pictures) == 1, 0, 0, 0
    coming = tasks(
        pictures,
        before.find if before else lambda _: [],
        lambda picture: work.submit(picture, scheduler),
        ahead,
    )
    for number, task in enumerate(coming, 1):
        if task.found:
            work.tell_finished(task.picture, task.found)
            skipped += 1
        else:
            try:
                failed += not work.explain(task.picture, task.explanations, alone=alone)
            except ResultError as error:
                if alone:
                    raise
                raise ended(error, number - 1 - failed, len(pictures)) from error
        if work.stop():
            work.console.warn(_left_out(len(pictures) - number, len(pictures)))
            code = INTERRUPTED
            break
    if skipped:
        work.console.tell(
            f"skipped {skipped} of {counted(len(pictures), 'image')}: results already exist; "
            "use --overwrite to recompute them"
        )
    if code or failed:
        raise click.exceptions.Exit(code or 1)


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


def _free_stdout(console: Console) -> Console:
    """Return a console that leaves stdout to the image."""
    if is_terminal(sys.stdout):
        raise click.UsageError(
            "cannot write an image to the terminal; pass -o FILE or redirect stdout"
        )
    return console.on_stderr()


def _left_out(left: int, pictures: int) -> list[str]:
    """Return a warning that counts the images an interruption leaves out, if any."""
    text = f"{left} of {counted(pictures, 'image')} not explained; rerun the same command to resume"
    return [text] if left else []
