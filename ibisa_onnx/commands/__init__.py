"""The command line: one file a verb, loaded when it is called.

Here are the group and the one place where errors become lines and exit codes: 0 done, 1 it could
not be done, 2 wrong usage, 130 interrupted. Anything heavier than click is imported by the verbs,
inside their functions, so that `--help` and `--version` answer at once.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import NoReturn

import click

from ibisa_onnx.commands.console import INTERRUPTED, echo, report_error
from ibisa_onnx.errors import IbisaError

_NAME = "ibisa-onnx"
_PACKAGES = {"cv2": "opencv-python-headless"}  # what pip calls a module that is named otherwise
_VERBS = (
    "run",
    "inspect",
    "eval",
    "bench",
    "gradient",
    "export",
    "annotate",
    "distill",
    "demo",
    "doctor",
)


class _Verbs(click.Group):
    """A group that imports a verb's module when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        echo(f"{_NAME} {_version()}")
        ctx.exit()


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def group() -> None:
    """Explain the decisions of a deployed ONNX image model.

    Which pixels did this very file need for this very answer?

    \b
      ibisa-onnx run model.onnx photo.jpg       writes photo.ibisa.png
      ibisa-onnx inspect model.onnx photo.jpg   what goes in and out, and the top five
      ibisa-onnx eval model.onnx photo.jpg      how true the map is to the model
      ibisa-onnx bench model.onnx photos/       IBISA against RISE, Grad-CAM, IBA …
      ibisa-onnx gradient model.onnx            writes model.grad.onnx: output and gradient
      ibisa-onnx export torchvision:resnet50    writes resnet50.onnx, checked and annotated
      ibisa-onnx annotate model.onnx --labels … puts preprocessing and labels into the file
      ibisa-onnx distill model.onnx photos/     a differentiable surrogate, for opaque models
      ibisa-onnx demo                           the same without a file of yours
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Parameters
    ----------
    args
        The words after the command's name; None: the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label must not fail on a narrow encoding
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(list(sys.argv[1:] if args is None else args)))


def _run(args: list[str]) -> int:
    """Run a command and return its exit code, whatever happens."""
    try:
        code = group.main(args or ["--help"], prog_name=_NAME, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.UsageError as error:
        report_error(error.format_message())
        where = error.ctx.command_path if error.ctx else _NAME
        echo(f"Try '{where} --help'.", err=True)
        return 2
    except click.ClickException as error:
        report_error(error.format_message())
        return 1
    except (click.Abort, KeyboardInterrupt):
        report_error("interrupted")
        return INTERRUPTED
    except IbisaError as error:
        report_error(str(error))
        return 1
    except BrokenPipeError:
        # The reader has gone; the interpreter must not try to flush to it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ", stdout perhaps"
        report_error(f"cannot read or write{where}: {error.strerror or error}")
        return 1
    except Exception as error:
        report_error(_missing(error) or _bug(error, args))
        if _verbose(args):
            traceback.print_exc()
        return 1
    return code if isinstance(code, int) else 0


def _missing(error: Exception) -> str:
    """Say which package is not there, where the installation is not whole, as after --no-deps."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (name or "").split(".")[0]
    if not package or package.startswith("ibisa_"):
        return ""
    return f"{package} is not installed; pip install {_PACKAGES.get(package, package)}"


def _bug(error: Exception, args: Sequence[str]) -> str:
    """Say what should never be seen."""
    more = "" if _verbose(args) else " with what -v prints"
    return f"unexpected {type(error).__name__}: {error}; this is a bug, please report it{more}"


def _verbose(args: Sequence[str]) -> bool:
    return "-v" in args or "--verbose" in args


def _version() -> str:
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return "(not installed, run from its sources)"
