"""Jobs in worker processes: nothing is lost and nothing repeated, whatever is killed."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from serving.planted_jobs import Planted

from ibisa_onnx.commands.job_options import MAP_TYPES
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.errors import ImageError, ModelError, ResultError
from ibisa_onnx.serving import tables
from ibisa_onnx.serving.jobs import FOLDER, Done, Entry, Hope, Item, Manifest
from ibisa_onnx.serving.process_pool import Lost, ProcessPool
from ibisa_onnx.serving.sources import FILES, TAR, Columns, found_in, read, units
from ibisa_onnx.serving.storage import FolderStorage

SECONDS = 120.0
"""After which a process that hangs is killed."""
pytest.importorskip("fcntl")


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Planted]:
    return lambda **given: Planted(tmp_path / "log", **given)


def items(count: int) -> list[Item]:
    names = [f"in/{number:03d}.png" for number in range(count)]
    return [Item(number, name, name, name) for number, name in enumerate(names)]


def wait_until(met: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Look again and again; give up if the process has ended."""
    end = time.monotonic() + SECONDS
    while not met():
        assert time.monotonic() < end
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class TestPool:
    def test_each_item_is_done_once(self, planted: Callable[..., Planted]) -> None:
        opening = planted(bad="003")
        with ProcessPool(opening, 2) as pool:
            found = {item.source: outcome for item, outcome in pool.run(iter(items(20)))}
        assert set(found) == {each.source for each in items(20)}
        assert opening.count("begin") == dict.fromkeys(found, 1)
        assert len(opening.count("open")) == 1
        assert opening.count("open")["-"] == 2
        errors = {name: each.error for name, each in found.items() if each.error}
        assert errors == {"in/003.png": "in/003.png is damaged"}

    def test_no_items_start_no_worker(self, planted: Callable[..., Planted]) -> None:
        opening = planted()
        with ProcessPool(opening, 2) as pool:
            assert list(pool.run([])) == []
        assert opening.lines == []

    def test_an_item_that_kills_its_worker_twice_is_lost_and_all_others_done(
        self, planted: Callable[..., Planted]
    ) -> None:
        opening = planted(deadly="005")
        with ProcessPool(opening, 2) as pool:
            found = {item.source: outcome for item, outcome in pool.run(items(12))}
        assert opening.count("begin").pop("in/005.png") == 2
        lost = found.pop("in/005.png")
        assert isinstance(lost, Lost)
        assert "died 2 times (signal 9 (SIGKILL))" in lost.message
        assert all(not isinstance(each, Lost) for each in found.values())
        assert len(found) == 11

    def test_workers_killed_at_random_lose_nothing_and_repeat_what_was_in_work(
        self, planted: Callable[..., Planted]
    ) -> None:
        opening, kills, chance = planted(rounds=3), 10, random.Random(0)
        done: list[str] = []
        with ProcessPool(opening, 2) as pool:
            for item, outcome in pool.run(items(80)):
                assert not isinstance(outcome, Lost)
                done.append(item.source)
                # Three outcomes apart, so that no item is hit twice.
                if len(done) % 5 == 0 and kills:
                    os.kill(chance.choice(pool.pids), signal.SIGKILL)
                    kills -= 1
        assert kills == 0
        assert sorted(done) == [each.source for each in items(80)]
        begun = opening.count("begin")
        assert set(begun) == set(done)
        assert sum(begun.values()) <= 80 + 10

    def test_a_model_that_cannot_be_opened_ends_the_job(
        self, planted: Callable[..., Planted]
    ) -> None:
        with (
            ProcessPool(planted(unsound=True), 2) as pool,
            pytest.raises(ModelError, match=r"^m\.onnx is damaged; export it again$"),
        ):
            list(pool.run(items(3)))

    def test_workers_that_die_while_they_open_end_the_job(
        self, planted: Callable[..., Planted]
    ) -> None:
        opening = planted(dies=True)
        with (
            ProcessPool(opening, 1) as pool,
            pytest.raises(ModelError, match="3 worker processes in succession died while"),
        ):
            list(pool.run(items(3)))
        assert opening.count("open")["-"] == 3

    def test_a_full_disk_ends_the_job(self, planted: Callable[..., Planted]) -> None:
        with (
            ProcessPool(planted(full="002"), 2) as pool,
            pytest.raises(ResultError, match="No space left on device"),
        ):
            list(pool.run(items(30)))

    def test_stopping_ends_what_is_in_work(self, planted: Callable[..., Planted]) -> None:
        opening = planted(forever=True)
        with ProcessPool(opening, 2) as pool:
            found = list(pool.run(items(9), lambda: len(opening.count("begin")) == 2))
        assert len(found) == 2
        assert all(not outcome.finished for _, outcome in found)

    def test_workers_end_when_their_parent_is_killed(
        self, planted: Callable[..., Planted], tmp_path: Path
    ) -> None:
        opening = planted(forever=True)
        code = (
            "import pathlib; from serving.planted_jobs import Planted; "
            "from serving.test_jobs import items; "
            "from ibisa_onnx.serving.process_pool import ProcessPool\n"
            f"opening = Planted(pathlib.Path({str(opening.log)!r}), forever=True)\n"
            "list(ProcessPool(opening, 2).run(items(9)))"
        )
        script = tmp_path / "driver.py"
        script.write_text(f"if __name__ == '__main__':\n    exec({code!r})\n")
        driver = subprocess.Popen([sys.executable, str(script)], env=environment())
        wait_until(lambda: len(opening.count("begin")) == 2)
        workers = {pid for _, pid, _ in opening.lines}
        driver.kill()
        driver.wait(SECONDS)
        wait_until(lambda: not any(map(is_alive, workers)))
        assert len(opening.count("end")) == 0


class TestManifest:
    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Manifest:
        return Manifest(FolderStorage(tmp_path), "0" * 64)

    def test_entries_come_back(self, manifest: Manifest) -> None:
        entries = [
            Entry("a.png", "1-2", sha256="ff", files=("a.ibisa.png",)),
            Entry("子犬\n.png", "1-2", failed=(0,), error="a\u2028b"),
            Entry("s3://b/0.tar", "7", 0, 256, failed=(3, 9), part="results/part-0a.parquet"),
        ]
        manifest.add("ab12", 0, entries[:2])
        manifest.add("ab12", 1, entries[2:])
        assert manifest.group("ab12") == {0: entries[:2], 1: entries[2:]}
        found = [entry for _, each in manifest.entries() for entry in each]
        assert {each.source: each for each in found} == {each.source: each for each in entries}

    def test_damaged_lines_count_as_missing(self, manifest: Manifest, tmp_path: Path) -> None:
        manifest.add("ab12", 0, [Entry("a", "1"), Entry("b", "2")])
        (path,) = tmp_path.rglob("*.jsonl")
        path.write_text('{"source": 3, "stamp": "1"}\nnull\n{"sou' + path.read_text()[20:])
        assert manifest.group("ab12") == {0: [Entry("b", "2")]}

    def test_a_killed_writer_leaves_no_fragment(self, manifest: Manifest, tmp_path: Path) -> None:
        manifest.add("ab12", 0, [Entry("a", "1")])
        (path,) = tmp_path.rglob("*.jsonl")
        (path.parent / ".ab12-000000001.jsonl.01234567.ibisa.tmp").write_text('{"source')
        assert list(manifest.group("ab12")) == [0]
        assert [each.name for each in path.parent.iterdir()] == [path.name]

    def test_a_manifest_is_of_one_request(self, manifest: Manifest, tmp_path: Path) -> None:
        manifest.start({"seed": 1})
        other = Manifest(FolderStorage(tmp_path), "1" * 64)
        other.add("ab12", 0, [Entry("a", "1")])
        assert list(manifest.entries()) == []
        assert other.others() == []  # a job that has done nothing stands in nobody's way
        manifest.discard()
        other.discard()
        assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["1" * 16]
        manifest.start({"seed": 1})
        manifest.add("ab12", 0, [Entry("a", "1")])
        assert [each["seed"] for each in other.others()] == [1]

    def test_what_is_missing_is_the_rest_of_each_range(self) -> None:
        chance = np.random.default_rng(0)
        for _ in range(50):
            rows = set(chance.integers(0, 30, 12).tolist())
            done = Done.of(Entry("t", "1", row, row + 1) for row in rows)
            left = {row for low, high in done.missing("t", "1", 0, 30) for row in range(low, high)}
            assert left == set(range(30)) - rows
            assert (done.images, done.has("t", "1")) == (len(rows), False)
        assert done.missing("t", "2", 0, 30) == [(0, 30)]

    def test_a_file_of_unknown_length_is_done_when_its_end_was_seen(self) -> None:
        done = Done.of([Entry("t", "1", 0, 5)])
        assert done.missing("t", "1", 0, None) == [(5, None)]
        done.add(Entry("t", "1", 7, 7, ended=True))
        assert done.missing("t", "1", 0, None) == [(5, 7)]
        done.add(Entry("t", "1", 5, 7))
        assert done.missing("t", "1", 0, None) == []

    def test_a_changed_file_is_not_done(self) -> None:
        done = Done.of([Entry("a", "1", failed=(0,)), Entry("b", "1")])
        assert (done.has("a", "1"), done.has_failed("a", "1"), done.has_failed("b", "1")) == (
            *(True, True),
            False,
        )
        assert (done.has("a", "2"), done.has_failed("a", "2")) == (False, False)
        assert (done.images, done.failed) == (2, 1)

    def test_a_job_in_which_nothing_works_ends(self) -> None:
        hope = Hope()
        hope.see(["a is damaged"] * 99)
        with pytest.raises(ResultError, match=r"none of the first 100 images .*: b is damaged"):
            hope.see(["b is damaged"])
        hope = Hope()
        hope.see([*["a is damaged"] * 99, None])
        hope.see(["a is damaged"] * 1000)


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


class TestSources:
    def test_a_folder_lists_what_run_explains(self, tmp_path: Path) -> None:
        for name in ("b.jpg", "a.PNG", "a.ibisa.png", ".c.png", "notes.txt", "d.tar", "e.parquet"):
            (tmp_path / name).write_bytes(b"")
        (tmp_path / "e.parquet").unlink()
        found = found_in([str(tmp_path), str(tmp_path / "b.jpg")], Columns())
        assert [(Path(each.source).name, each.kind) for each in found] == [
            ("a.PNG", FILES),
            ("b.jpg", FILES),
            ("d.tar", TAR),
        ]

    @pytest.mark.parametrize("workers", [1, 4])
    def test_a_tar_archive_is_read_in_ranges(self, tmp_path: Path, workers: int) -> None:
        members = {}
        for number in range(10):
            members[f"s/{number}.cls"] = str(number % 3).encode()
            members[f"s/{number}.png"] = b"image %d" % number
            members[f"s/{number}.json"] = b"{}"
        path = tar_of(tmp_path / "0.tar", members)
        columns = Columns(target="cls")
        found = found_in([str(path)], columns)
        done = Done.of([Entry(str(path), found[0].stamp, 2, 5)])
        cut = list(units(found, ["0"], columns, done, images=3, workers=workers))
        rows = [row for unit in cut for row in read(unit, columns, Done())]
        assert [row.number for row in rows] == [0, 1, *range(5, 10)]
        for row in rows:
            assert (row.image, row.target) == (b"image %d" % row.number, str(row.number % 3))
            assert row.source == f"{path}#s/{row.number}.png"
            assert row.stem == f"0/{row.number:08d}"

    def test_names_in_a_tar_archive_lead_nowhere(self, tmp_path: Path) -> None:
        path = tar_of(tmp_path / "0.tar", {"../../x.png": b"1", "/etc/y.png": b"2"})
        found = found_in([str(path)], Columns())
        (unit,) = units(found, ["0"], Columns(), Done(), images=9, workers=9)
        assert [row.stem for row in read(unit, Columns(), Done())] == ["0/00000000", "0/00000001"]

    def test_a_damaged_tar_archive_is_one_error_after_what_is_whole(self, tmp_path: Path) -> None:
        path = tar_of(tmp_path / "0.tar", {f"{n}.png": bytes(2000) for n in range(4)})
        found = found_in([str(path)], Columns())
        (unit,) = units(found, ["0"], Columns(), Done(), images=9, workers=0)
        path.write_bytes(path.read_bytes()[:4000])
        rows = read(unit, Columns(), Done())
        assert next(rows).number == 0
        with pytest.raises(ImageError, match=r"0\.tar: cannot read: ReadError"):
            list(rows)

    def test_no_images_are_one_error(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="no images in this folder"):
            found_in([str(tmp_path)], Columns())
        with pytest.raises(ImageError, match=r"cannot read: No such file"):
            found_in([str(tmp_path / "none")], Columns())


def test_the_options_name_the_map_types() -> None:
    assert MAP_TYPES == tables.MAP_TYPES


# The command line.


def environment() -> dict[str, str]:
    roots = (str(Path(__file__).parents[2]), str(Path(__file__).parents[1]))
    return {**os.environ, "IBISA_ONNX_CACHE": "off", "PYTHONPATH": os.pathsep.join(roots)}


def _default_signals() -> None:
    """Undo that a shell ignores Ctrl-C in what it runs in the background, such as these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a folder; kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ibisa_onnx", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_signals,
    )
    hung = threading.Timer(SECONDS, process.kill)
    hung.start()
    try:
        yield process
    finally:
        hung.cancel()
        process.kill()
        process.communicate()


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run a command; return its code and output."""
    with running(folder, *words) as process:
        out, err = process.communicate()
        return process.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo model, six images, and one that is none."""
    return filled(tmp_path, 6)


def filled(folder: Path, count: int) -> Path:
    (folder / "in").mkdir()
    (folder / "m.onnx").write_bytes(model_path().read_bytes())
    for seed in range(count):
        image = draw_scene(np.random.default_rng(seed), count=2).image
        assert cv2.imwrite(str(folder / "in" / f"{seed:02d}.png"), image[..., ::-1])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of results; of records, what does not change from run to run."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found[path.name] = path.read_bytes()
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            found[path.name] = json.dumps({**record, "timings": None}).encode()
    return found


def test_jobs_write_and_print_what_run_does(folder: Path) -> None:
    (folder / "in" / "03b.png").write_bytes(b"no image")
    words = ("run", "m.onnx", "in", "--with-data", "-q", "-t", "top:2")
    alone = run(folder, *words, "-o", "out")
    (folder / "out").rename(folder / "alone")
    jobs = run(folder, *words, "-o", "out", "--jobs", "2")
    assert jobs == alone
    assert alone[0] == 1
    assert len(contents(folder / "out")) == 6 * 2 * 3
    assert contents(folder / "out") == contents(folder / "alone")
    # Each takes up where the other ended.
    again = run(folder, *words, "-o", "alone", "--jobs", "2")
    assert again[1].replace("alone/", "out/") == alone[1]
    states = [(path.name, path.stat().st_mtime_ns) for path in (folder / "alone").glob("*.png")]
    assert len(states) == 12
    assert run(folder, *words, "-o", "alone")[1] == again[1]
    assert states == [
        (path.name, path.stat().st_mtime_ns) for path in (folder / "alone").glob("*.png")
    ]


def test_the_manifest_names_model_options_and_images(folder: Path) -> None:
    assert run(folder, "run", "m.onnx", "in", "-o", "out", "--jobs", "2", "--seed", "4")[0] == 0
    (home,) = (folder / "out" / FOLDER).iterdir()
    head = json.loads((home / "job.json").read_text())
    assert head["request"].startswith(home.name)
    assert (head["seed"], head["model"]["file"], len(head["model"]["identity"])) == (
        *(4, "m.onnx"),
        64,
    )
    storage = FolderStorage(folder / "out")
    entries = [each for _, found in Manifest(storage, head["request"]).entries() for each in found]
    from ibisa_onnx.io.images import image_sha256

    images = sorted((folder / "in").iterdir())
    assert sorted(each.source for each in entries) == [str(path) for path in images]
    for each in entries:
        assert each.sha256 == image_sha256(each.source)
        assert each.files == (f"{Path(each.source).stem}.ibisa.png",)


def test_images_that_failed_are_not_tried_again_unless_they_change(folder: Path) -> None:
    bad = folder / "in" / "bad.png"
    bad.write_bytes(b"no image")
    words = ("run", "m.onnx", "in", "-o", "out", "--jobs", "1")
    code, _, err = run(folder, *words)
    assert (code, err.count("\n")) == (1, 1)
    assert "in/bad.png is damaged" in err
    code, out, err = run(folder, *words)
    assert (code, out) == (1, "")
    assert "skipped 6 of 7 images" in err
    assert "skipped 1 image that failed in an earlier run; use --retry-errors" in err
    code, _, err = run(folder, *words, "--retry-errors")
    assert code == 1
    assert "in/bad.png is damaged" in err
    bad.write_bytes((folder / "in" / "00.png").read_bytes())
    code, out, err = run(folder, *words)
    assert (code, out.count("written")) == (0, 1)
    assert (folder / "out" / "bad.ibisa.png").exists()


def test_a_run_killed_ten_times_loses_nothing_and_repeats_what_was_in_work(tmp_path: Path) -> None:
    count, workers, chance = 40, 2, random.Random(1)
    folder = filled(tmp_path, count)
    words = ("run", "m.onnx", "in", "--with-data", "-o", "out", "--jobs", str(workers))
    out = folder / "out"

    def overlays() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in out.glob("*.ibisa.png")}

    repeated = 0
    for _ in range(10):
        before = overlays()
        wanted = len(before) + chance.randrange(4)
        with running(folder, *words) as process:
            wait_until(lambda wanted=wanted: len(overlays()) >= wanted, process)
            workers_now = children(process.pid)
            process.send_signal(signal.SIGKILL)
        wait_until(lambda pids=workers_now: not any(map(is_alive, pids)))
        repeated += sum(overlays().get(name) != number for name, number in before.items())
    before = overlays()
    assert repeated == 0  # an overlay is written last, so what it belongs to was finished
    assert 0 < len(before) < count
    code, printed, _ = run(folder, *words, "-q")
    assert code == 0
    assert len(printed.splitlines()) == 3 * count
    after = overlays()
    assert {name: after[name] for name in before} == before
    assert len(after) == count
    assert run(folder, "run", "m.onnx", "in", "--with-data", "-o", "alone")[0] == 0
    assert contents(out) == contents(folder / "alone")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


def test_workers_of_a_run_that_are_killed_are_replaced(tmp_path: Path) -> None:
    folder = filled(tmp_path, 60)
    out = folder / "out"
    with running(folder, "run", "m.onnx", "in", "-o", "out", "--jobs", "2", "-q") as process:
        for kill in range(3):
            wait_until(lambda kill=kill: len(list(out.glob("*.ibisa.png"))) >= 6 * kill + 2)
            busy = [pid for pid in children(process.pid) if b"spawn_main" in command_of(pid)]
            os.kill(random.Random(kill).choice(busy), signal.SIGKILL)
        printed, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    names = [f"out/{number:02d}.ibisa.png" for number in range(60)]
    assert printed.splitlines() == names


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_ctrl_c_ends_early_and_the_same_command_resumes(tmp_path: Path) -> None:
    folder = filled(tmp_path, 12)
    words = ("run", "m.onnx", "in", "-o", "out", "--jobs", "2", "--preset", "quality")
    with running(folder, *words) as process:
        wait_until(lambda: len(list((folder / "out").glob("*.ibisa.png"))) >= 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "not explained; rerun the same command to resume" in errors
    code, _, errors = run(folder, *words)
    assert code == 0
    assert "skipped" in errors
    assert len(list((folder / "out").glob("*.ibisa.png"))) == 12


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.onnx", "in", "-o", "out"], 1, "none.onnx does not exist"),
        (["m.onnx", "in", "-o", "m.onnx"], 1, "m.onnx is a file, not a folder"),
        (["m.onnx", "empty", "-o", "out"], 1, "no images in this folder"),
        (["m.onnx", "in", "-o", "out", "-t", "zebra"], 1, "zebra"),
        (["m.onnx", "in/00.png", "-o", "a.png"], 2, "--jobs requires a folder"),
        (["m.onnx", "a.parquet", "-o", "out"], 2, "a.parquet holds many images, which requires"),
        (["m.onnx", "-", "-o", "out"], 2, "--jobs reads and writes files"),
        (["m.onnx", "in", "-o", "out", "--map-type", "uint8"], 2, "--map-type requires --on ray"),
    ],
)
def test_a_fault_of_the_job_is_one_line_and_leaves_nothing(
    folder: Path, words: list[str], code: int, message: str
) -> None:
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    found = run(folder, "run", *words, "--jobs", "2")
    assert (found[0], found[1]) == (code, "")
    assert message in found[2].splitlines()[0]
    assert len(found[2].splitlines()) == code
    left = [path for path in sorted(folder.rglob("*")) if path not in before]
    assert [path for path in left if path.is_file()] == []


def test_a_full_disk_is_one_line_and_the_run_resumes(folder: Path) -> None:
    code = (
        "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        "sys.argv = ['ibisa-onnx', 'run', 'm.onnx', 'in', '-o', 'out', '--jobs', '2']; "
        "runpy.run_module('ibisa_onnx', run_name='__main__')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert "cannot write: File too large; free some space, then rerun" in found.stderr
    assert [path for path in folder.rglob("*ibisa*") if path.is_file()] == []
    assert run(folder, "run", "m.onnx", "in", "-o", "out", "--jobs", "2")[0] == 0


# What a stranger's files could do.


@pytest.mark.parametrize("words", [("--threads", "1"), ("--jobs", "2")])
def test_an_image_is_not_overwritten_through_a_link(folder: Path, words: tuple[str, ...]) -> None:
    photo = (folder / "in" / "00.png").read_bytes()
    (folder / "out").mkdir()
    (folder / "out" / "01.ibisa.png").symlink_to(folder / "in" / "00.png")
    code, _, errors = run(folder, "run", "m.onnx", "in", "-o", "out", *words)
    assert code == 1
    assert "01.ibisa.png" in errors
    assert (folder / "in" / "00.png").read_bytes() == photo


def test_links_do_not_lead_out_of_a_storage(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "a").write_bytes(b"a")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "link").symlink_to(tmp_path / "else")
    (tmp_path / "home" / "file").symlink_to(tmp_path / "else" / "a")
    os.mkfifo(tmp_path / "home" / "pipe")
    storage = FolderStorage(tmp_path / "home")
    for call in (
        lambda: storage.read("link/a"),
        lambda: storage.read("file"),
        lambda: storage.read("../else/a"),
        lambda: storage.write({"file": b"b"}),
        lambda: storage.names("link"),
        lambda: storage.remove(["link/a"]),
    ):
        with pytest.raises(ResultError, match=r"is a link; remove it, or change -o"):
            call()
    with pytest.raises(ResultError, match="pipe is not a file"):
        storage.read("pipe")
    assert (tmp_path / "else" / "a").read_bytes() == b"a"


@pytest.mark.parametrize(
    "line",
    [
        '{"source": "x", "stamp": "y", "start": "a", "stop": "b"}',
        '{"source": "x", "stamp": "y", "start": 5, "stop": 2}',
        '{"source": "x", "stamp": "y", "start": 0}',
        '{"source": "x", "stamp": "y", "failed": ["1"]}',
        '{"source": "x", "stamp": "y", "part": "../a.parquet"}',
        "[" * 100_000,
    ],
)
def test_lines_of_a_manifest_that_cannot_be_are_missing(tmp_path: Path, line: str) -> None:
    manifest = Manifest(FolderStorage(tmp_path), "0" * 64)
    manifest.add("ab12", 0, [Entry("a", "1")])
    (path,) = tmp_path.rglob("*.jsonl")
    path.write_text(path.read_text() + line + "\n")
    assert manifest.group("ab12") == {0: [Entry("a", "1")]}
    (tmp_path / "ibisa-job" / "1").mkdir()
    (tmp_path / "ibisa-job" / "1" / "job.json").write_text("[" * 100_000)
    assert manifest.others() == []  # it has done nothing
    (tmp_path / "ibisa-job" / "1" / "done" / "ab").mkdir(parents=True)
    (tmp_path / "ibisa-job" / "1" / "done" / "ab" / "ab-000000000.jsonl").touch()
    assert manifest.others() == [{}]


def test_an_entry_keeps_names_that_are_not_utf_8() -> None:
    entry = Entry("caf\udce9\u202e.png", "1", error="caf\udce9.png is damaged")
    assert Entry.of(entry.line()) == entry


def test_a_stem_belongs_to_the_source_that_used_it_first() -> None:
    done = Done.of([Entry("s1/a.png", "1", stem="a"), Entry("t/0.tar", "1", 0, 5, stem="0")])
    assert done.own_stem("s1/a.png", "a") == "a"
    assert done.own_stem("t/0.tar", "0") == "0"
    assert done.own_stem("s2/b.png", "b") == "b"
    other = done.own_stem("s2/a.png", "a")
    assert other.startswith("a-")
    assert other == done.own_stem("s2/a.png", "a") != done.own_stem("s3/a.png", "a")


def test_one_success_is_enough() -> None:
    entries = [Entry("a", "1", failed=(0,), error="e"), Entry("a", "1")]
    for each in (entries, entries[::-1]):
        done = Done.of(each)
        assert (done.images, done.failed, done.has_failed("a", "1")) == (1, 0, False)


def test_images_of_several_folders_and_spellings(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "x.png").write_bytes((folder / "in" / "00.png").read_bytes())
    code, _, errors = run(
        folder, "run", "m.onnx", str(folder / "a" / "x.png"), "b/x.png", "--jobs", "2"
    )
    assert (code, errors) == (0, "")
    assert (folder / "a" / "ibisa-job").is_dir()


class TestHostileSources:
    @staticmethod
    def rows(path: Path, columns: Columns) -> list[tuple[Any, Any, str | None]]:
        found = found_in([str(path)], columns)
        cut = units(found, ["0"], columns, Done(), images=1, workers=2)
        rows = [row for unit in cut for row in read(unit, columns, Done())]
        return [(row.image, row.target, row.error) for row in rows]

    def test_a_sample_is_not_divided_from_its_target(self, tmp_path: Path) -> None:
        tar = tar_of(tmp_path / "0.tar", {"a.0.png": b"0", "a.1.png": b"1", "a.cls": b"7"})
        for name in ("cls", "CLS"):
            assert self.rows(tar, Columns(target=name)) == [(b"0", "7", None), (b"1", "7", None)]
        found = self.rows(tar, Columns(target="clss"))
        assert [error for *_, error in found] == [
            f"{tar}#a.{n}.png: its sample has no member .clss" for n in (0, 1)
        ]

    def test_frames_of_one_name_are_not_gathered(self, tmp_path: Path) -> None:
        """They share a name up to the first dot, as all frames of a video may."""
        tar = tar_of(tmp_path / "0.tar", {f"v.{n}.png": b"%d" % n for n in range(50)})
        (unit,) = units(
            found_in([str(tar)], Columns()), ["0"], Columns(), Done(), images=99, workers=1
        )
        rows = read(unit, Columns(), Done())
        assert next(rows).image == b"0"

    def test_a_header_that_fills_the_memory_is_rejected(self, tmp_path: Path) -> None:
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
        (tmp_path / "0.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
        with pytest.raises(ImageError, match=r"0\.tar: cannot read"):
            self.rows(tmp_path / "0.tar", Columns())

    def test_a_pipe_is_no_source(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "0.tar")
        with pytest.raises(ImageError, match=r"0\.tar"):
            self.rows(tmp_path / "0.tar", Columns())
