"""Processes that do some work as a rank does; killed and reaped at the end of a `with` block."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support import forks
from tests.support.channels import TEST_TIMEOUT_S
from workers.failure.rank_runner import RankRunner
from workers.failure.signals import exit_process

Work = Callable[[RankRunner, Connection], None]
"""A rank's work; the connection goes to the test."""


class Child:
    """A guarded process that does `work`; killed and reaped at the end of the `with` block."""

    def __init__(self, work: Work, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ear, self._mouth = forks.context().Pipe(duplex=False)
        arguments = (work, folder, environment, self._mouth)
        self.process: BaseProcess = forks.context().Process(target=_child, args=arguments)

    def __enter__(self) -> Child:
        self.process.start()
        self._mouth.close()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.ear.close()

    def hear(self) -> object:
        """What the work sends, in time."""
        assert self.ear.poll(TEST_TIMEOUT_S), "the child said nothing"
        return self.ear.recv()

    def status(self) -> int | None:
        """Its exit status, in time."""
        self.process.join(TEST_TIMEOUT_S)
        assert self.process.exitcode is not None, "the child did not end"
        return self.process.exitcode

    def lines(self) -> list[str]:
        """What it wrote to stderr."""
        return (self.folder / "stderr").read_text().splitlines()


def _child(work: Work, folder: Path, environment: dict[str, str], mouth: Connection) -> None:
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.environ.update(environment)
    runner = RankRunner()
    runner.folder = folder
    exit_process(runner.run(lambda runner: work(runner, mouth)))
