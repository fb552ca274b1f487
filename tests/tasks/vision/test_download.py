from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.vision import download as module
from tasks.vision.download import CHECKSUMS, DownloadError, download
from tasks.vision.mnist import FILES

CONTENT = {"one.gz": b"first file" * 20_000, "two.gz": b"second file"}
MD5 = {name: hashlib.md5(content).hexdigest() for name, content in CONTENT.items()}


class Handler(BaseHTTPRequestHandler):
    """/good serves the files, /bad others of the same length, /short half of them; else 404."""

    def do_GET(self) -> None:
        _, how, name = self.path.split("/")
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if how not in ("good", "bad", "short"):
            self.send_error(404)
            return
        content = CONTENT[name] if how != "bad" else b"x" * len(CONTENT[name])
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if how != "short" else content[: len(content) // 2])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def mirror(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_all_files_arrive_whole_and_nothing_else_is_left(tmp_path: Path, mirror: str) -> None:
    folder = tmp_path / "made" / "for it"
    download(folder, [f"{mirror}/good/"], MD5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("bad", r"127\.0\.0\.1: wrong checksum of one\.gz"),
        ("short", r"127\.0\.0\.1: "),
        ("none", r"127\.0\.0\.1: HTTP status 404"),
    ],
)
def test_a_bad_mirror_leaves_no_file_and_says_why(tmp_path: Path, mirror: str, how: str, reason: str) -> None:
    with pytest.raises(DownloadError, match=f"^{reason}") as caught:
        download(tmp_path, [f"{mirror}/{how}/"], MD5)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_next_mirror_makes_up_for_a_bad_one(tmp_path: Path, mirror: str) -> None:
    download(tmp_path, [f"{mirror}/bad/", f"{mirror}/none/", f"{mirror}/good/"], MD5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == CONTENT


def test_only_what_is_missing_is_fetched(tmp_path: Path, mirror: str, server: ThreadingHTTPServer) -> None:
    (tmp_path / "one.gz").write_bytes(b"here already")
    download(tmp_path, [f"{mirror}/good/"], MD5)
    assert server.asked == ["/good/two.gz"]  # type: ignore[attr-defined]
    assert (tmp_path / "one.gz").read_bytes() == b"here already"


def test_a_mirror_that_never_answers_costs_its_time_limit_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        start = time.monotonic()
        with pytest.raises(DownloadError, match=r"^127\.0\.0\.1: (no answer in 0\.1 s|timed out)$"):
            download(tmp_path, [mirror], MD5, timeout_s=0.1)
        assert time.monotonic() - start < 1.0


def test_a_name_that_is_looked_up_for_ever_costs_its_time_limit_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def stuck(*args: object, **kwargs: object) -> None:
        release.wait(10)
        raise OSError("late")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    try:
        with pytest.raises(DownloadError, match=r"^a\.invalid: no answer in 0\.05 s$"):
            download(tmp_path, ["http://a.invalid/"], MD5, timeout_s=0.05)
    finally:
        release.set()


def test_a_port_where_nobody_listens_is_reported_at_once(tmp_path: Path, mirror: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DownloadError, match=r"^127\.0\.0\.1: Connection refused$"):
        download(tmp_path, [f"http://127.0.0.1:{port}/"], MD5)


def test_a_cache_that_cannot_be_written_is_a_reason(tmp_path: Path, mirror: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot write to .*file \((File exists|Not a directory)\)"):
        download(tmp_path / "file", [f"{mirror}/good/"], MD5)


def test_a_download_prints_nothing(tmp_path: Path, mirror: str, capfd: pytest.CaptureFixture[str]) -> None:
    download(tmp_path, [f"{mirror}/bad/", f"{mirror}/good/"], MD5)
    assert capfd.readouterr() == ("", "")


def test_a_slow_download_is_given_up(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_TIMEOUT_S", -1.0)
    with pytest.raises(DownloadError, match="not finished in -1 s"):
        download(tmp_path, [f"{mirror}/good/"], MD5)


def test_an_answer_without_end_is_cut_off(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    with pytest.raises(DownloadError, match="so not the file asked for"):
        download(tmp_path, [f"{mirror}/good/"], MD5)


def test_the_official_files_are_those_that_the_task_reads() -> None:
    assert list(CHECKSUMS) == [f"{name}.gz" for name in FILES]


def test_two_silent_mirrors_are_given_up_within_ten_seconds() -> None:
    assert module.ANSWER_TIMEOUT_S * len(module.MIRRORS) < 10
