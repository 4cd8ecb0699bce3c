"""What a command line gets wrong by itself: exit code 2, before a model or an image is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ibisa_onnx.errors import IbisaError


class _File(click.Path):
    """An existing file; what is empty is left to `check_not_empty`."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if value == "" else super().convert(value, param, ctx)


FILE = _File(exists=True, dir_okay=False)
"""An existing file, as the value of an option."""
MAP_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)
"""The same, or - for stdin."""
_MAY_BE_EMPTY = ("against",)


@contextmanager
def usage_errors(*kinds: type[IbisaError]) -> Iterator[None]:
    """Turn errors about values of the command line into usage errors."""
    try:
        yield
    except kinds as error:
        raise click.UsageError(str(error)) from error


def check_not_empty() -> None:
    """Raise `click.UsageError` for an option or argument that is an empty string."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _MAY_BE_EMPTY and _is_empty(value):
            raise click.UsageError(f"{shown(parameter)} is empty; pass a value or omit it")


def check_output(path: Path, inputs: Sequence[str | Path | None]) -> None:
    """Raise `click.UsageError` if an output would overwrite an input."""
    from ibisa_onnx.errors import ResultError
    from ibisa_onnx.io.atomic import check_not_given

    with usage_errors(ResultError):
        check_not_given(path, inputs)


def shown(parameter: click.Parameter) -> str:
    """Return what a user calls a parameter: -o, its long flag, or its name in capitals."""
    flags = [each for each in parameter.opts if each.startswith("--") or each == "-o"]
    return flags[0] if flags else str(parameter.name).removesuffix("s").upper()


def _is_empty(value: Any) -> bool:
    return value == "" or (isinstance(value, tuple) and "" in value)
