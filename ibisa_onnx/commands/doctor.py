"""`ibisa-onnx doctor`: what runs models here, and what stands in the way."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.console import Console, console_options, rows

if TYPE_CHECKING:
    from ibisa_onnx.gradients.cache import Usage
    from ibisa_onnx.models.environment import RuntimeReport


@click.command("doctor", short_help="Check what runs models here.")
@console_options
def command(console: Console) -> None:
    """Check the installation: ONNX Runtime builds, providers, CUDA, versions.

    Exit code 1 where no model could be run, or where several builds overwrite each other.
    """
    from ibisa_onnx.gradients.cache import cache_folder, usage
    from ibisa_onnx.models.environment import runtime_report

    report = runtime_report()
    problems = _problems(report)
    folder = cache_folder()
    kept = usage(folder) if folder else None
    cache = {"folder": str(folder), **asdict(kept)} if kept else None
    data = {**asdict(report), "cache": cache, "problems": problems}
    console.result(
        _text(report, _cache_text(folder, kept), problems), data, bare="\n".join(problems)
    )
    if problems:
        raise click.exceptions.Exit(1)


def _problems(report: RuntimeReport) -> list[str]:
    """Say what is broken, and what to do."""
    problems = []
    if report.error:
        problems.append(report.error)
    if report.clash:
        names = " ".join(report.builds)
        problems.append(
            f"{len(report.builds)} builds of ONNX Runtime overwrite each other: "
            f"pip uninstall {names}, then install one"
        )
    return problems


def _cache_text(folder: Path | None, kept: Usage | None) -> str:
    if kept is None:
        return "off"
    return f"{folder}: {kept.files} gradients, {kept.bytes / 1e6:.1f} MB"


def _text(report: RuntimeReport, cache: str, problems: list[str]) -> str:
    builds = [f"{name} {version}" for name, version in report.builds.items()]
    cuda = f"{'works' if report.cuda.ran else 'does not run'}: {report.cuda.reason}"
    versions = [f"{name} {version}" for name, version in report.versions.items()]
    lines = rows(
        [
            ("ONNX Runtime", ", ".join(builds) or "none installed"),
            ("providers", ", ".join(report.providers) or "none"),
            ("CUDA", cuda),
            ("cache", cache),
            ("versions", ", ".join(versions)),
        ],
        indent=0,
    )
    if problems:
        return "\n".join(
            [*lines, "", *(click.style(f"broken: {each}", fg="red") for each in problems)]
        )
    return "\n".join([*lines, "", click.style("All is well.", fg="green")])
