"""Names of classes: read from every format, found as a person would write them."""

from __future__ import annotations

import json

import pytest

from ibisa_onnx.errors import TargetError
from ibisa_onnx.model import check_labels, find_label, labels_from_metadata, read_labels

NAMES = ("tench", "great white shark, white shark", "crane", "golden retriever", "crane", "bulldog")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "cat\ndog\nbär\n"),
        ("labels.txt", "\ufeffcat\r\ndog\r\nbär"),
        ("labels.json", json.dumps(["cat", "dog", "bär"])),
        ("labels.json", json.dumps({"2": "bär", "0": "cat", "1": "dog"})),
        ("config.json", json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "bär"}})),
        ("labels.csv", "0,cat\n1,dog\n2,bär\n"),
        ("labels.csv", 'index,name\n2,bär\n0,"cat"\n1,dog\n'),
    ],
)
def test_every_format(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert read_labels(path) == ("cat", "dog", "bär")


def test_an_index_left_out_keeps_its_place(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('{"0": "cat", "2": "dog"}')
    assert read_labels(path) == ("cat", "class 1", "dog")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", b"", "holds no labels"),
        ("a.json", b"{", "holds no labels"),
        ("a.json", b'{"cat": "dog"}', "holds no labels"),
        ("a.csv", b"cat\ndog", "holds no labels"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_without_labels(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TargetError, match=match):
        read_labels(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(TargetError, match="cannot read labels"):
        read_labels(tmp_path / "no.txt")


@pytest.mark.parametrize(
    "metadata",
    [
        {"ibisa": json.dumps({"version": 1, "labels": ["cat", "dog"]})},
        {"names": "{0: 'cat', 1: 'dog'}"},
        {"names": "['cat', 'dog']"},
        {"names": '{"0": "cat", "1": "dog"}'},
        {"ibisa": "{", "names": "['cat', 'dog']"},
    ],
)
def test_metadata(metadata):
    assert labels_from_metadata(metadata) == ("cat", "dog")


@pytest.mark.parametrize("metadata", [{}, {"names": "cat, dog"}, {"ibisa": '{"version": 1}'}])
def test_metadata_without_labels(metadata):
    assert labels_from_metadata(metadata) is None


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("golden retriever", 3),
        ("Golden_Retriever ", 3),
        ("white shark", 1),
        ("retriever", 3),
        ("GREAT WHITE SHARK, white shark", 1),
    ],
)
def test_a_label_is_found_as_a_person_writes_it(text, index):
    assert find_label(NAMES, text) == index


def test_an_unknown_label_gets_the_nearest():
    with pytest.raises(TargetError, match="'goldn retreiver'; the nearest are: 3 golden retriever"):
        find_label(NAMES, "goldn retreiver")
    with pytest.raises(TargetError, match="look it up"):
        find_label(NAMES, "zzzz")
    with pytest.raises(TargetError, match="no label ' '"):
        find_label(NAMES, " ")


def test_a_label_of_two_classes_needs_the_index():
    with pytest.raises(TargetError, match="2 crane; 4 crane; give the index"):
        find_label(NAMES, "crane")


def test_labels_and_classes_must_go_together():
    check_labels(NAMES, 6)
    with pytest.raises(TargetError, match=r"6 labels for the model's 7 classes.*first line"):
        check_labels(NAMES, 7)
    with pytest.raises(TargetError, match="take it out"):
        check_labels(NAMES, 5)
    with pytest.raises(TargetError, match="trained with"):
        check_labels(NAMES, 1000)


@pytest.mark.real
def test_imagenets_own_twins(assets):
    labels = read_labels(assets / "imagenet_classes.txt")
    assert len(labels) == 1000
    assert labels[find_label(labels, "Italian greyhound")] == "Italian greyhound"
    with pytest.raises(TargetError, match="1000 labels for the model's 1001 classes"):
        check_labels(labels, 1001)
