"""Fetch MNIST from its public mirrors: soon given up when offline, checked, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

CHECKSUMS: Mapping[str, str] = MappingProxyType(
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
)
"""The official md5 of each file: guards against damage on the way, as in torchvision."""

PATIENCE = 4.0
"""Seconds that a mirror has to answer; two silent mirrors cost an offline run twice this."""

DEADLINE = 300.0
"""Seconds that one file may take once its mirror has answered."""

_LARGEST, _CHUNK = 32 << 20, 1 << 16


class DownloadError(RuntimeError):
    """The files could not be had. The message is one line: why, mirror by mirror."""


def download(
    folder: Path,
    mirrors: Sequence[str] = MIRRORS,
    checksums: Mapping[str, str] = CHECKSUMS,
    patience: float = PATIENCE,
) -> None:
    """Put the files named by `checksums` into `folder`; those already there are left alone.

    Mirrors are tried in turn, each for all that is still missing. A file appears under its name only
    whole and with its md5 right, so several processes may do this at once. Raises `DownloadError`.
    """
    reasons = []
    for mirror in mirrors:
        try:
            for name, md5 in checksums.items():
                if not (folder / name).exists():
                    _store(folder / name, _checked(mirror + name, md5, patience))
            return
        except DownloadError as error:
            reasons.append(f"{urlsplit(mirror).hostname}: {error}")
    raise DownloadError("; ".join(reasons))


def _checked(url: str, md5: str, patience: float) -> bytes:
    """The bytes at `url`, when they have this md5."""
    try:
        with _open(url, patience) as answer:
            content = _read(answer)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(_reason(error)) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DownloadError(f"wrong checksum of {url.rpartition('/')[2]}")
    return content


def _open(url: str, patience: float) -> IO[bytes]:
    """`urlopen` that is back within `patience` seconds.

    Its own timeout holds for one address at a time and not for looking up the name, which alone can
    take half a minute on an unplugged machine. So it runs in a thread, which is left behind when late.
    """
    answers: SimpleQueue[IO[bytes] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urlopen(url, timeout=patience))
        except Exception as error:  # handed to the caller, who raises it
            answers.put(error)

    threading.Thread(target=ask, name="dni-download", daemon=True).start()
    try:
        answer = answers.get(timeout=patience)
    except Empty:
        raise DownloadError(f"no answer in {patience:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _read(answer: IO[bytes]) -> bytes:
    end, parts, size = time.monotonic() + DEADLINE, [], 0
    while part := answer.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if time.monotonic() > end:
            raise DownloadError(f"not finished in {DEADLINE:g} s")
        if size > _LARGEST:
            raise DownloadError(f"more than {_LARGEST >> 20} MiB, so not the file asked for")
    return b"".join(parts)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        with error:  # it is also the open answer
            return f"HTTP status {error.code}"
    cause = error.reason if isinstance(error, URLError) else error
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(text.split())


def _store(path: Path, content: bytes) -> None:
    """Write next to `path`, then rename: nobody ever sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"cannot write to {path.parent} ({error.strerror})") from error
