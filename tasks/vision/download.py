"""Download MNIST from its public mirrors: short time limits, checksums, and only whole files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

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

ANSWER_TIMEOUT_S = 4.0
"""Until the first byte of a file; two silent mirrors cost an offline run twice this."""

FILE_TIMEOUT_S = 300.0
"""Until the whole file is there."""

LARGEST = 32 << 20
"""Bytes of the largest file that is accepted."""


class DownloadError(RuntimeError):
    """The files could not be downloaded. The message is one line with a reason for each mirror."""


def download(
    folder: Path,
    mirrors: Sequence[str] = MIRRORS,
    checksums: Mapping[str, str] = CHECKSUMS,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> None:
    """Put the files named by `checksums` into `folder`; existing files are left alone.

    The mirrors are tried in turn, each for all files that are still missing. A file appears under its name
    only when it is whole and its md5 is right, so several processes may download at once.

    Raises:
        DownloadError: a file could not be had from any mirror.
    """
    reasons = []
    for mirror in mirrors:
        try:
            for name, md5 in checksums.items():
                if not (folder / name).exists():
                    _Download(f"{mirror}{name}", md5, folder / name, timeout_s).run()
            return
        except DownloadError as error:
            reasons.append(f"{urlsplit(mirror).hostname}: {error}")
    raise DownloadError("; ".join(reasons))


class _Download:
    """One file by pooch, in a thread of its own that is abandoned when it is late.

    The time limit of a socket does not hold for looking up a host's name, which alone can take half a minute
    on a machine without a network, nor for the sum of many short waits.
    """

    def __init__(self, url: str, md5: str, path: Path, timeout_s: float) -> None:
        self.url, self.md5, self.path, self.timeout_s = url, md5, path, timeout_s
        self._answered, self._done = threading.Event(), threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        """Download the file. Raises DownloadError."""
        threading.Thread(target=self._retrieve, name="dni-download", daemon=True).start()
        if not self._answered.wait(self.timeout_s):
            raise DownloadError(f"no answer in {self.timeout_s:g} s")
        if not self._done.wait(FILE_TIMEOUT_S):
            raise DownloadError(f"not finished in {FILE_TIMEOUT_S:g} s")
        if self._error is not None:
            raise DownloadError(self._reason(self._error)) from self._error

    def _retrieve(self) -> None:
        import pooch  # with requests: a fifth of a second, needed only here

        pooch.get_logger().setLevel(logging.WARNING)
        try:
            pooch.retrieve(
                self.url, f"md5:{self.md5}", self.path.name, self.path.parent, downloader=self._transfer
            )
        except Exception as error:  # raised by `run`, in the caller's thread
            self._error = error
        self._done.set()
        self._answered.set()

    def _transfer(self, url: str, output_file: str, _: object) -> None:
        """Write the file at `url` to `output_file`; a downloader for pooch with limits of time and size."""
        import requests

        end, size = time.monotonic() + FILE_TIMEOUT_S, 0
        headers = {"Accept-Encoding": "identity"}  # the checksum is of the file as it lies there
        with (
            open(output_file, "wb") as file,
            requests.get(url, timeout=self.timeout_s, stream=True, headers=headers) as response,
        ):
            response.raise_for_status()
            for part in response.iter_content(1 << 16):
                self._answered.set()
                size += file.write(part)
                if size > LARGEST:
                    raise DownloadError(f"more than {LARGEST >> 20} MiB, so not the file asked for")
                if time.monotonic() > end:
                    raise DownloadError(f"not finished in {FILE_TIMEOUT_S:g} s")

    def _reason(self, error: Exception) -> str:
        """Return one line for an error of pooch, requests or the file system."""
        response = getattr(error, "response", None)
        if response is not None:
            return f"HTTP status {response.status_code}"
        if isinstance(error, (PermissionError, FileExistsError, NotADirectoryError)):
            return f"cannot write to {self.path.parent} ({error.strerror or 'Permission denied'})"
        if isinstance(error, ValueError) and "hash" in str(error):
            return f"wrong checksum of {self.path.name}"
        cause: BaseException = error
        while cause.__context__ is not None:  # requests wraps the error of the socket several times
            cause = cause.__context__
        return " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())
