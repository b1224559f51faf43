"""A new folder is whole or not there."""

import pytest

from jpllm.runtime import InputError
from jpllm.whole_files import new_folder


def test_a_folder_appears_whole(tmp_path):
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [FileNotFoundError, KeyboardInterrupt])
def test_an_error_leaves_nothing_behind(error, tmp_path):
    def interrupted():
        with new_folder(tmp_path / "a") as folder:
            (folder / "x").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_only_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "x").write_text("x")
    message = f"to: {tmp_path / 'empty'} is there already and not empty; remove it, or name another folder"
    with pytest.raises(InputError) as error, new_folder(tmp_path / "empty", "to"):
        pass
    assert str(error.value) == message
    assert (tmp_path / "empty" / "x").read_text() == "x"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output_dir: .*file is there already"), new_folder(tmp_path / "file"):
        pass
