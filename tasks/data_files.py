"""Where data files live, and how they are opened: regular files only, and never more bytes than expected."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from dni_async.errors import UserError

_GZIP_START = b"\x1f\x8b"
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return the folder of downloads: $XDG_CACHE_HOME/dni_async, else ~/.cache/dni_async."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification says to ignore a relative path
        return Path(base, "dni_async")
    try:
        return Path.home() / ".cache" / "dni_async"
    except RuntimeError as error:
        raise UserError("no home folder to keep downloads in (HOME): set XDG_CACHE_HOME") from error


def data_places(root: Path | None, folder: str) -> list[Path]:
    """Return the folders in which the data set `folder` may lie: root/folder, root, then the cache."""
    cached = cache_folder() / folder
    if root is None:
        return [cached]
    if not root.is_dir():
        raise UserError(f"the data folder is not a folder ({root}): give an existing one")
    return [root / folder, root, cached]


def find_folder(root: Path | None, folder: str, *names: str) -> Path | None:
    """Return the first of `data_places` that has a file with one of these names; None when none has."""
    places = data_places(root, folder)
    return next((place for place in places if any((place / name).exists() for name in names)), None)


def locate(root: Path | None, folder: str, filenames: Sequence[str]) -> list[Path] | None:
    """Return the paths of `filenames`, each as it is or with .gz appended; None when no place has them all.

    Raises:
        UserError: the data folder has some of the files but not all. An incomplete data set is the user's
            mistake; an incomplete cache is an interrupted download, which is repeated.
    """
    *given, cached = data_places(root, folder)
    for place in given:
        found = _found(place, filenames)
        if len(found) == len(filenames):
            return list(found.values())
        if found:
            lacking = ", ".join(name for name in filenames if name not in found)
            raise UserError(f"files are missing ({lacking} in {place}): add them, or remove the others")
    found = _found(cached, filenames)
    return list(found.values()) if len(found) == len(filenames) else None


def _found(place: Path, filenames: Sequence[str]) -> dict[str, Path]:
    candidates = {name: (place / f"{name}.gz", place / name) for name in filenames}
    present = {name: [path for path in paths if _present(path)] for name, paths in candidates.items()}
    return {name: paths[0] for name, paths in present.items() if paths}


def _present(path: Path) -> bool:
    """Return whether the path exists. A dangling link counts: reading it reports what is wrong."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"cannot look for data ({path}): {error.strerror}") from error
    return True


@contextlib.contextmanager
def open_data(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, unzipped if it starts like gzip whatever its name is.

    Raises:
        UserError: the file cannot be read, is a pipe, device or folder, or its gzip stream is damaged.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would block
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"not a regular file ({path}): give a file that is no pipe and no device")
            zipped = file.read(len(_GZIP_START)) == _GZIP_START
            file.seek(0)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(path, f"damaged gzip file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read the file ({path}): {error.strerror}") from error


def read_at_most(file: BinaryIO, size: int) -> bytes:
    """Return the next bytes of the file until its end, at most `size`; memory grows with what is there."""
    parts: list[bytes] = []
    while size > 0 and (part := file.read(min(size, _CHUNK))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_data(path: Path, limit: int = 1 << 30) -> bytes:
    """Return a file's whole content. Raises UserError as `open_data`, and for more than `limit` bytes."""
    with open_data(path) as file:
        content = read_at_most(file, limit + 1)
    if len(content) > limit:
        raise damaged(path, f"file of more than {limit:,} bytes")
    return content


def damaged(path: Path, what: str) -> UserError:
    """Return the error for a data file whose content is wrong."""
    return UserError(f"{what} ({path}): put an intact copy in its place")
