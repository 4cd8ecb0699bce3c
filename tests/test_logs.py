"""What the package logs: nothing unasked, and nothing of a stranger's as it is."""

from __future__ import annotations

import logging

from ibisa_onnx.logs import logger


def test_what_is_filled_in_is_escaped_and_numbers_stay(caplog):
    log = logger("ibisa_onnx.test")
    assert logger("ibisa_onnx.test") is log
    with caplog.at_level(logging.INFO, "ibisa_onnx"):
        log.info("label %s, %d passes", "cat\n\x1b[2J\u202eERROR forged", 3)
    assert caplog.messages == [r"label cat\n\x1b[2J\u202eERROR forged, 3 passes"]


def test_nothing_is_printed_unasked(capfd):
    logger("ibisa_onnx.test").warning("explained by forward passes alone")
    assert capfd.readouterr().err == ""
