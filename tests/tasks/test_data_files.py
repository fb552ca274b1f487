"""Where data files are looked for, and what may be opened."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from dni_async.errors import UserError
from tasks.data_files import cache_folder, locate, open_data, read_data
from tasks.vision.mnist import FILES
from tests.support.mnist_files import write_mnist

pytestmark = pytest.mark.usefixtures("cache")


def test_the_data_folder_comes_before_the_cache(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert locate(root, "mnist", FILES) is None
    assert locate(None, "mnist", FILES) is None
    write_mnist(cache / "mnist")
    assert locate(root, "mnist", FILES) == [cache / "mnist" / f"{name}.gz" for name in FILES]
    assert locate(None, "mnist", FILES) == [cache / "mnist" / f"{name}.gz" for name in FILES]
    write_mnist(root / "mnist", zipped=False)
    assert locate(root, "mnist", FILES) == [root / "mnist" / name for name in FILES]
    assert locate(root / "mnist", "mnist", FILES) == [root / "mnist" / name for name in FILES]


def test_a_data_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match=rf"not a folder \({root}\)"):
            locate(root, "mnist", FILES)


def test_half_a_data_set_is_an_error_and_half_a_cache_is_none(tmp_path: Path, cache: Path) -> None:
    for folder in (tmp_path / "root" / "mnist", cache / "mnist"):
        (write_mnist(folder) / f"{FILES[3]}.gz").unlink()
    assert locate(None, "mnist", FILES) is None
    with pytest.raises(UserError, match=r"missing \(t10k-labels-idx1-ubyte in .*mnist\)"):
        locate(tmp_path / "root", "mnist", FILES)


def test_the_cache_is_at_home_unless_xdg_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert cache_folder() == cache
    monkeypatch.setenv("HOME", str(tmp_path))
    for void in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", void)
        assert cache_folder() == tmp_path / ".cache" / "dni_async"


@pytest.mark.timeout(10)
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"not a regular file \(.*pipe\)"):
        read_data(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/"])
def test_a_device_or_a_folder_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=rf"\({path}\)"), open_data(Path(path)) as file:
        file.read(1)


@pytest.mark.parametrize("zipped", [False, True])
def test_more_than_the_limit_is_refused(tmp_path: Path, zipped: bool) -> None:
    path, content = tmp_path / "file", b"12345678"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert read_data(path, 8) == content
    with pytest.raises(UserError, match=r"file of more than 7 bytes \(.*file\)"):
        read_data(path, 7)


@pytest.mark.parametrize("content", [b"", b"\x1f", b"x"])
def test_the_shortest_files_are_read_as_they_are(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_data(tmp_path / "file") == content
