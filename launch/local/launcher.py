"""Starts the ranks of a job on this machine with torch's elastic launcher, as torchrun does."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from typing_extensions import override

from dni_async.errors import StageError, UserError
from launch.config.train import TrainConfig
from launch.local.job_file import write_job
from launch.local.rendezvous import HOST, WATCH, register
from launch.local.wan import FarHosts, address
from launch.torch_versions import known_arguments
from tasks.base import Task
from workers.coordination.loopback import check_loopback
from workers.coordination.signing import JOB_SECRET
from workers.failure.activity_file import ACTIVITY_FILE, read_activity
from workers.failure.errors import AlreadyReported, StdoutClosed
from workers.failure.failure_file import FAILURE_FILE, has_finished, read_failure, report_failure
from workers.failure.interruption import INTERRUPT_TIMEOUT_S
from workers.failure.signals import LAUNCHER

SHUTDOWN_TIMEOUT_S = round(2 * INTERRUPT_TIMEOUT_S) + 2
"""How long ranks have to end when one has failed, or after a signal, when they end training and write their
results first, and a supervisor waits for both; then they are killed."""


class StoppedAtEnd(AlreadyReported):
    """A signal came to the launcher when the job had written all its results."""


def run_local(
    config: TrainConfig,
    task: Task,
    hosts: FarHosts | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run the job in one process per stage, each on its own host if there are hosts; wait for its end.

    The job, the failure file and the activity file are in memory that ranks open by way of this process, so
    that a killed launcher leaves nothing behind.

    Args:
        watch: called here about ten times a second while the ranks run. If it raises, the job ends.

    Raises:
        AlreadyReported: a rank has failed and has printed why.
        StoppedAtEnd: a signal has come, too late to change anything of the job.
    """
    check_loopback()
    with ExitStack() as stack:
        job, failure, activity = (
            stack.enter_context(_memory_file(name)) for name in ("job", "failure", "activity")
        )
        write_job(job, (config, task))
        environment = {
            # ranks import what this process can import, such as a task beside the user's script
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONSAFEPATH": "1",  # (from Python 3.11 on) and not first of all what is in the working folder
            FAILURE_FILE: str(failure),
            ACTIVITY_FILE: str(activity),
            JOB_SECRET: secrets.token_hex(32),
            LAUNCHER: str(os.getpid()),
            # without it every rank prints dozens of lines when the store is gone
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        }
        if hosts:
            environment |= hosts.environment()
        with _environment(**environment), _silent_launcher(), hosts.visit(0) if hosts else nullcontext():
            host = address(0) if hosts else HOST
            check_port(config.runtime.port, host)
            _launch(config, job, failure, activity, host, watch)


@contextmanager
def _memory_file(name: str) -> Iterator[Path]:
    """Yield the path of a file in memory, which ends with this process; only this user can open it."""
    descriptor = os.memfd_create(f"dni_async {name}", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


class _NoLogs(LogsSpecs):
    """Ranks write to the launcher's own stdout and stderr, and leave no error files."""

    @override
    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        empty = dict.fromkeys(envs, "")
        return LogsDest(empty, dict(empty), dict(empty), dict(empty), dict.fromkeys(envs, os.devnull))

    @property
    @override
    def root_log_dir(self) -> str:
        return os.devnull


def check_port(port: int, host: str = HOST) -> None:
    """Raise UserError unless `port` is free at the address of a host, for the store to listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); choose another --port") from None


def _launch(
    config: TrainConfig, job: Path, failure: Path, activity: Path, host: str, watch: Callable[[], None]
) -> None:
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=max(1, config.partition.stages),
        run_id=secrets.token_hex(8),
        rdzv_backend=register(),
        rdzv_endpoint=f"{host}:{config.runtime.port}",
        rdzv_configs={WATCH: watch},
        max_restarts=config.recovery.max_restarts,
        monitor_interval=0.1,
        logs_specs=_NoLogs(),
        **known_arguments(LaunchConfig, shutdown_timeout=SHUTDOWN_TIMEOUT_S),  # else 30 s
    )
    try:
        elastic_launch(launch, sys.executable)("-m", "launch.local.rank_main", str(job))
    except ChildFailedError as error:
        rank, first = min(error.failures.items(), key=lambda item: item[1].timestamp)
        line, status = ("", 0) if has_finished(failure) else read_failure(failure)
        statuses = [f.exitcode for f in error.failures.values()]
        if line or StdoutClosed.status in statuses:
            special = (each for each in (UserError.status, StdoutClosed.status) if each in statuses)
            raise AlreadyReported(line, next(special, status or 1)) from None
        killed = f"killed by {first.signal_name()}" if first.exitcode < 0 else ""
        how = killed or f"ended with exit status {first.exitcode}"
        raise StageError(f"{read_activity(activity, rank)}: {how}") from None
    except SignalException as stop:
        status, name = 128 + int(stop.sigval), signal.Signals(stop.sigval).name
        if has_finished(failure):
            line = f"{name} came when all results were written"
            report_failure(line, status)
            raise StoppedAtEnd(line, status) from None
        line, reported = read_failure(failure)
        if not reported:  # no rank could report yet
            line = f"stopped by {name}"
            report_failure(line, status)
        raise AlreadyReported(line, status) from None


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for the children, until the end of the block."""
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
    """Drop the log lines of torch's launcher (twenty where a rank prints one); restore our signal handlers.

    Each of torch's modules sets a level of its own, so the level of their common logger does not matter.
    """
    logger, silence = logging.getLogger("torch.distributed.elastic"), logging.NullHandler()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(silence)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(silence)
        for number, handler in handlers.items():
            try:
                signal.signal(number, handler)
            except ValueError:
                pass  # not the main thread: nobody changed them
