"""Damaged files and full disks."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def random_damage(rng: random.Random, path: Path) -> None:
    """Flip, cut, remove, insert or overwrite bytes of a file at a random place."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    kind = rng.randrange(5)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at : at + rng.randrange(1, 100)]
    elif kind == 3:
        data[at:at] = rng.randbytes(rng.randrange(1, 100))
    else:
        data[at : at + 100] = rng.randbytes(100)
    path.write_bytes(data)


@contextmanager
def full_disk() -> Iterator[None]:
    """Let the kernel refuse this process files of more than a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
