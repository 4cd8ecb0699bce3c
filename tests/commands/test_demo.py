"""`demo`: both objects of the embedded scene, without a file of the user's."""

from __future__ import annotations

from ibisa_onnx.demo import model_path


def test_two_overlays_in_the_folder_that_was_named(cli, fake, tmp_path):
    result = cli("demo", "-o", "out/")
    assert result.code == 0
    assert fake.last.model == model_path()
    assert fake.last.asked[0][1] == ["top:2"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["scene.creme-brulee.ibisa.png", "scene.goat.ibisa.png"]
    for name in names:
        assert name in result.out
    assert result.out.count("20 forward + 10 backward") == 2


def test_default_folder_and_bare_paths(cli, fake, tmp_path):
    result = cli("demo", "-q")
    assert (result.code, result.err) == (0, "")
    assert [(tmp_path / line).is_file() for line in result.out.splitlines()] == [True, True]


def test_a_file_for_two_pictures_is_wrong_usage(cli, fake):
    assert cli("demo", "-o", "demo.png").code == 2
