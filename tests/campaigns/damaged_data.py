"""Data files are damaged: each must be read as what it is, or be refused by one line that names it.

    python -m tests.campaigns.damaged_data                            every special file, 300 damaged ones
    python -m tests.campaigns.damaged_data --random 5000 --seed 1     more random damage

The files are those of MNIST (IDX, zipped and not), CIFAR-10 and a text; damage flips, cuts, inserts or
overwrites bytes of one of them.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import shutil
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dni_async.errors import UserError
from tasks.text.layered import CharLMStack
from tasks.vision.cifar import CifarCnn
from tasks.vision.mnist import MnistFcn
from tests.campaigns.report import Report
from tests.support.damage import random_damage
from tests.support.mnist_files import write_mnist

CASE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of a few samples that a task reads."""

    write: Callable[[Path], object]
    """Writes its files into a new folder."""
    read: Callable[[Path], object]
    """Reads them from that folder. Raises UserError."""


def write_cifar(folder: Path) -> None:
    """Write a training and a test file of 10 random images each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = rng.integers(0, 256, (10, 1 + 3 * 32 * 32), np.uint8)
        records[:, 0] = np.arange(10)
        (folder / name).write_bytes(records.tobytes())


def write_text(folder: Path) -> None:
    """Write a text of 2,700 characters."""
    folder.mkdir(parents=True)
    (folder / "text").write_text("to be or not to be: that is the question, \u00e4h. \n" * 60)


DATA_SETS = {
    "mnist": DataSet(partial(write_mnist, zipped=False), lambda folder: MnistFcn().data(folder)),
    "zipped mnist": DataSet(write_mnist, lambda folder: MnistFcn().data(folder)),
    "cifar": DataSet(write_cifar, lambda folder: CifarCnn().data(folder)),
    "text": DataSet(write_text, lambda folder: CharLMStack(text=str(folder / "text")).data(None)),
}

Change = Callable[[Path], object]
"""Changes one file of a data set."""


def replaced(make: Change, path: Path) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    make(path)


def content(data: bytes) -> Change:
    """Return the change to other content."""
    return lambda path: path.write_bytes(data)


SPECIAL: dict[str, Change] = {
    "empty": content(b""),
    "one byte": content(b"\0"),
    "text": content(b"not a data file\n" * 100),
    "zeros": content(b"\0" * 10_000),
    "missing": Path.unlink,
    "a folder": partial(replaced, Path.mkdir),
    "a fifo": partial(replaced, os.mkfifo),
    "a device": partial(replaced, lambda path: path.symlink_to("/dev/zero")),
    "a dangling link": partial(replaced, lambda path: path.symlink_to("nowhere")),
    "a link to itself": partial(replaced, lambda path: path.symlink_to(path.name)),
    "an empty gzip file": content(gzip.compress(b"")),
    "a gzip file in a gzip file": content(gzip.compress(gzip.compress(b"\0" * 100))),
    "a gzip header alone": content(b"\x1f\x8b\x08\0\0\0\0\0\0\0"),
    "an IDX header of 16 EiB": content(struct.pack(">BBBBIII", 0, 0, 8, 3, *[0xFFFFFFFF] * 3)),
    "an IDX header of nothing": content(struct.pack(">BBBBIII", 0, 0, 8, 3, 0, 28, 28)),
    "an IDX header of 200 dimensions": content(bytes([0, 0, 8, 200]) + b"\0\0\0\1" * 200),
}
"""Files that are no data files of ours, by name."""


def special() -> dict[str, tuple[DataSet, Change]]:
    """Return the special files in the place of the first file of every data set."""
    return {
        f"{data_set} is {name}": (DATA_SETS[data_set], partial(at, change, 0))
        for data_set in DATA_SETS
        for name, change in SPECIAL.items()
    }


def damaged(count: int, seed: int) -> dict[str, tuple[DataSet, Change]]:
    """Return so many cases of random damage."""
    cases = {}
    for number in range(seed, seed + count):
        rng = random.Random(number)
        name = rng.choice(list(DATA_SETS))
        cases[f"random damage {number} of {name}"] = (
            DATA_SETS[name],
            partial(at, partial(random_damage, rng), rng.randrange(4)),
        )
    return cases


def at(change: Change, number: int, folder: Path) -> None:
    """Change one of the files of a folder."""
    files = sorted(folder.iterdir())
    change(files[number % len(files)])


def problem(data_set: DataSet, change: Change, folder: Path) -> str:
    """Read a changed data set; return what is wrong with the way in which it was read or refused."""
    data_set.write(folder)
    change(folder)
    found = [f"it was not read in {CASE_TIMEOUT_S:g} s"]

    def read() -> None:
        try:
            data_set.read(folder)
        except UserError as error:
            line = str(error)
            found[0] = "" if "\n" not in line and str(folder) in line else f"a bad line: {line}"
        except BaseException as error:
            found[0] = f"{type(error).__name__}: {error}"
        else:
            found[0] = ""

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(CASE_TIMEOUT_S)
    return found[0]


def campaign(cases: Mapping[str, tuple[DataSet, Change]], folder: Path) -> Report:
    """Try every case."""
    report = Report()
    for name, (data_set, change) in cases.items():
        copy = folder / str(report.cases)
        report.add(name, problem(data_set, change, copy))
        shutil.rmtree(copy)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.damaged_data")
    parser.add_argument("--random", type=int, default=300, help="cases of random damage")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return campaign(special() | damaged(asked.random, asked.seed), Path(folder)).show()


if __name__ == "__main__":
    sys.exit(main())
