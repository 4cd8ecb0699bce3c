"""`ibisa-onnx doctor`: check the installation and the execution providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.console import Console, Line, Styled, console_options, counted, rows

if TYPE_CHECKING:
    from ibisa_onnx.gradients.cache import Usage
    from ibisa_onnx.models.environment import RuntimeReport


@click.command("doctor", short_help="Check ONNX Runtime, providers and CUDA on this machine.")
@console_options
def command(console: Console) -> None:
    """Check the installation: ONNX Runtime builds, execution providers, CUDA, versions.

    Exits with code 1 if models or images cannot be read, or if several builds of ONNX Runtime or
    OpenCV overwrite each other.
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
    """Return each problem and what to do about it."""
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
    """Return how to replace several builds by one."""
    return (
        f"{len(builds)} builds of {what} overwrite each other: "
        f"run pip uninstall {' '.join(builds)}, then install one of them"
    )


def _cache_text(folder: Path | None, kept: Usage | None) -> str:
    if kept is None:
        return "off"
    return f"{folder}: {counted(kept.files, 'cached gradient')}, {kept.bytes / 1e6:.1f} MB"


def _versions(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _text(report: RuntimeReport, cache: str, problems: list[str]) -> list[Line]:
    cuda = f"{'works' if report.cuda.ran else 'does not run'}: {report.cuda.reason}"
    lines = rows(
        [
            ("ONNX Runtime", _versions(report.builds) or "none installed"),
            ("OpenCV", _versions(report.opencv) or "not installed by pip"),
            ("providers", ", ".join(report.providers) or "none"),
            ("CUDA", cuda),
            ("cache", cache),
            ("versions", _versions(report.versions)),
        ],
        indent=0,
    )
    if problems:
        return [*lines, "", *(Styled(f"problem: {each}", colour="red") for each in problems)]
    return [*lines, "", Styled("No problems found.", colour="green")]
