import os
from pathlib import Path

import pytest

from ibisa_onnx.errors import ImageError, TargetError
from ibisa_onnx.io.files import is_regular, read_file, read_text
from ibisa_onnx.limits import Limits


def test_a_link_to_a_regular_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "b", "labels", TargetError) == b"abc"
    assert is_regular(tmp_path / "b")


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "pipe", "is a pipe"),
        ("/dev/zero", "is a device"),
        (tmp_path, "is a folder"),
        (tmp_path / "none", "labels file .* does not exist"),
        ("a\0b", "cannot read labels"),
    ):
        with pytest.raises(TargetError, match=why):
            read_file(path, "labels", TargetError)
        assert not is_regular(path)


def test_no_more_is_read_than_the_limit(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: nothing on the disk
    with pytest.raises(TargetError, match=r"1,099,511,627,776 bytes.*IBISA_ONNX_MAX_FILE_BYTES"):
        read_file(path, "labels", TargetError)
    path.write_bytes(b"12345")
    with pytest.raises(TargetError, match=r"more than the limit of 4"):
        read_file(path, "labels", TargetError, Limits(file_bytes=4))


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffkatze\n".encode())
    assert read_text(path, "labels", TargetError) == "katze\n"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TargetError, match="not UTF-8"):
        read_text(path, "labels", TargetError)


def test_a_url_is_not_read_but_a_file_of_such_a_name_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("https://example.org/a.jpg", Path("https://example.org/a.jpg")):
        with pytest.raises(ImageError, match=r"URLs are not read; download the file"):
            read_file(path, "image", ImageError)
    Path("https:").mkdir()
    Path("https:/a.jpg").write_bytes(b"abc")
    assert read_file("https:/a.jpg", "image", ImageError) == b"abc"
