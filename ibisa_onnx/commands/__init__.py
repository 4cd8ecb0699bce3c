"""The command line: one file per verb, loaded when it is called.

Here are the group and the single place where errors become messages and exit codes: 0 success, 1
error, 2 usage error, 130 interrupted; `__main__` handles other signals. The verbs import anything
heavier than click inside their functions, so that `--help` and `--version` return immediately.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from ibisa_onnx import __version__
from ibisa_onnx.commands.console import INTERRUPTED, echo, report_error, silence
from ibisa_onnx.errors import IbisaError

_NAME = "ibisa-onnx"
_ASCII = "".join(map(chr, range(0x20, 0x7F)))
_PACKAGES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
}  # import names that differ from pip's
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
    "serve",
    "demo",
    "doctor",
)
_LIKE_RUN = ("explain", "predict", "attribute", "attributions")
_OPTIONS = {"--class": "--target"}
"""Names of other tools for options, which click would not find by their spelling."""


class _Verbs(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in _VERBS and (word.lower() in _LIKE_RUN or _is_file(word)):
            raise click.UsageError(
                f"No such command {word!r:.200}. (Did you mean `{_NAME} run MODEL IMAGE`?)", ctx
            )
        return super().resolve_command(ctx, args)


def _is_file(word: str) -> bool:
    """Return whether a word in the place of a verb is a file, or the name of a model."""
    return word.endswith(".onnx") or os.path.isfile(word)  # noqa: PTH113 - it never raises


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        echo(f"{_NAME} {__version__}")
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
    """Find the pixels an ONNX image model relied on.

    Attribution maps for deployed models: all you need is the .onnx file and an image.

    \b
      ibisa-onnx run model.onnx image.jpg        write image.ibisa.png
      ibisa-onnx inspect model.onnx image.jpg    show settings and predictions
      ibisa-onnx eval model.onnx image.jpg       measure how faithful the map is
      ibisa-onnx bench model.onnx images/        compare with RISE, Grad-CAM, IBA …
      ibisa-onnx gradient model.onnx             write output and gradient as one file
      ibisa-onnx export torchvision:resnet50     write resnet50.onnx with metadata
      ibisa-onnx annotate model.onnx --labels …  embed preprocessing and labels
      ibisa-onnx distill model.onnx images/      train a differentiable surrogate
      ibisa-onnx serve model.onnx                serve predictions and explanations
      ibisa-onnx demo                            try it without a model or image
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Parameters
    ----------
    args
        Command-line arguments without the program's name; None: those of the process.
    """
    _open_streams()
    sys.exit(_run(list(sys.argv[1:] if args is None else args)))


def _open_streams() -> None:
    """Ensure that the standard streams exist and can encode any text.

    They are None if their descriptors are closed, or in a program without a console.
    """
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if _writes_ascii(stream.encoding) else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _writes_ascii(encoding: str) -> bool:
    """Return whether an encoding can write plain text, unlike `undefined` or `idna`."""
    try:
        return _ASCII.encode(encoding).decode(encoding) == _ASCII
    except (LookupError, UnicodeError):
        return False


def _run(args: list[str]) -> int:
    """Run a command and return its exit code; every exception is reported."""
    try:
        code = group.main(args or ["--help"], prog_name=_NAME, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.UsageError as error:
        report_error(_usage(error))
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
        silence(sys.stdout)  # the reader is gone
        return 1
    except OSError as error:
        report_error(_input_output(error))
        return 1
    except MemoryError as error:
        report_error(
            f"not enough memory{f' ({error})' if str(error) else ''}; use a smaller image or "
            "model, or free memory"
        )
        return 1
    except Exception as error:
        report_error(_missing(error) or _bug(error, args))
        for line in traceback.format_exc().splitlines() if _verbose(args) else ():
            echo(line, err=True)
        return 1
    return code if isinstance(code, int) else 0


def _usage(error: click.UsageError) -> str:
    """Return a message for a usage error; names of other tools for an option suggest ours."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        wanted = _OPTIONS.get(error.option_name)
        if any(wanted in each.opts for each in error.ctx.command.params):
            return f"{error.message} (Did you mean {wanted!r}?)"
    return error.format_message()


def _input_output(error: OSError) -> str:
    """Return a message for a failed read or write."""
    # A missing file without a name is the working folder, which was removed.
    unnamed = "." if isinstance(error, FileNotFoundError) else "a standard stream"
    where = error.filename or unnamed
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
    advice = "free disk space" if full else "check that it exists and is accessible"
    return f"cannot read or write {where}: {error.strerror or error}; {advice}"


def _missing(error: Exception) -> str:
    """Return a message for a missing package, or for a shared library that cannot be loaded.

    Packages are missing after `pip install --no-deps`; a library fails to load if it needs another
    one, or more memory than the process may use.
    """
    for each in (error, error.__cause__):  # NumPy replaces it with a page of text
        if isinstance(each, ImportError) and str(each.path).endswith(_LIBRARIES):
            return f"cannot load a library: {each}; install what it requires, or free memory"
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (name or "").split(".")[0]
    if not package or package.startswith("ibisa_"):
        return ""
    return f"{package} is not installed; run pip install {_PACKAGES.get(package, package)}"


def _bug(error: Exception, args: Sequence[str]) -> str:
    """Return a message for an error that no code path expects."""
    more = "" if _verbose(args) else " with the output of -v"
    return f"unexpected {type(error).__name__}: {error}; this is a bug, please report it{more}"


def _verbose(args: Sequence[str]) -> bool:
    return "-v" in args or "--verbose" in args
