"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and photographs, or a skip that says why."""
    folder = os.environ.get("IBISA_ASSETS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IBISA_ASSETS does not point to the real models and photographs")
    return Path(folder)
