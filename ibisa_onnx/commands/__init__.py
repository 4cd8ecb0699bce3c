"""The command line: one file a verb, loaded when it is called.

Here are the group and the one place where errors become lines and exit codes: 0 done, 1 it could
not be done, 2 wrong usage, 130 interrupted; by other signals `__main__` ends it. Anything heavier
than click is imported by the verbs, inside their functions, so that `--help` and `--version` answer
at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import NoReturn

import click

from ibisa_onnx.commands.console import INTERRUPTED, echo, report_error, silence
from ibisa_onnx.errors import IbisaError

_NAME = "ibisa-onnx"
_ASCII = "".join(map(chr, range(0x20, 0x7F)))
_PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow"}  # pip names them otherwise
_LIBRARIES = (".so", ".pyd")
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
    _open_streams()
    sys.exit(_run(list(sys.argv[1:] if args is None else args)))


def _open_streams() -> None:
    """See that there are standard streams, and that nothing that is said can fail on them.

    Python has none where descriptors were closed, or in a program without a console.
    """
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if _writes_ascii(stream.encoding) else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _writes_ascii(encoding: str) -> bool:
    """Tell whether an encoding is one of text, and not `undefined`, `idna` or another oddity."""
    try:
        return _ASCII.encode(encoding).decode(encoding) == _ASCII
    except (LookupError, UnicodeError):
        return False


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
        silence(sys.stdout)  # the reader has gone
        return 1
    except OSError as error:
        report_error(_input_output(error))
        return 1
    except MemoryError as error:
        report_error(
            f"not enough memory{f' ({error})' if str(error) else ''}; take a smaller picture or "
            "model, or free some"
        )
        return 1
    except Exception as error:
        report_error(_missing(error) or _bug(error, args))
        for line in traceback.format_exc().splitlines() if _verbose(args) else ():
            echo(line, err=True)
        return 1
    return code if isinstance(code, int) else 0


def _input_output(error: OSError) -> str:
    """Say what could not be read or written, and what to do."""
    # Without a name, what is not there is the working folder, which was removed.
    unnamed = "." if isinstance(error, FileNotFoundError) else "a standard stream"
    where = error.filename or unnamed
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
    advice = "free some space" if full else "check that it is there and may be used"
    return f"cannot read or write {where}: {error.strerror or error}; {advice}"


def _missing(error: Exception) -> str:
    """Say which package is not there, where the installation is not whole, as after --no-deps.

    Or which library of one cannot be loaded: it needs another, or more memory than is allowed.
    """
    for each in (error, error.__cause__):  # of which NumPy makes a page
        if isinstance(each, ImportError) and str(each.path).endswith(_LIBRARIES):
            return f"a library cannot be loaded: {each}; install what it needs, or free some memory"
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
