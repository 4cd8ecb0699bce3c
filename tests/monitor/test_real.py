"""What a user would see: photographs, then photographs that changed in a known way."""

from __future__ import annotations

import pytest
from monitor_drift import Photographs, mirrored, shrunk, summaries, unchanged

from ibisa_onnx.monitor import Summary

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def photographs(assets) -> Photographs:
    return Photographs(assets)


@pytest.fixture(scope="module")
def references(photographs, tmp_path_factory) -> dict[str, Summary]:
    """The references of the clean photographs, from the files that a service would have."""
    folder, loaded = tmp_path_factory.mktemp("references"), {}
    for name, summary in summaries(photographs, unchanged).items():
        summary.save(folder / f"{name}.json")
        loaded[name] = Summary.load(folder / f"{name}.json")
    return loaded


def test_photographs_shrunk_into_the_corner_are_drift(photographs, references):
    found = summaries(photographs, shrunk, references)["all but the corner"]
    outside = found.comparisons["outside"]
    assert found.drifted == ("outside",)
    assert outside.recent.mean > 3 * outside.reference.mean
    assert all(each.passes == 31 for each in found.recent)


def test_mirrored_photographs_are_no_drift(photographs, references):
    found = summaries(photographs, mirrored, references)
    assert [each.drifted for each in found.values()] == [(), ()]
