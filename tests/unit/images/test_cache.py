"""The cache folder: where it is, one at a time, and gone when removed."""

import os
import threading
from pathlib import Path

import pytest

from images import cache
from images.errors import HostError


def test_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "mdevemu"


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_folder_with_a_useless_xdg_is_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "mdevemu"


def test_locked_twice_makes_the_second_wait(tmp_path: Path):
    order = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with cache.locked(tmp_path / "thing"):
            order.append("second")

    other = threading.Thread(target=second)
    with cache.locked(tmp_path / "thing"):
        other.start()
        waiting.wait()
        other.join(0.1)
        assert other.is_alive()
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_locked_where_nothing_can_be_made_names_the_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(HostError, match="cannot write the cache folder"),
        cache.locked(tmp_path / "file" / "folder" / "thing"),
    ):
        pass


def test_remove_takes_read_only_folders_with_it(tmp_path: Path):
    folder = tmp_path / "made"
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "file").write_text("x")
    os.chmod(folder / "inside", 0o500)
    cache.remove(folder)
    assert not folder.exists()
    cache.remove(folder)
