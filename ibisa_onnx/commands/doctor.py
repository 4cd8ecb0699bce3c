"""`ibisa-onnx doctor`: what runs models here, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.console import Console, Line, Styled, console_options, rows

if TYPE_CHECKING:
    from ibisa_onnx.gradients.cache import Usage
    from ibisa_onnx.models.environment import RuntimeReport


@click.command("doctor", short_help="Check what runs models here.")
@console_options
def command(console: Console) -> None:
    """Check the installation: ONNX Runtime builds, providers, CUDA, versions.

    Exit code 1 where no model or picture could be read, or where several builds of ONNX Runtime or
    of OpenCV overwrite each other.
    """
    from ibisa_onnx.gradients.cache import cache_folder, usage
    from ibisa_onnx.models.environment import runtime_report

    report = runtime_report()
    problems = _problems(report)
    folder = cache_folder()
    kept = usage(folder) if folder else None
    cache = {"folder": str(folder), **asdict(kept)} if kept else None
    data = {**asdict(report), "cache": cache, "problems": problems}
    console.result(_text(report, _cache_text(folder, kept), problems), data, bare=problems)
    if problems:
        raise click.exceptions.Exit(1)


def _problems(report: RuntimeReport) -> list[str]:
    """Say what is broken, and what to do."""
    problems = []
    if report.error:
        problems.append(report.error)
    if report.clash:
        problems.append(_clash("ONNX Runtime", report.builds))
    if report.opencv_error:
        problems.append(report.opencv_error)
    if report.opencv_clash:
        problems.append(_clash("OpenCV", report.opencv))
    return problems


def _clash(what: str, builds: Mapping[str, str]) -> str:
    """Say how to come from several builds to one."""
    return (
        f"{len(builds)} builds of {what} overwrite each other: "
        f"pip uninstall {' '.join(builds)}, then install one"
    )


def _cache_text(folder: Path | None, kept: Usage | None) -> str:
    if kept is None:
        return "off"
    return f"{folder}: {kept.files} gradients, {kept.bytes / 1e6:.1f} MB"


def _versions(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _text(report: RuntimeReport, cache: str, problems: list[str]) -> list[Line]:
    cuda = f"{'works' if report.cuda.ran else 'does not run'}: {report.cuda.reason}"
    lines = rows(
        [
            ("ONNX Runtime", _versions(report.builds) or "none installed"),
            ("OpenCV", _versions(report.opencv) or "none that pip knows"),
            ("providers", ", ".join(report.providers) or "none"),
            ("CUDA", cuda),
            ("cache", cache),
            ("versions", _versions(report.versions)),
        ],
        indent=0,
    )
    if problems:
        return [*lines, "", *(Styled(f"broken: {each}", colour="red") for each in problems)]
    return [*lines, "", Styled("All is well.", colour="green")]
