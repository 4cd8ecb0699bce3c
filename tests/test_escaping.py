import pytest

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.escaping import escaped, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("golden retriever", "golden retriever"),
        ("Zürich 東京 🐕\u200d🦺", "Zürich 東京 🐕\u200d🦺"),
        ("a\nb\r\x1b[31mred", r"a\nb\r\x1b[31mred"),
        ("\x9b31m\u202egnp.exe\u2028", r"\x9b31m\u202egnp.exe\u2028"),
        ("half \ud800", r"half \ud800"),
        ("a\tb", "a b"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert escaped(text) == shown


def test_a_long_text_keeps_its_beginning_and_its_end():
    text = shortened("a" * 900 + "b" * 900, 100)
    assert len(text) == 100
    assert text.startswith("aaaa")
    assert text.endswith("b" * 25)


def test_an_error_is_one_line_of_bounded_length():
    error = IbisaError("no label 'cat\n\x1b[2J" + "x" * 5000 + "'", "give\nanother")
    assert str(error).isprintable()
    assert len(str(error)) == 1000
    assert str(error).endswith("give another")
