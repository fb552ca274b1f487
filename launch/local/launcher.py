"""Starts the ranks of a job on this machine with torch's elastic launcher, as torchrun does."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dni_async.errors import StageError, UserError
from launch.config.train import TrainConfig
from launch.local import rendezvous as loopback
from tasks.base import Task
from workers.failure.errors import AlreadyReported, StdoutClosed
from workers.failure.failure_file import FAILURE_FILE, read_failure

PATIENCE = 5
"""Seconds that ranks have to end when one has failed; then they are killed."""


def run_local(config: TrainConfig, task: Task) -> None:
    """Run the job in `config.stages` processes and wait for its end.

    Raises `AlreadyReported` with the exit status when a rank has told the user why it failed.
    """
    check_port(config.port)
    with tempfile.TemporaryDirectory(prefix="dni_async-") as name:
        folder = Path(name)
        job = folder / "job.pkl"
        job.write_bytes(cloudpickle.dumps((config, task)))
        told = folder / "failure"
        with _environment(**{FAILURE_FILE: str(told)}), _silent_launcher():
            _launch(config, job, told)


def check_port(port: int) -> None:
    """Raises UserError when `port` is not free on this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); choose another --port") from None


def _launch(config: TrainConfig, job: Path, told: Path) -> None:
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=max(1, config.stages),
        run_id=job.parent.name,
        rdzv_backend=loopback.register(),
        rdzv_endpoint=f"{loopback.HOST}:{config.port}",
        max_restarts=config.max_restarts,
        monitor_interval=0.1,
        shutdown_timeout=PATIENCE,
        logs_specs=DefaultLogsSpecs(log_dir=str(job.parent / "logs")),
    )
    try:
        elastic_launch(launch, sys.executable)("-m", "launch.local.rank_main", str(job))
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: item[1].timestamp)
        line, _ = read_failure(told)
        statuses = [f.exitcode for f in error.failures.values()]
        if line or StdoutClosed.status in statuses:
            telling = (status for status in (UserError.status, StdoutClosed.status) if status in statuses)
            raise AlreadyReported(line, next(telling, 1)) from None
        how = failure.signal_name() if failure.exitcode < 0 else f"exit status {failure.exitcode}"
        raise StageError(f"rank {rank} ended before the first step ({how})") from None
    except SignalException as stop:
        number = int(stop.sigval)
        raise AlreadyReported(read_failure(told)[0], 128 + number) from None


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for the children."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silent_launcher() -> Iterator[None]:
    """The launcher's own log lines say in twenty what our ranks say in one; and keep our signals."""
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        logger.setLevel(level)
        for number, handler in handlers.items():
            try:
                signal.signal(number, handler)
            except ValueError:
                pass  # not the main thread: nobody changed them
