"""Names of classes: read from every format, found as a person would write them."""

from __future__ import annotations

import json

import pytest

from ibisa_onnx.errors import TargetError
from ibisa_onnx.limits import Limits
from ibisa_onnx.targets.labels import (
    ClassCount,
    check_labels,
    checked_labels,
    choose_labels,
    find_label,
    known_labels,
    read_labels,
    spelt_index,
)

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
        ("a.txt", b"", "contains no labels"),
        ("a.json", b"{", "contains no labels"),
        ("a.json", b'{"cat": "dog"}', "contains no labels"),
        ("a.csv", b"cat\ndog", "contains no labels"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.json", b'["\\ud800"]', "lone surrogate"),
        ("a.json", b"[" * 100_000, "nested more than 64 deep"),
        ("a.json", b'{"' + b"9" * 5000 + b'": "cat"}', "contains no labels"),
        ("a.json", '{"0": "cat", "²": "dog"}'.encode(), "contains no labels"),
        ("a.json", b'["cat", 1, null]', "contains no labels"),
        ("a.csv", "0,cat\n²,dog".encode(), "contains no labels"),
        ("a.csv", b'0,"' + b"a" * 200_000, "field limit"),
        ("a.txt", b"cat\n" + b"a" * 20_000, "label 1 of .* at most 10,000 characters"),
        ("a.txt", b"a\n" * 1_000_001, "1,000,001 labels, more than 1,000,000"),
    ],
)
def test_files_without_labels(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TargetError, match=match) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)


def test_labels_larger_than_the_limit_are_not_read(tmp_path):
    (tmp_path / "a.txt").write_text("cat\ndog\n")
    assert read_labels(tmp_path / "a.txt", Limits(text_bytes=8)) == ("cat", "dog")
    with pytest.raises(TargetError, match="IBISA_ONNX_MAX_TEXT_BYTES"):
        read_labels(tmp_path / "a.txt", Limits(text_bytes=7))


@pytest.mark.parametrize(
    ("given", "match"),
    [(["cat", "\ud800"], "label 1 .* lone surrogate"), (["cat", 1], "label 1 of it is 1")],
)
def test_labels_that_cannot_be_written_are_refused(given, match):
    with pytest.raises(TargetError, match=match):
        checked_labels(given, "it")
    assert checked_labels(["a\0b", "\x1b[31m", "子犬"], "it") == ("a\0b", "\x1b[31m", "子犬")


@pytest.mark.parametrize(
    ("text", "index"),
    [("7", 7), ("class 7", 7), ("-1", -1), ("²", None), ("٣", None), ("cat", None)],
)
def test_an_index_is_spelt_in_plain_digits(text, index):
    assert spelt_index(text, None) == index


def test_a_number_of_very_many_digits_is_a_label_or_an_error():
    assert spelt_index("9" * 20, ["9" * 20]) is None
    with pytest.raises(TargetError, match="has 5000 digits"):
        spelt_index("9" * 5000, ["cat"])


def test_names_of_any_length_and_number_are_looked_through_for_the_nearest():
    labels = [f"c{i} name" for i in range(100_000)] + ["b" * 9000, "retriever"]
    with pytest.raises(TargetError, match="there is no label"):
        find_label(labels, "b" * 5000 + "x" + "b" * 5000)
    with pytest.raises(TargetError, match=r"100001 retriever"):
        find_label(labels, "retreiver")


def test_a_missing_file(tmp_path):
    with pytest.raises(TargetError, match=r"labels file .*no.txt does not exist"):
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
    assert choose_labels(known_labels(metadata), 2)[0].labels == ("cat", "dog")


@pytest.mark.parametrize("metadata", [{}, {"ibisa": '{"version": 1}'}, {"author": "me"}])
def test_metadata_without_labels(metadata):
    assert known_labels(metadata) == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "cat, dog"},
        {"names": "{'cat': 'dog'}"},
        {"names": "[" * 5000},
        {"names": "{" + "0:{" * 300},
        {"ibisa": json.dumps({"version": 1, "labels": 3})},
        {"model_info labels": " "},
    ],
)
def test_damaged_labels_are_a_warning_that_names_the_key(metadata):
    chosen, (warning,) = choose_labels(known_labels(metadata), 2)
    assert chosen is None
    assert warning.startswith(
        f"ignored: metadata key {next(iter(metadata))} contains no class names"
    )
    assert len(warning) < 200


def test_model_api_separates_by_spaces():
    (known,) = known_labels({"model_info  labels": "cat great_white_shark  dog"})
    assert known.labels == ("cat", "great_white_shark", "dog")
    assert known.source == "metadata key model_info labels"


@pytest.mark.parametrize("text", ["cat\ndog", "cat\ndog\n", "cat\r\ndog\r\n"])
def test_paddle_has_one_on_each_line_of_character(text):
    (known,) = known_labels({"character": text})
    assert (known.labels, known.source) == (("cat", "dog"), "metadata key character")


def test_characters_are_taken_as_they_are():
    (known,) = known_labels({"character": "a\n \n\u3000\n\x85\nb"})
    assert known.labels == ("a", " ", "\u3000", "\x85", "b")


@pytest.mark.parametrize("text", ["", "\n", "\n\n"])
def test_an_empty_character_is_a_warning(text):
    chosen, (warning,) = choose_labels(known_labels({"character": text}), 2)
    assert chosen is None
    assert "metadata key character contains no class names" in warning


def test_characters_of_another_number_are_told_and_not_used():
    chosen, (warning,) = choose_labels(known_labels({"character": "a\nb"}), 3)
    assert chosen is None
    assert "ignored labels of metadata key character: " in warning


@pytest.mark.parametrize(
    ("count", "labels", "fitted"),
    [
        (ClassCount.of_scores(3), ("a", "b", "c"), ("a", "b", "c")),
        (ClassCount.of_scores(1), ("a", "b"), ("a", "b")),
        (ClassCount.of_scores(1), ("cat",), ("not cat", "cat")),
        (ClassCount(3, steps=True), ("a", "b", "c"), ("a", "b", "c")),
        (ClassCount(3, steps=True), ("a", "b"), ("blank", "a", "b")),
        (ClassCount(3, steps=True), ("a",), ("blank", "a", " ")),
    ],
)
def test_labels_that_fit(count, labels, fitted):
    assert count.fit(labels) == fitted


@pytest.mark.parametrize(
    ("count", "labels"),
    [
        (ClassCount.of_scores(2), ("cat",)),
        (ClassCount.of_scores(1), ("a", "b", "c")),
        (ClassCount(3), ("a", "b")),
        (ClassCount(4, steps=True), ("a",)),
        (ClassCount(1, steps=True), ("a", "b")),
    ],
)
def test_labels_that_do_not_fit(count, labels):
    with pytest.raises(TargetError, match=f"{len(labels)} labels for the model's {count.classes}"):
        count.fit(labels)


def test_what_annotate_wrote_and_does_not_fit_is_told_once():
    metadata = {
        "ibisa": json.dumps({"version": 1, "labels": ["great white", "cat"]}),
        "names": "{0: 'great white', 1: 'cat'}",
        "model_info labels": "great_white cat",
    }
    chosen, warnings = choose_labels(known_labels(metadata), 3)
    assert (chosen, len(warnings)) == (None, 1)


TIMM = {"architecture": "resnet18", "label_names": ["n1", "n2"]}


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}, ("cat", "dog")),
        (TIMM, ("n1", "n2")),
        (TIMM | {"label_descriptions": {"n1": "cat", "n2": "dog"}}, ("cat", "dog")),
        ({"pretrained_cfg": {"label_names": ["cat", "dog"]}}, ("cat", "dog")),
        ({"pretrained_cfg": TIMM, "id2label": {"0": "x", "1": "y"}}, ("n1", "n2")),
    ],
)
def test_a_config_beside_the_model(tmp_path, config, labels):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    (known,) = known_labels({}, tmp_path)
    assert (known.labels, known.source) == (labels, "config.json beside the model")
    assert read_labels(path) == labels


@pytest.mark.parametrize(
    "content", ["{", "[1]", "{}", '{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}', "[" * 9000]
)
def test_a_config_that_names_no_classes(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert known_labels({}, tmp_path) == []


def test_the_first_that_fits_is_chosen_and_those_before_are_told(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}}))
    metadata = {
        "ibisa": json.dumps({"version": 1, "labels": ["one"]}),
        "names": "['x', 'y', 'z', 'w']",
        "model_info labels": "x y z",
    }
    known = known_labels(metadata, tmp_path)
    chosen, warnings = choose_labels(known, 2)
    assert chosen.labels == ("a", "b")
    assert [warning.split(": ")[0] for warning in warnings] == [
        "ignored labels of metadata key ibisa",
        "ignored labels of metadata key names",
        "ignored labels of metadata key model_info labels",
    ]
    assert choose_labels(known, 3)[0].labels == ("x", "y", "z")
    assert choose_labels(known, None) == (known[0], [])
    assert choose_labels(known, 7)[0] is None


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
    with pytest.raises(TargetError, match="'goldn retreiver'; similar labels: 3 golden retriever"):
        find_label(NAMES, "goldn retreiver")
    with pytest.raises(TargetError, match="the labels are: tench; great white shark"):
        find_label(NAMES, "zzzz")
    with pytest.raises(TargetError, match="the only label is face"):
        find_label(["face"], "zzzz")
    with pytest.raises(TargetError, match="look it up"):
        find_label([f"label of {number}" for number in range(9)], "zzzz")
    with pytest.raises(TargetError, match="no label ' '"):
        find_label(NAMES, " ")


@pytest.mark.parametrize(
    ("text", "labels", "index"),
    [
        ("7", None, 7),
        ("-1", None, -1),
        ("class 7", None, 7),
        ("Keypoint 4", None, 4),
        ("class 7", ["cat", "class 7"], None),
        ("class seven", None, None),
        ("7 cats", None, None),
    ],
)
def test_what_answers_without_a_label_are_called_is_an_index(text, labels, index):
    assert spelt_index(text, labels) == index


def test_a_label_of_two_classes_needs_the_index():
    with pytest.raises(TargetError, match="2 crane; 4 crane; pass the index"):
        find_label(NAMES, "crane")


def test_labels_and_classes_must_go_together():
    check_labels(NAMES, 6)
    with pytest.raises(
        TargetError,
        match=r"6 labels for the model's 7 classes.*add 'background' as the first label",
    ):
        check_labels(NAMES, 7)
    with pytest.raises(TargetError, match="if the first label is the background, remove it"):
        check_labels(NAMES, 5)
    with pytest.raises(TargetError, match="trained with"):
        check_labels(NAMES, 1000)


@pytest.mark.real
def test_imagenets_own_duplicates(assets):
    labels = read_labels(assets / "imagenet_classes.txt")
    assert len(labels) == 1000
    assert labels[find_label(labels, "Italian greyhound")] == "Italian greyhound"
    with pytest.raises(TargetError, match="1000 labels for the model's 1001 classes"):
        check_labels(labels, 1001)


@pytest.mark.parametrize(
    ("text", "labels"),
    [("a\n b \n\n \n", ("a", "b", "", " ")), ("a\nb\n\n  \n\n", ("a", "b"))],
)
def test_a_line_of_one_space_is_the_space(tmp_path, text, labels):
    (tmp_path / "characters.txt").write_text(text)
    assert read_labels(tmp_path / "characters.txt") == labels
