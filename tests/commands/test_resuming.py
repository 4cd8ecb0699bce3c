"""A run over many pictures that goes on where an earlier one ended."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ibisa_onnx.commands.resuming import _KEY
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.png_text import text_of, with_text

fcntl = pytest.importorskip("fcntl")
resource = pytest.importorskip("resource")


@pytest.fixture
def folder(fake, photo, tmp_path):
    """Three pictures and a model, and a run over them."""
    (tmp_path / "m.onnx").write_bytes(b"the model")
    for name in ("in/a.jpg", "in/b.jpg", "in/c.jpg"):
        photo(name)
    return tmp_path


def states(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in folder.iterdir()}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in found.items()}


def redone(cli, fake, *words: object) -> list[str]:
    """Run it again: the pictures that were explained."""
    result = cli("run", "m.onnx", "in", "-o", "out", "-q", *words)
    assert result.code == 0, result.err
    return [Path(image).stem for image, *_ in fake.last.asked]


def test_what_is_finished_is_neither_explained_nor_touched_and_is_told(cli, fake, folder):
    first = cli("run", "m.onnx", "in", "-o", "out", "-q", "--with-data")
    before = states(folder / "out")
    again = cli("run", "m.onnx", "in", "-o", "out", "-q", "--with-data")
    assert (again.code, again.out, again.err) == (0, first.out, "")
    assert len(first.out.splitlines()) == 9
    assert fake.last.asked == []
    assert states(folder / "out") == before
    said = cli("run", "m.onnx", "in", "-o", "out", "--with-data")
    assert said.out == ""
    assert said.err.splitlines() == [
        "ibisa-onnx: skipped 3 of 3 images: results already exist; "
        "use --overwrite to recompute them"
    ]


def test_only_what_is_missing_is_done(cli, fake, folder):
    assert redone(cli, fake) == ["a", "b", "c"]
    (folder / "out" / "b.ibisa.png").unlink()
    assert redone(cli, fake) == ["b"]
    assert redone(cli, fake) == []
    assert redone(cli, fake, "--overwrite") == ["a", "b", "c"]


def test_json_names_the_files_of_what_is_skipped(cli, fake, folder):
    first = cli("run", "m.onnx", "in", "-o", "out", "--json", "-t", "top:2")
    again = cli("run", "m.onnx", "in", "-o", "out", "--json", "-t", "top:2")
    wanted = [json.loads(line) for line in first.out.splitlines()]
    assert [json.loads(line) for line in again.out.splitlines()] == [
        {"image": each["image"], "files": each["files"], "skipped": True} for each in wanted
    ]


@pytest.mark.parametrize(
    "words",
    [
        *(["--seed", 1], ["-t", "1"], ["--preset", "fast"], ["--with-data"]),
        *(["--deadline-ms", 50], ["--method", "random"], ["--mean", "1"], ["--kind", "detector"]),
        *(["--output", "y"], ["--extra-input", "t=1"], ["--gradient", "forward-only"]),
    ],
)
def test_other_options_are_another_request(cli, fake, folder, words):
    redone(cli, fake)
    assert redone(cli, fake, *words) == ["a", "b", "c"]
    assert redone(cli, fake, *words) == []


def test_what_is_drawn_is_part_of_the_request(cli, fake, folder, monkeypatch):
    real = fake._explanation

    def signed(picture, index, seed):
        made = real(picture, index, seed)
        zeros = np.zeros_like(made.map)
        return replace(made, against=zeros, effect=zeros, uncertainty=zeros)

    monkeypatch.setattr(fake, "_explanation", staticmethod(signed))
    for words in ([], ["--signed"], ["--uncertainty"], ["--signed", "--uncertainty"]):
        assert redone(cli, fake, *words) == ["a", "b", "c"]
        assert redone(cli, fake, *words) == []


def test_another_model_or_picture_is_explained(cli, fake, folder, photo):
    redone(cli, fake)
    shutil.copy(folder / "in" / "a.jpg", folder / "in" / "c.jpg")
    shutil.copy(photo("longer-name.jpg"), folder / "in" / "c.jpg")
    assert redone(cli, fake) == ["c"]
    (folder / "m.onnx").write_bytes(b"another model")
    assert redone(cli, fake) == ["a", "b", "c"]


def test_a_file_that_a_target_names_counts_by_its_content(cli, fake, folder, photo):
    like = folder / "goat"  # the fake knows no similarities, but a class of that name
    like.write_bytes(b"one")
    redone(cli, fake, "-t", "goat")
    assert redone(cli, fake, "-t", "goat") == []
    like.write_bytes(b"another")
    assert redone(cli, fake, "-t", "goat") == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", [".png", ".npy", ".json"])
@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "changed", "pipe"])
def test_a_result_that_is_not_whole_is_made_again(cli, fake, folder, suffix, harm):
    redone(cli, fake, "--with-data")
    path = folder / "out" / f"b.ibisa{suffix}"
    whole = path.read_bytes()
    path.unlink()
    if harm == "pipe":
        os.mkfifo(path)
    elif harm != "missing":
        turned = bytes([*whole[:-30], whole[-30] ^ 1, *whole[-29:]])
        turned = turned if suffix != ".json" else whole.replace(b'"request": "', b'"request": "0')
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "changed": turned}[harm])
    if harm == "pipe":  # which is written into, and has no reader here
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        assert "b" in redone(cli, fake, "--with-data")
        os.close(descriptor)
        return
    assert redone(cli, fake, "--with-data") == ["b"]
    if suffix != ".json":
        assert path.read_bytes() == whole
    assert redone(cli, fake, "--with-data") == []


def test_several_targets_are_finished_when_all_are(cli, fake, folder):
    words = ("-t", "top:3", "--with-data")
    redone(cli, fake, *words)
    assert redone(cli, fake, *words) == []
    out = folder / "out"
    (out / "a.goat.ibisa.png").unlink()  # the first
    (out / "b.class-2.ibisa.png").unlink()  # the last
    (out / "c.creme-brulee.ibisa.npy").unlink()
    assert redone(cli, fake, *words) == ["a", "b", "c"]
    assert redone(cli, fake, *words) == []


def test_one_of_several_targets_that_another_run_wrote_over_is_made_again(cli, fake, folder):
    words = ("-t", "top:3")
    redone(cli, fake, *words)
    whole = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    cli("run", "m.onnx", "in/b.jpg", "-o", "out/", "-t", "top:2", "--seed", 5)
    assert redone(cli, fake, *words) == ["b"]
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == whole


def test_a_run_that_ended_among_the_targets_is_not_finished(cli, fake, folder, monkeypatch):
    words, real = ("-t", "top:3"), fake._explanation

    def killed(picture, index, seed):
        if index == 2:
            raise KeyboardInterrupt
        return real(picture, index, seed)

    monkeypatch.setattr(fake, "_explanation", staticmethod(killed))
    assert cli("run", "m.onnx", "in", "-o", "out", *words).code == 130
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "a.creme-brulee.ibisa.png",
        "a.goat.ibisa.png",
    ]
    monkeypatch.undo()
    monkeypatch.setattr("ibisa_onnx.Explainer", fake, raising=False)
    monkeypatch.chdir(folder)
    assert redone(cli, fake, *words) == ["a", "b", "c"]


def test_one_picture_by_its_name_is_always_explained(cli, fake, folder):
    redone(cli, fake)
    result = cli("run", "m.onnx", "in/a.jpg", "-o", "out/")
    assert "goat (0) 87.5%" in result.out
    assert fake.last.asked
    (folder / "in" / "b.jpg").unlink(), (folder / "in" / "c.jpg").unlink()
    assert redone(cli, fake) == []  # a folder of one


def test_pictures_beside_each_other_and_by_name_resume_too(cli, fake, folder):
    words = ("run", "m.onnx", "in/a.jpg", "in/b.jpg", "-q")
    first = cli(*words)
    assert (cli(*words).out, fake.last.asked) == (first.out, [])


def test_a_map_that_was_cut_short_by_ctrl_c_is_made_again(cli, fake, folder, monkeypatch):
    real = fake._explanation

    def cut(picture, index, seed):
        signal.raise_signal(signal.SIGINT)
        made = real(picture, index, seed)
        return replace(made, completion=replace(made.completion, cut_short="stop"))

    monkeypatch.setattr(fake, "_explanation", staticmethod(cut))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert cli("run", "m.onnx", "in", "-o", "out").code == 130
    signal.signal(signal.SIGINT, before)
    assert (folder / "out" / "a.ibisa.png").exists()
    monkeypatch.setattr(fake, "_explanation", staticmethod(real))
    assert redone(cli, fake) == ["a", "b", "c"]


def test_a_damaged_picture_is_tried_again(cli, fake, folder):
    (folder / "in" / "b.jpg").write_bytes(b"no picture")
    for _ in range(2):
        result = cli("run", "m.onnx", "in", "-o", "out", "-q")
        assert result.code == 1
        assert result.out == "out/a.ibisa.png\nout/c.ibisa.png\n"
        assert len(result.err.splitlines()) == 1


def test_the_text_in_an_overlay_is_not_believed(cli, fake, folder):
    redone(cli, fake, "--with-data")
    path = folder / "out" / "b.ibisa.png"
    png = path.read_bytes()
    text = text_of(png, _KEY)
    said = json.loads(text)
    start = png.index(b"tEXt") - 4
    plain = png[:start] + png[start + 12 + len(_KEY) + 1 + len(text) :]
    outside = {**said["files"], "../../m.onnx": None}
    forged = [
        "[" * 100_000,
        *("null", "7", "[]", '"text"', "{}", "no JSON"),
        *(
            json.dumps({**said, **change})
            for change in (
                {"request": "0" * 64},
                {"request": None},
                {"files": []},
                {"files": outside},
                {"files": {**said["files"], "b.ibisa.png.exe": None}},
                {"files": dict.fromkeys(said["files"], 3)},
                {"files": {"b.ibisa.npy": said["files"]["b.ibisa.npy"]}},
                {"overlays": []},
                {"overlays": [["b.ibisa.png"]]},
                {"overlays": ["../b.ibisa.png"]},
                {"overlays": {"b.ibisa.png": 1}},
                {"overlays": ["a.ibisa.png", "b.ibisa.png"]},
                {"last": False},
                {"more": 1},
            )
        ),
    ]
    for each in forged:
        path.write_bytes(with_text(plain, _KEY, each))
        assert redone(cli, fake, "--with-data") == ["b"], each[:200]
    assert path.read_bytes() == png


class Disk:
    """Takes so many bytes, and then none."""

    def __init__(self, monkeypatch, free: int) -> None:
        self.free, real = free, Path.open

        def opened(path, *args, **options):
            file = real(path, *args, **options)
            return file if "x" not in (*args, "")[0] else _Full(file, self)

        monkeypatch.setattr(Path, "open", opened)


class _Full:
    def __init__(self, file, disk) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, data):
        self._file.write(data[: self._disk.free])
        if len(data) > self._disk.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.free -= len(data)


def test_a_full_disk_ends_the_run_with_what_is_done(cli, fake, folder, monkeypatch):
    redone(cli, fake)
    sizes = [path.stat().st_size for path in sorted((folder / "out").iterdir())]
    shutil.rmtree(folder / "out")
    disk = Disk(monkeypatch, sizes[0] + sizes[1] // 2)
    result = cli("run", "m.onnx", "in", "-o", "out", "-q")
    assert (result.code, result.out) == (1, "out/a.ibisa.png\n")
    assert result.err.splitlines() == [
        "ibisa-onnx: error: stopped after 1 of 3 images; out/b.ibisa.png: cannot write: No space "
        "left on device; free some space, then rerun the same command to resume"
    ]
    assert [path.name for path in (folder / "out").iterdir()] == ["a.ibisa.png"]
    disk.free = 10**6
    assert redone(cli, fake) == ["b", "c"]


ENVIRONMENT = {**os.environ, "IBISA_ONNX_CACHE": "off"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Four pictures of the embedded model's kind, the third of which is large."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed in range(4):
        image = draw_scene(np.random.default_rng(seed), count=2).image
        image = cv2.resize(image, (700, 700)) if seed == 2 else image
        assert cv2.imwrite(str(folder / f"{seed}.png"), image[..., ::-1])
    return folder


def command(scenes: Path, out: Path, *words: object, code: str = "") -> list[str]:
    run = ["run", str(model_path()), str(scenes), "-o", f"{out}/", "--json", *map(str, words)]
    code = f"{code}\nimport sys\nfrom ibisa_onnx.commands import main\nmain(sys.argv[1:])"
    return [sys.executable, "-c", code, *run]


def explained(lines: str) -> list[str]:
    records = [json.loads(line) for line in lines.splitlines()]
    return [Path(each["image"]).stem for each in records if "skipped" not in each]


def test_no_file_may_grow_beyond_a_limit(scenes, tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    words = command(scenes, tmp_path / "out")
    done = subprocess.run(
        words, capture_output=True, text=True, env=ENVIRONMENT, preexec_fn=limited
    )
    assert done.returncode == 1
    assert explained(done.stdout) == ["0", "1"]
    (line,) = (line for line in done.stderr.splitlines() if "error" in line)
    assert "stopped after 2 of 4 images" in line
    assert "File too large; free some space, then rerun the same command" in line
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0.ibisa.png",
        "1.ibisa.png",
    ]


def mounted(folder: Path, size: str) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return bool(shutil.which("mount")) and not subprocess.run(words, capture_output=True).returncode


def test_a_disk_that_is_truly_full(scenes, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mounted(disk, "400k"):
        pytest.skip("no file system may be mounted here")
    try:
        words = command(scenes, disk / "out")
        done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
        assert (done.returncode, explained(done.stdout)) == (1, ["0", "1"])
        (line,) = (line for line in done.stderr.splitlines() if "error" in line)
        assert "stopped after 2 of 4 images" in line
        assert "No space left on device" in line
        assert len(list((disk / "out").iterdir())) == 2
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
        assert (done.returncode, explained(done.stdout)) == (0, ["2", "3"])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


KILLED = """
import os, signal
from pathlib import Path
left, real = {left}, {method}
def killed(self, *args, **options):
    global left
    left -= "{word}" in args or not "{word}"
    if left < 0:
        {partly}
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args, **options)
{method} = killed
"""


def killed(left: int, method: str = "Path.replace", word: str = "", partly: str = "pass") -> str:
    """Return code that kills its process at a call of a method, of which `left` go well."""
    return KILLED.format(left=left, method=method, word=word, partly=partly)


def test_killed_at_the_worst_moments_it_does_only_what_is_missing(scenes, tmp_path):
    data = ("--with-data",)
    moments = (
        killed(2),  # the data of the first picture are there, its overlay is not
        killed(5),  # of the second one file is
        killed(3, "Path.open", "xb", "real(self, 'xb').write(b'half')"),  # one is half there
    )
    seen, finished = [], []
    for moment in moments:
        words = command(scenes, tmp_path / "out", *data, code=moment)
        done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == -signal.SIGKILL, done.stderr
        seen += explained(done.stdout)
        finished.append(len(list((tmp_path / "out").glob("*.ibisa.png"))))
    assert any(path.name.endswith(".ibisa.tmp") for path in (tmp_path / "out").iterdir())
    words = command(scenes, tmp_path / "out", *data)
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0
    seen += explained(done.stdout)
    assert seen == ["0", "1", "2", "3"], finished  # each is told of once
    undisturbed = command(scenes, tmp_path / "whole", *data)
    subprocess.run(undisturbed, check=True, capture_output=True, env=ENVIRONMENT)
    ours, theirs = (
        {each.name: each.read_bytes() for each in (tmp_path / name).iterdir()}
        for name in ("out", "whole")
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert name.endswith(".json") or ours[name] == theirs[name], name


def test_two_runs_at_once_do_not_harm_each_other(scenes, tmp_path):
    words = command(scenes, tmp_path / "out", "-t", "top:2")
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        for _ in range(2)
    ]
    for each in both:
        out, err = each.communicate(timeout=120)
        assert (each.returncode, b"error" in err) == (0, False), err
        assert len(out.splitlines()) == 8
    again = subprocess.run(words, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert explained(again.stdout) == []
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_what_a_killed_writer_left_goes_and_what_a_living_one_holds_stays(cli, fake, folder):
    out = folder / "out"
    write_files({out / "mine.txt": b"mine"})
    left, held, theirs = (
        out / name for name in (".a.0123abcd.ibisa.tmp", ".a.89abcdef.ibisa.tmp", ".a.tmp")
    )
    for path in (left, held, theirs):
        path.write_bytes(b"half")
    (out / ".a.01230123.ibisa.tmp").symlink_to(out / "mine.txt")
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        redone(cli, fake)
    assert (left.exists(), held.exists(), theirs.exists()) == (False, True, True)
    assert (out / "mine.txt").read_bytes() == b"mine"
    redone(cli, fake)
    assert not held.exists()
