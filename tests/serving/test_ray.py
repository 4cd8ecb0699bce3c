"""Jobs on Ray: the same maps as `run`, every image once, whatever is killed."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving.planted_jobs import Planted
from serving.test_jobs import (
    SECONDS,
    contents,
    environment,
    filled,
    is_alive,
    run,
    running,
    tar_of,
    wait_until,
)

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path
from ibisa_onnx.errors import ImageError, ModelError, OptionError, ResultError

ray = pytest.importorskip("ray")
fsspec = pytest.importorskip("fsspec")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from ibisa_onnx.serving import storage  # noqa: E402
from ibisa_onnx.serving.jobs import RESULTS, Done, Manifest  # noqa: E402
from ibisa_onnx.serving.ray import (  # noqa: E402
    Explain,
    RayJob,
    Receipt,
    done_at,
    forget_failed,
    remove_unlisted,
    run_units,
)
from ibisa_onnx.serving.sources import Columns, Unit, found_in, read, units  # noqa: E402
from ibisa_onnx.serving.storage import UrlStorage, sole_writer, storage_at  # noqa: E402
from ibisa_onnx.serving.tables import parquet_of  # noqa: E402

_STORE = 80 << 20  # bytes of a node's object store


@pytest.fixture(scope="module")
def workers_path() -> Iterator[None]:
    """Let workers import this package and these tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment(), "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(workers_path: None) -> Iterator[Any]:
    """A cluster of one node with two cores, to which this process is connected."""
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": _STORE}
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="CRITICAL")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path, 6)


def rows_of(place: Path) -> list[dict[str, Any]]:
    """The rows of all results of a job, by source."""
    rows = parquet.read_table(place / RESULTS).to_pylist()
    return sorted(rows, key=lambda row: row["source"])


def map_of(row: dict[str, Any]) -> np.ndarray:
    return np.load(io.BytesIO(row["map"]))


class TestExplain:
    """The class that users pass to `map_batches`."""

    @pytest.fixture
    def explainer(self) -> ibisa.Explainer:
        return ibisa.Explainer(model_path(), threads=1, cache=False)

    @staticmethod
    def explained(rows: list[dict[str, Any]], **given: Any) -> list[dict[str, Any]]:
        found = ray.data.from_items(rows).map_batches(
            Explain,
            fn_constructor_kwargs={"model": str(model_path()), "cache": False, **given},
            batch_size=4,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        return list(found.take_all())

    def test_maps_are_those_of_explain_and_other_columns_are_kept(
        self, cluster: Any, folder: Path, explainer: ibisa.Explainer
    ) -> None:
        paths = sorted(map(str, (folder / "in").iterdir()))
        found = self.explained([{"image": path, "n": n} for n, path in enumerate(paths)])
        assert sorted(row["n"] for row in found) == list(range(6))
        for row in found:
            expected = explainer.explain(paths[row["n"]])
            np.testing.assert_array_equal(map_of(row), expected.map)
            assert row["image"] == paths[row["n"]]
            assert (row["target_index"], row["target_label"], row["target_probability"]) == (
                expected.target.index,
                expected.target.label,
                expected.target.probability,
            )
            record = json.loads(row["record"])
            assert record["provenance"]["image_sha256"] == row["image_sha256"]
            assert (row["error"], row["overlay"]) == (None, None)

    def test_a_bad_image_is_a_row_with_an_error(self, cluster: Any, folder: Path) -> None:
        good = (folder / "in" / "00.png").read_bytes()
        items = [{"image": data, "n": n} for n, data in enumerate([good, b"no image", good])]
        found = {row["n"]: row for row in self.explained(items, maps="none", overlay=True)}
        assert "image" not in found[0]
        assert found[0]["overlay"].startswith(b"\x89PNG")
        assert (found[0]["error"], found[0]["map"], found[1]["map"]) == (None, None, None)
        assert "is damaged" in found[1]["error"]
        assert found[2]["image_sha256"] == found[0]["image_sha256"]

    def test_targets_come_from_a_column_or_are_fixed(self, cluster: Any, folder: Path) -> None:
        path = str(folder / "in" / "00.png")
        items = [{"image": path, "class": name} for name in ("star", "ring", "zebra")]
        found = {row["class"]: row for row in self.explained(items, target="class")}
        assert found["star"]["target_label"] == "star"
        assert found["ring"]["target_label"] == "ring"
        assert "zebra" in found["zebra"]["error"]
        several = self.explained([{"image": path}], targets="top:3")
        assert len({row["target_label"] for row in several}) == 3

    def test_pixels_and_small_maps(self, folder: Path, explainer: ibisa.Explainer) -> None:
        pixels = explainer.explain(str(folder / "in" / "00.png")).image
        batch = {"image": np.stack([pixels, pixels]), "tag": np.ones((2, 3))}
        for maps, scale, atol in (("uint8", 255, 0.5 / 255), ("float16", 1, 1e-3)):
            table = Explain(model_path(), maps=maps, cache=False)(batch)
            assert table.column_names[0] == "tag"
            assert table.num_rows == 2
            map = map_of(table.to_pylist()[0])
            assert map.dtype == maps
            np.testing.assert_allclose(map / scale, explainer.explain(pixels).map, atol=atol + 1e-7)

    def test_wrong_arguments_are_one_line(self) -> None:
        with pytest.raises(OptionError, match="map type 'int4' does not exist"):
            Explain(model_path(), maps="int4")
        explain = Explain(model_path(), cache=False)
        with pytest.raises(OptionError, match="there is no column 'image'; found path"):
            explain({"path": ["a.png"]})
        with pytest.raises(OptionError, match="already has a column 'map'; pass prefix="):
            explain({"image": ["a.png"], "map": [b""]})
        assert (
            "ibisa_map"
            in Explain(model_path(), cache=False, prefix="ibisa_")(
                {"image": np.array(["a.png"]), "map": np.array([1])}
            ).column_names
        )


class Job:
    """A planted job over files, and what came of it."""

    def __init__(self, home: Path, count: int, images: int, part: int, **given: Any) -> None:
        (home / "in").mkdir()
        for number in range(count):
            (home / "in" / f"{number:03d}.png").write_bytes(b"%d" % number)
        self.place, self.opening = home / "out", Planted(home / "log", **given)
        self.names = [f"{home}/in/{number:03d}.png" for number in range(count)]
        self.ray = RayJob(self.opening, str(self.place), "f" * 64, part_images=part)
        self._images = images

    def units(self) -> list[Unit]:
        """What is left to do."""
        found = found_in([str(self.place.parent / "in")], Columns())
        stems = [Path(each.source).stem for each in found]
        return list(units(found, stems, Columns(), self.done(), images=self._images, workers=2))

    def done(self) -> Done:
        """What the manifest lists."""
        return Done.of(entry for _, each in self.ray.manifest.entries() for entry in each)

    def run(self) -> list[Receipt]:
        """Do what is left."""
        receipts = list(run_units(self.ray, self.units(), actors=2))
        remove_unlisted(str(self.place), self.done().parts)
        return receipts

    def ended(self) -> int:
        """How many images were finished so far, repeated ones included."""
        return sum(self.opening.count("end").values())

    def check_whole(self) -> None:
        """Every image has one row, and is done."""
        assert [row["source"] for row in rows_of(self.place)] == self.names
        assert self.done().images == len(self.names)
        assert self.units() == []


@pytest.fixture
def kill() -> Iterator[Callable[..., threading.Thread]]:
    """Do something once a job has got somewhere, beside it."""
    threads: list[threading.Thread] = []
    over = threading.Event()

    def start(job: Job, wanted: list[int], do: Callable[[], object]) -> threading.Thread:
        def watch() -> None:
            for count in wanted:
                while job.ended() < count and not over.is_set():
                    time.sleep(0.005)
                do()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    over.set()
    for thread in threads:
        thread.join(SECONDS)


@pytest.mark.slow
def test_actors_killed_ten_times_lose_nothing_and_repeat_what_was_in_work(
    cluster: Any, tmp_path: Path, kill: Callable[..., threading.Thread]
) -> None:
    part, kills = 5, 10
    job = Job(tmp_path, 150, images=25, part=part, rounds=4)
    killed: list[int] = []

    def kill_actor() -> None:
        pid = random.Random(len(killed)).choice([pid for _, pid, _ in job.opening.lines[-4:]])
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    thread = kill(job, [10 * (number + 1) for number in range(kills)], kill_actor)
    receipts = job.run()
    thread.join(SECONDS)
    assert len(killed) == kills
    assert sum(each.images for each in receipts) == 150
    assert [error for each in receipts for error in each.errors if error] == []
    job.check_whole()
    assert sum(job.opening.count("begin").values()) <= 150 + kills * part


def test_an_image_that_kills_its_actors_is_a_row_with_an_error(
    cluster: Any, tmp_path: Path
) -> None:
    job = Job(tmp_path, 12, images=6, part=4, deadly="007", bad="003")
    receipts = job.run()
    errors = sorted(error for each in receipts for error in each.errors if error)
    assert len(errors) == 2
    assert errors[0] == f"{job.names[3]} is damaged"
    assert errors[1].startswith(f"{job.names[7]}: its worker process died 2 times")
    job.check_whole()
    assert [bool(row["error"]) for row in rows_of(job.place)] == [n in (3, 7) for n in range(12)]
    assert job.opening.count("begin")[job.names[7]] == 3
    assert (job.done().images, job.done().failed) == (12, 2)
    # Forgetting what failed keeps the rows of all others as they are.
    forget_failed(str(job.place), job.ray.manifest)
    assert [unit.sources for unit in job.units()] == [(job.names[3], job.names[7])]
    remove_unlisted(str(job.place), job.done().parts)
    assert [row["source"] for row in rows_of(job.place)] == [
        name for name in job.names if name not in (job.names[3], job.names[7])
    ]


@pytest.mark.slow
def test_a_node_that_is_killed_loses_nothing(
    workers_path: None, cluster: Any, tmp_path: Path, kill: Callable[..., threading.Thread]
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=_STORE)
    job = Job(tmp_path, 90, images=10, part=5, rounds=4)
    thread = kill(job, [30], lambda: cluster.remove_node(node, allow_graceful=False))
    receipts = list(run_units(job.ray, job.units(), actors=3))
    thread.join(SECONDS)
    remove_unlisted(str(job.place), job.done().parts)
    assert len({pid for what, pid, _ in job.opening.lines if what == "open"}) >= 3
    assert sum(each.images for each in receipts) == 90
    job.check_whole()


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"unsound": True}, ModelError, "m.onnx is damaged; export it again"),
        ({"full": "004"}, ResultError, "No space left on device"),
    ],
)
def test_a_fault_of_the_job_ends_it(
    cluster: Any, tmp_path: Path, given: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Job(tmp_path, 8, images=2, part=2, **given).run()


class TestSources:
    """Where images come from, without Ray."""

    @staticmethod
    def rows(
        sources: list[str], columns: Columns | None = None, **given: int
    ) -> list[tuple[int, Any, Any, str | None]]:
        columns = columns or Columns()
        found = found_in(sources, columns)
        stems = [str(number) for number in range(len(found))]
        cut = units(found, stems, columns, Done(), **{"images": 4, "workers": 2, **given})
        rows = [row for unit in cut for row in read(unit, columns, Done())]
        return [(row.number, row.image, row.target, row.error) for row in rows]

    def test_parquet_of_bytes_structs_and_paths(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"a")
        data = [b"image %d" % number for number in range(10)]
        path = tmp_path / "0.parquet"
        for values in (data, [{"bytes": each, "path": None} for each in data]):
            table = arrow.table({"image": values, "class": list(range(10))})
            parquet.write_table(table, path, row_group_size=3)
            rows = self.rows([str(path)], Columns(target="class"))
            assert rows == [(n, each, n, None) for n, each in enumerate(data)]
        parquet.write_table(arrow.table({"path": ["a.png", "none.png", None]}), path)
        (first, second, third) = self.rows([str(tmp_path / "0.parquet")])
        assert first == (0, b"a", None, None)
        assert "none.png does not exist" in second[3]
        assert "an image is bytes or a path" in third[3]

    def test_parquet_without_the_column_is_one_line(self, tmp_path: Path) -> None:
        parquet.write_table(arrow.table({"a": [1], "b": [2]}), tmp_path / "0.parquet")
        with pytest.raises(OptionError, match=r"no column 'jpeg' of images; its columns are a, b"):
            found_in([str(tmp_path)], Columns("jpeg"))
        with pytest.raises(OptionError, match="no column 'c' of targets"):
            found_in([str(tmp_path)], Columns("a", "c"))
        (tmp_path / "1.parquet").write_bytes(b"PAR1")
        with pytest.raises(ImageError, match=r"1\.parquet: cannot read this Parquet file"):
            found_in([str(tmp_path / "1.parquet")], Columns())

    def test_files_of_fsspec(self, tmp_path: Path) -> None:
        system = fsspec.filesystem("memory")
        system.pipe({f"/images/{number}.png": b"%d" % number for number in range(3)})
        tar = tar_of(tmp_path / "0.tar", {f"{n}.jpg": b"t%d" % n for n in range(3)})
        system.pipe("/images/0.tar", tar.read_bytes())
        parquet.write_table(arrow.table({"path": ["2.png"]}), tmp_path / "0.parquet")
        system.pipe("/images/0.parquet", (tmp_path / "0.parquet").read_bytes())
        found = [image for _, image, *_ in self.rows(["memory://images"])]
        assert sorted(found) == [b"0", b"1", b"2", b"2", b"t0", b"t1", b"t2"]
        assert len(self.rows(["memory://images/*.png"])) == 3
        assert self.rows([f"file://{tar}"]) == self.rows([str(tar)])
        with pytest.raises(ImageError, match="memory://none: cannot list: it does not exist"):
            found_in(["memory://none"], Columns())
        with pytest.raises(ImageError, match="cannot open nosuch://x"):
            found_in(["nosuch://x"], Columns())

    def test_files_of_a_web_server(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"a")
        tar_of(tmp_path / "0.tar", {f"{n}.jpg": b"t%d" % n for n in range(3)})
        handler = functools.partial(_Silent, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            (tmp_path / "gone.png").write_bytes(b"g")
            found = found_in([f"{url}/a.png", f"{url}/0.tar", f"{url}/gone.png"], Columns())
            (tmp_path / "gone.png").unlink()
            cut = units(found, ["a", "0", "g"], Columns(), Done(), images=9, workers=1)
            rows = [row for unit in cut for row in read(unit, Columns(), Done())]
            assert sorted(row.image for row in rows if row.image) == [b"a", b"t0", b"t1", b"t2"]
            (error,) = (row.error for row in rows if row.error)
            assert "gone.png: cannot read: it does not exist" in error
            server.shutdown()

    def test_a_manifest_lies_at_a_url_too(self) -> None:
        storage = storage_at("memory://job")
        assert isinstance(storage, UrlStorage)
        from ibisa_onnx.serving.jobs import Entry

        manifest = Manifest(storage, "0" * 64)
        manifest.start({"seed": 1})
        manifest.add("ab12", 3, [Entry("a", "1")])
        assert manifest.group("ab12") == {3: [Entry("a", "1")]}
        assert [entries for _, entries in manifest.entries()] == [[Entry("a", "1")]]
        assert Manifest(storage, "1" * 64).others()[0]["seed"] == 1
        manifest.clear()
        assert storage.names("") == []


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_the_command_line_writes_what_run_does(folder: Path) -> None:
    (folder / "in" / "bad.png").write_bytes(b"no image")
    code, out, err = run(
        folder, "run", "m.onnx", "in", "-o", "out", "--on", "ray", "--jobs", "2", "--json"
    )
    assert code == 1
    assert json.loads(out) == {"results": "out/results", "explained": 6, "failed": 1, "skipped": 0}
    assert err.count("\n") == 1
    assert "in/bad.png is damaged" in err
    run(folder, "run", "m.onnx", "in", "-o", "alone", "--with-data", "-q", "--threads", "1")
    rows = rows_of(folder / "out")
    assert len(rows) == 7
    for row in rows[:6]:
        stem = Path(row["source"]).stem
        np.testing.assert_array_equal(map_of(row), np.load(folder / "alone" / f"{stem}.ibisa.npy"))
    # Overlays are those of `run`, by which it finds them finished.
    run(folder, "run", "m.onnx", "in", "-o", "plain", "-q", "--threads", "1")
    overlays = {name: data for name, data in contents(folder / "out").items() if "png" in name}
    assert overlays == contents(folder / "plain")
    again = run(folder, "run", "m.onnx", "in", "-o", "out", "--on", "ray", "-q")
    assert (again[0], again[1]) == (1, "out/results\n")
    assert rows_of(folder / "out") == rows
    other = run(folder, "run", "m.onnx", "in", "-o", "out", "--on", "ray", "--seed", "1")
    assert (other[0], other[1], other[2].count("\n")) == (1, "", 1)
    assert "holds what a job with other settings has done (seed)" in other[2]


@pytest.mark.slow
def test_parquet_and_tar_on_the_command_line(folder: Path) -> None:
    images = [path.read_bytes() for path in sorted((folder / "in").iterdir())]
    parquet.write_table(arrow.table({"jpeg": images[:3], "t": [5, 6, 7]}), folder / "0.parquet")
    tar_of(
        folder / "1.tar",
        {
            name: data
            for n, image in enumerate(images[3:])
            for name, data in ((f"{n}.jpeg", image), (f"{n}.t", b"%d" % n))
        },
    )
    words = ("run", "m.onnx", "0.parquet", "1.tar", "-o", "out", "--on", "ray", "--jobs", "2")
    columns = ("--image-column", "jpeg", "--target-column", "t", "--map-type", "uint8")
    code, out, err = run(folder, *words, *columns)
    assert (code, err) == (0, "")  # warnings on single maps are in their records
    assert out.splitlines() == ["explained 6 images", "  written  out/results"]
    found = {Path(row["source"]).name: row for row in rows_of(folder / "out")}
    assert [found[name]["target_index"] for name in sorted(found)] == [5, 6, 7, 0, 1, 2]
    assert all(map_of(row).dtype == np.uint8 for row in found.values())
    overlays = sorted(str(path.relative_to(folder / "out")) for path in folder.rglob("*.ibisa.png"))
    assert overlays == [f"{home}/{n:08d}.ibisa.png" for home in "01" for n in range(3)]
    # A row more in a file makes it another file; one more file is added.
    tar_of(folder / "2.tar", {"0.jpeg": images[0], "0.t": b"3"})
    code, out, err = run(folder, *words[:4], "2.tar", *words[4:], *columns)
    assert (code, out.splitlines()[0]) == (0, "explained 1 image")
    assert "skipped 6 images" in err
    missing = run(folder, *words, "--overwrite")
    assert (missing[0], missing[1], missing[2].count("\n")) == (1, "", 1)
    assert "0.parquet has no column 'image' or 'bytes'" in missing[2]
    assert len(rows_of(folder / "out")) == 7


@pytest.mark.slow
def test_a_driver_killed_ten_times_loses_nothing_and_repeats_what_was_in_work(
    tmp_path: Path, workers_path: None
) -> None:
    count, chance = 60, random.Random(2)
    folder = filled(tmp_path, count)
    out = folder / "out"
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": _STORE}
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    words = ("run", "m.onnx", "in", "-o", "out", "--on", "ray", "--ray-address", nodes.address)

    def parts() -> dict[str, int]:
        listed = {
            json.loads(line).get("part")
            for path in out.rglob("*.jsonl")
            if not path.name.startswith(".")
            for line in path.read_text().splitlines()
        }
        return {name: (out / name).stat().st_ino for name in listed if name}

    try:
        for _ in range(10):
            before = parts()
            wanted = min(len(before) + chance.randrange(3), count)
            with running(folder, *words, "-q") as process:
                wait_until(lambda wanted=wanted: len(parts()) >= wanted, process)
                process.send_signal(signal.SIGKILL)
            assert {name: parts().get(name) for name in before} == before
        code, printed, err = run(folder, *words, "-q")
    finally:
        nodes.shutdown()
    assert (code, printed, err) == (0, "out/results\n", "")
    rows = rows_of(out)
    assert [row["source"] for row in rows] == [f"{folder}/in/{n:02d}.png" for n in range(count)]
    assert len(list(out.glob("*.ibisa.png"))) == count
    assert [path for path in out.rglob("begun/*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.onnx", "in", "-o", "out"], 1, "none.onnx does not exist"),
        (["m.onnx", "in"], 2, "--on ray requires -o FOLDER"),
        (["m.onnx", "empty", "-o", "out"], 1, "no images in this folder"),
        (["m.onnx", "in", "-o", "m.onnx/"], 1, "m.onnx"),
        (["m.onnx", "in", "-o", "out", "--ray-address", "127.0.0.1:1"], 1, "cannot reach Ray"),
        (["m.onnx", "in", "-o", "out", "--ray-address", "ray://127.0.0.1:1"], 1, "by `ray job"),
        (["m.onnx", "in", "-o", "nosuch://x"], 1, "cannot open nosuch://x"),
        (["m.onnx", "in", "-o", "out", "-t", "zebra"], 1, "zebra"),
    ],
)
def test_a_fault_of_the_command_is_one_line_and_leaves_nothing(
    folder: Path, words: list[str], code: int, message: str
) -> None:
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    found = run(folder, "run", *words, "--on", "ray", "--jobs", "1")
    assert (found[0], found[1]) == (code, "")
    assert message in found[2].splitlines()[0]
    assert len(found[2].splitlines()) == code
    assert sorted(folder.rglob("*")) == before


def test_rows_are_written_with_a_schema() -> None:
    """Also of a part in which all is null, so that parts can be read together."""
    table = parquet.read_table(io.BytesIO(parquet_of([{"source": "a", "error": "b"}])))
    assert str(table.schema.field("map").type) == "binary"
    assert str(table.schema.field("target_index").type) == "int64"


class TestOthersFiles:
    """Only files of the job are read or removed."""

    @pytest.fixture
    def job(self, cluster: Any, tmp_path: Path) -> Job:
        job = Job(tmp_path, 4, images=2, part=2, bad="001")
        (job.place / RESULTS).mkdir(parents=True)
        (job.place / RESULTS / "mine.parquet").write_bytes(b"mine")
        (job.place / "ibisa-job").mkdir()
        (job.place / "ibisa-job" / "mine.json").write_bytes(b"mine")
        job.run()
        return job

    @staticmethod
    def mine(job: Job) -> list[bytes]:
        names = (f"{RESULTS}/mine.parquet", "ibisa-job/mine.json")
        return [(job.place / name).read_bytes() for name in names]

    def test_they_survive_all_that_removes(self, job: Job) -> None:
        remove_unlisted(str(job.place))
        job.ray.manifest.clear()
        job.ray.manifest.release_all()
        job.ray.manifest.discard()
        assert self.mine(job) == [b"mine", b"mine"]
        left = [each.name for each in job.place.rglob("*") if each.is_file()]
        assert sorted(left) == ["mine.json", "mine.parquet"]

    def test_a_manifest_that_names_them_is_not_believed(self, job: Job) -> None:
        (job.place.parent / "secret.parquet").write_bytes(b"secret")
        for path in job.place.rglob("*.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                line["part"] = "../secret.parquet"
            path.write_text("\n".join(map(json.dumps, lines)))
        assert job.done().images == 0
        forget_failed(str(job.place), job.ray.manifest)
        assert (job.place.parent / "secret.parquet").read_bytes() == b"secret"

    def test_images_whose_results_are_gone_are_not_done(self, job: Job) -> None:
        parts = sorted((job.place / RESULTS).glob("part-*"))
        parts[0].unlink()
        assert done_at(str(job.place), job.ray.manifest).images == 2
        forget_failed(str(job.place), job.ray.manifest)
        assert done_at(str(job.place), job.ray.manifest).failed == 0

    def test_damaged_results_are_one_line(self, job: Job) -> None:
        for damage in (b"PAR1", parquet_bytes(arrow.table({"a": [1]}))):
            for path in (job.place / RESULTS).glob("part-*"):
                path.write_bytes(damage)
            with pytest.raises(ResultError, match=r"results/part-.*(is damaged|is not a file of)"):
                forget_failed(str(job.place), job.ray.manifest)


def parquet_bytes(table: Any) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def test_names_that_are_not_utf_8_are_escaped() -> None:
    data = parquet_of([{"source": "a\udcff.png", "error": "a\udcff.png is damaged"}])
    (row,) = parquet.read_table(io.BytesIO(data)).to_pylist()
    assert row["source"] == "a\\udcff.png"


class TestSoleWriter:
    def test_a_second_run_into_a_folder_is_one_line(self, folder: Path) -> None:
        with sole_writer(str(folder / "out")):
            code, _, errors = run(folder, "run", "m.onnx", "in", "-o", "out", "--on", "ray")
        assert (code, errors.count("\n")) == (1, 1)
        assert "another run is writing here" in errors
        assert not any((folder / "out").iterdir())

    def test_a_lease_is_renewed_taken_over_and_removed(self, monkeypatch) -> None:
        monkeypatch.setattr(storage, "_RENEWED", 0.04)
        monkeypatch.setattr(storage, "_EXPIRES", 0.4)
        place = "memory://leased"
        with (
            sole_writer(place),
            pytest.raises(ResultError, match="another run is writing here"),
            sole_writer(place),
        ):
            pass
        assert storage_at(place).names("") == []
        storage_at(place).write({storage._LEASE: b"of a run that was killed"})
        with sole_writer(place):
            assert storage_at(place).read(storage._LEASE) != b"of a run that was killed"


def test_cells_that_cannot_be_read_are_errors_of_their_rows(tmp_path: Path) -> None:
    values = [b"0.png", b"\xff.png", b"2.png"]
    column = arrow.array(values, arrow.binary()).view(arrow.string())
    parquet.write_table(arrow.table({"path": column}), tmp_path / "0.parquet")
    for name in ("0.png", "2.png"):
        (tmp_path / name).write_bytes(name.encode())
    found = found_in([str(tmp_path / "0.parquet")], Columns())
    (unit,) = units(found, ["0"], Columns(), Done(), images=9, workers=1)
    rows = list(read(unit, Columns(), Done()))
    assert [row.image for row in rows] == [b"0.png", None, b"2.png"]
    assert "#1 cannot be read" in (rows[1].error or "")


def test_an_image_in_the_results_folder_is_not_overwritten_by_another_spelling(
    folder: Path,
) -> None:
    (folder / "in" / "00.ibisa.png").write_bytes((folder / "in" / "01.png").read_bytes())
    before = contents(folder / "in")
    words = ("run", "m.onnx", "in/00.png", "in/00.ibisa.png", "--on", "ray", "-o", "in/../in")
    code, _, errors = run(folder, *words)
    assert code == 1
    assert "is an input and is not overwritten" in errors
    assert contents(folder / "in") == before


@pytest.mark.slow
def test_images_of_one_name_in_two_runs_keep_their_overlays(folder: Path) -> None:
    for home, image in (("s1", "00.png"), ("s2", "01.png")):
        (folder / home).mkdir()
        (folder / home / "a.png").write_bytes((folder / "in" / image).read_bytes())
    words = ("-o", "out", "--on", "ray", "--jobs", "1", "-q")
    assert run(folder, "run", "m.onnx", "s1", *words)[0] == 0
    first = (folder / "out" / "a.ibisa.png").read_bytes()
    assert run(folder, "run", "m.onnx", "s2", *words)[0] == 0
    assert (folder / "out" / "a.ibisa.png").read_bytes() == first
    overlays = sorted(path.name for path in (folder / "out").glob("*.png"))
    assert len(overlays) == 2
    assert overlays[0].startswith("a-")
    assert len(rows_of(folder / "out")) == 2
