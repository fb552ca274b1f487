"""Bytes that survive a writer who is killed at any moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from workers.recovery.atomic_buffer import AtomicBuffer


@pytest.fixture
def cell() -> Iterator[AtomicBuffer]:
    made = AtomicBuffer()
    yield made
    made.close()


def test_an_empty_buffer_holds_no_version(cell: AtomicBuffer) -> None:
    assert cell.newest() == (0, b"")


@pytest.mark.parametrize("sizes", [(3, 3, 3), (0, 10_000, 1), (10_000, 5, 0, 7)])
def test_the_last_two_versions_can_be_read(cell: AtomicBuffer, sizes: tuple[int, ...]) -> None:
    kept = b""
    for version, size in enumerate(sizes, 1):
        data = bytes([version]) * size
        cell.write(version, data)
        assert cell.newest() == (version, data)
        assert cell.read(version) == data
        if version > 1:
            assert cell.read(version - 1) == kept
        kept = data


@pytest.mark.parametrize("size", [0, 1, 19, 20, 25])
def test_an_interrupted_write_leaves_the_previous_version(
    cell: AtomicBuffer, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Over an older write, of which the rest is still there."""
    for version, data in enumerate((b"old and long, with more behind", b"kept"), 1):
        cell.write(version, data)
    whole = os.pwrite

    def cut_off(descriptor: int, data: bytes, offset: int) -> int:
        whole(descriptor, bytes(data)[:size], offset)
        raise KeyboardInterrupt

    monkeypatch.setattr("workers.recovery.atomic_buffer.os.pwrite", cut_off)
    with pytest.raises(KeyboardInterrupt):
        cell.write(3, b"another")
    assert cell.newest() == (2, b"kept")
    assert cell.read(2) == b"kept"


def test_a_version_that_was_overwritten_is_not_returned(cell: AtomicBuffer) -> None:
    for version in (1, 2, 3):
        cell.write(version, b"x")
    with pytest.raises(AssertionError, match="version 1 was overwritten"):
        cell.read(1)


def test_another_process_reads_the_versions_of_a_killed_process(cell: AtomicBuffer) -> None:
    ready, told = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(ready)
        for version in range(1, 10**9):
            cell.write(version, version.to_bytes(8, "little") * (1 + version % 700))
            if version == 100:
                os.write(told, b"!")
    os.close(told)
    try:
        assert os.read(ready, 1) == b"!"
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        os.close(ready)
    version, data = cell.newest()
    assert version >= 100
    assert data == version.to_bytes(8, "little") * (1 + version % 700)


def test_closing_twice_is_closing_once() -> None:
    made = AtomicBuffer()
    for _ in range(2):
        made.close()
