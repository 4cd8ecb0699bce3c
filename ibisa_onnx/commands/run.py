"""`ibisa-onnx run`: explain what a model said of pictures, and write it down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibisa_onnx.commands.console import INTERRUPTED, Console, console_options, report_error
from ibisa_onnx.commands.explaining import (
    METHOD_NAMES,
    SIGNED_METHODS,
    MethodChoice,
    explaining_options,
    method_options,
)
from ibisa_onnx.commands.interruption import Interruption
from ibisa_onnx.commands.model_options import FiniteRange, ModelChoice, model_options
from ibisa_onnx.commands.outputs import STDIO, Destinations, check_out, expand
from ibisa_onnx.commands.report import details_text, explanation_text
from ibisa_onnx.commands.target_options import AskedTargets, target_options
from ibisa_onnx.errors import (
    AbsentTargetError,
    GradientError,
    ImageError,
    OptionError,
    OutputError,
)

if TYPE_CHECKING:
    from ibisa_onnx import Explainer, Explanation
    from ibisa_onnx.methods import Method


@click.command("run", short_help="Explain what a model says of a picture.")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@target_options
@click.option(
    "-o",
    "--out",
    metavar="PATH",
    help="A .png, .npy or .json file, a folder, or - for stdout. Default: beside the image.",
)
@click.option("--with-data", is_flag=True, help="Write the maps (.npy) and the record (.json) too.")
@click.option(
    "--method",
    "method_name",
    type=click.Choice(METHOD_NAMES),
    default=METHOD_NAMES[0],
    show_default=True,
    help="Another method than IBISA; its settings are below.",
)
@method_options
@model_options
@explaining_options
@click.option(
    "--deadline-ms",
    type=FiniteRange(0, min_open=True),
    metavar="MS",
    help="End all maps of a picture by then, with the best so far.",
)
@click.option(
    "--uncertainty", is_flag=True, help="Draw how sure the map is, too (forward-only alone knows)."
)
@click.option(
    "--signed",
    is_flag=True,
    help="Draw what speaks against the answer too, in blue; a .npy map is in -1..1, below 0 there.",
)
@console_options
def command(
    console: Console,
    images: tuple[str, ...],
    asked: AskedTargets,
    out: str | None,
    with_data: bool,
    choice: ModelChoice,
    method_name: str,
    methods: MethodChoice,
    deadline_ms: float | None,
    uncertainty: bool,
    signed: bool,
    seed: int,
    **options: Any,
) -> None:
    """Explain which pixels MODEL needed for its answer on each IMAGE.

    An IMAGE is a file, a folder of pictures, or - for stdin. Writes IMAGE.ibisa.png beside each:
    the picture, and the picture with its map. Ctrl-C ends with the best map so far.
    """
    if (choice.model, *images).count(STDIO) > 1:
        raise click.UsageError("only one of MODEL and IMAGE can be -, stdin is read once")
    if uncertainty and method_name != METHOD_NAMES[0]:
        raise click.UsageError(f"--method {method_name} does not tell how sure its map is")
    if signed and method_name not in SIGNED_METHODS:
        raise click.UsageError(
            f"--method {method_name} does not tell what speaks against the answer; leave --signed "
            f"out, or take {' or '.join(SIGNED_METHODS)}"
        )
    methods.check([method_name])
    pictures = expand(images)
    check_out(out)
    where = Destinations(
        pictures, out, several_targets=asked.several, with_data=with_data, model=choice.model
    )
    console = _free_stdout(console) if where.to_stdout else console
    where.check()
    explainer = choice.for_values(asked.reads_output).explainer(**options)
    method, _ = methods.named(
        method_name,
        explainer,
        [Path(each) for each in pictures if each != STDIO],
        lambda path, text: console.warn([f"{path}: {text}"]),
    )
    deadline = None if deadline_ms is None else deadline_ms / 1000
    meant = asked.targets(choice.output)
    piped = sys.stdin.buffer.read() if STDIO in pictures else b""  # Ctrl-C ends the wait for it
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
        )
        alone, failed = len(pictures) == 1, 0
        for number, picture in enumerate(pictures, 1):
            failed += not work.explain(picture, alone=alone)
            if interruption():
                console.warn(_left_out(len(pictures) - number, len(pictures)))
                raise click.exceptions.Exit(INTERRUPTED)
    if failed:
        raise click.exceptions.Exit(1)


@dataclass(frozen=True)
class Work:
    """What is done to each picture.

    `deadline` is in seconds; `signed` asks for what speaks against, too; `piped` is the picture on
    stdin; `method` None is IBISA; `stop` tells whether someone wants an end; `name_of` gives the
    name by which a picture is spoken of.
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

    def explain(self, picture: str, *, alone: bool) -> bool:
        """Explain one picture; of several, report one that cannot be explained and return False."""
        try:
            with self.console.progress(Path(picture).name) as bar:
                source = self.piped if picture == STDIO else picture
                explanations = self.explainer.iter_explanations(
                    source,
                    self.targets,
                    seed=self.seed,
                    progress=bar,
                    deadline=self.deadline,
                    stop=self.stop,
                    method=self.method,
                )
                for number, explanation in enumerate(explanations):
                    bar.wipe()
                    self._deliver(picture, explanation, first=number == 0)
                    if self.stop():
                        break
        except (ImageError, OutputError, GradientError, AbsentTargetError) as error:
            if alone:
                raise
            text = str(error)
            report_error(text if picture in text else f"{picture}: {text}")
            return False
        return True

    def _deliver(self, picture: str, explanation: Explanation, *, first: bool) -> None:
        """Write one explanation and say so."""
        from ibisa_onnx.io.atomic import write_files

        target = explanation.target
        extra = [name for name in explanation.maps if name not in ("map", "against")]
        number = target.details.get("number")
        name = target.name if number is None else f"{target.name} {number}"
        contents = self.where.of(picture, target.index, name, extra)
        paths = list(contents)
        if self.uncertainty and explanation.uncertainty is None:
            raise OptionError(
                f"the {explanation.certificate.gradient} gradient does not tell how sure the map "
                "is; leave --uncertainty out, or add --gradient forward-only"
            )
        write_files({path: self._encode(explanation, what) for path, what in contents.items()})
        if self.where.to_stdout:
            sys.stdout.buffer.write(self._encode(explanation, ".png"))
            sys.stdout.buffer.flush()
        # Only now: what fails is told in one line, without warnings before it.
        self.console.warn(explanation.warnings)
        self.console.result(
            explanation_text(self.name_of(picture), explanation, paths, first=first),
            {"image": picture, "files": [str(path) for path in paths], **explanation.record()},
            bare="\n".join(map(str, paths)),
        )
        self.console.note(details_text(explanation))

    def _encode(self, explanation: Explanation, what: str) -> bytes:
        """Return what belongs into a file: by a suffix, or by the name of a map."""
        from ibisa_onnx.io.formats import encode_npy

        if what in explanation.maps:
            return encode_npy(explanation.maps[what])
        return explanation.encode(what, uncertainty=self.uncertainty, signed=self.signed)


def _free_stdout(console: Console) -> Console:
    """Return a console that leaves stdout to the picture."""
    if sys.stdout.isatty():
        raise click.UsageError("the picture would go to the terminal; give -o FILE, or redirect")
    return console.on_stderr()


def _left_out(left: int, pictures: int) -> list[str]:
    """Say how many pictures an interruption leaves out, if any."""
    return [f"{left} of {pictures} pictures are left out"] if left else []
