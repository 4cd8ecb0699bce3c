"""Print what a job over many images costs, and the arithmetic for more of them.

    python benchmarks/scale.py model.onnx IMAGE... --jobs 2 [--total 100000000] [run options]

Speed is that of `ibisa-onnx run` with one and with N processes, and on Ray where it is installed,
on the same images in turn; starting is measured apart. Sizes are means of what was written. Memory
is that of listing many images, and of what is done of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ibisa_onnx as ibisa
from ibisa_onnx.commands.outputs import distinct_stems
from ibisa_onnx.serving.jobs import Done, Entry, Manifest
from ibisa_onnx.serving.sources import FILES, PARQUET, Columns, Found, units
from ibisa_onnx.serving.storage import FolderStorage

_LISTED = 200_000  # images whose memory is measured
_DAY = 86400
HAS_RAY = importlib.util.find_spec("ray") is not None


def run(folder: Path, out: str, *words: str) -> float:
    """Run `ibisa-onnx run` over a folder; return the seconds."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "ibisa_onnx", "run", words[0], str(folder), "-o", out]
    subprocess.run([*command, "-q", *words[1:]], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def linked(images: list[Path], count: int, home: Path) -> Path:
    """Return a folder of `count` images, which are links to these."""
    home.mkdir()
    for number in range(count):
        source = images[number % len(images)]
        (home / f"{number:06d}{source.suffix.lower()}").symlink_to(source.resolve())
    return home


def memory_of(build: Callable[[], object]) -> float:
    """Return the bytes per image by which a process grows, in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def measure() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held = build()
        sending.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
        del held

    process = context.Process(target=measure)
    process.start()
    grown: int = receiving.recv()
    process.join()
    return grown / _LISTED


def found() -> list[Found]:
    return [Found(f"/photos/{n // 1000:05d}/{n:09d}.jpg", FILES, f"{n}-1") for n in range(_LISTED)]


def listed() -> object:
    """What the driver holds of images that are single files."""
    files = found()
    stems = distinct_stems([each.source for each in files], Path())
    names = [stems[each.source].as_posix() for each in files]
    return files, stems, list(units(files, names, Columns(), Done(), images=1024, workers=64))


def done() -> object:
    return Done.of(Entry(each.source, each.stamp, stem=each.source[:-4]) for each in found())


def rows() -> object:
    """What it holds of images in Parquet files: units, and what is done."""
    shards = [
        Found(f"s3://b/{n:06d}.parquet", PARQUET, "1", 10_000) for n in range(_LISTED // 10_000)
    ]
    names = [str(number) for number in range(len(shards))]
    ranges = (
        Entry(each.source, "1", low, low + 256, part=f"results/part-{'0' * 32}-{low}.parquet")
        for each in shards
        for low in range(0, 10_000, 256)
    )
    return Done.of(ranges), list(units(shards, names, Columns(), Done(), images=1024, workers=64))


def sizes(model: str, images: list[Path], preprocess: str) -> dict[str, float]:
    """Return the mean bytes per image of each kind of result."""
    explainer = ibisa.Explainer(model, preprocessing=preprocess, threads=1)
    explained = [explainer.explain(str(each)) for each in images]
    found = {
        "overlay (PNG)": statistics.mean(len(each.encode(".png")) for each in explained),
        "record (JSON)": statistics.mean(len(each.encode(".json")) for each in explained),
        "map (.npy)": statistics.mean(len(each.encode(".npy")) for each in explained),
    }
    if importlib.util.find_spec("pyarrow") is not None:
        from ibisa_onnx.serving.tables import MAP_TYPES, parquet_of, row_of

        for kind in MAP_TYPES:
            table = parquet_of([{"source": "a", **row_of(each, kind)} for each in explained])
            found[f"Parquet, maps {kind}"] = len(table) / len(explained)
    with tempfile.TemporaryDirectory() as home:
        entries = [
            Entry(str(each), "100000-1700000000000000000", sha256="0" * 64) for each in images
        ]
        Manifest(FolderStorage(Path(home)), "0" * 64).add("00", 0, entries)
        fragment = next(Path(home).rglob("*.jsonl"))
        found["manifest"] = fragment.stat().st_size / len(entries)
    return found


def speeds(given: argparse.Namespace, home: Path, images: list[Path]) -> dict[str, float]:
    """Return the images per second of each way, starting not counted."""
    many, few = linked(images, given.count, home / "many"), linked(images, given.jobs, home / "few")
    options = (given.model, "--preprocess", given.preprocess, *given.options)
    jobs = str(given.jobs)
    ways = {
        "run, one image at a time (--threads 1)": ("--threads", "1"),
        "run": (),
        f"run --jobs {jobs}": ("--jobs", jobs),
    }
    if HAS_RAY:
        ways[f"run --on ray --jobs {jobs}"] = ("--on", "ray", "--jobs", jobs)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    starts: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.rounds):
        for number, (name, words) in enumerate(ways.items()):
            start = run(few, f"{home}/few-{turn}-{number}", *options, *words)
            whole = run(many, f"{home}/many-{turn}-{number}", *options, *words)
            rates[name].append((given.count - given.jobs) / (whole - start))
            starts[name].append(start)
    again = run(many, f"{home}/many-0-2", *options, "--jobs", jobs)
    print(f"\n{given.count} images, {given.rounds} rounds\n")
    print(f"| | images/s (lowest to highest) | start and {given.jobs} images, s |\n|---|---|---|")
    for name, each in rates.items():
        print(
            f"| {name} | {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f}) | "
            f"{statistics.median(starts[name]):.1f} |"
        )
    print(f"\nresuming: {given.count} finished images are skipped in {again:.1f} s")
    return {name: statistics.median(each) for name, each in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--count", type=int, default=100, help="images per run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--total", type=int, default=100_000_000, help="images of the large job")
    parser.add_argument("--cores", type=int, nargs="+", default=[64, 1000, 4000])
    given, given.options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as home:
        rates = speeds(given, Path(home), given.images)
    bytes_of = sizes(given.model, given.images, given.preprocess)
    print("\n| bytes per image | |\n|---|---|")
    for name, size in bytes_of.items():
        print(f"| {name} | {size:,.0f} |")
    print("\n| driver memory, MB per million images | |\n|---|---|")
    for name, build in (("files, listed", listed), ("files, done", done), ("Parquet rows", rows)):
        print(f"| {name} | {memory_of(build):,.0f} |")
    rate = rates[f"run --jobs {given.jobs}"] / given.jobs
    hours = given.total / rate / 3600
    print(f"\n{given.total:,} images at {rate:.2f} per core and second: {hours:,.0f} core-hours")
    for cores in given.cores:
        print(f"  {cores} cores: {given.total / rate / cores / _DAY:.1f} days")
    for name, size in bytes_of.items():
        print(f"  {name}: {size * given.total / 1e12:.1f} TB")


if __name__ == "__main__":
    main()
