"""Ranks on this machine: what is handed to torch's launcher, and what comes back."""

import logging
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from dni_async.errors import StageError, UserError
from launch.config.train import TrainConfig
from launch.local import launcher as local
from launch.local.job_file import read_job
from launch.local.launcher import StoppedAtEnd, check_port, run_local
from tests.support.jobs import ROOT, TINY, kill, our_lines, rank_processes
from tests.support.tiny_task import Tiny
from tests.support.waiting import until
from workers.coordination.signing import JOB_SECRET
from workers.failure.activity_file import write_activity
from workers.failure.errors import AlreadyReported
from workers.failure.failure_file import FAILURE_FILE, report_failure, report_success
from workers.failure.interruption import INTERRUPT_TIMEOUT_S
from workers.failure.signals import LAUNCHER
from workers.recovery.supervisor import STOP_TIMEOUT_S


def test_an_occupied_port_is_refused():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as error:
            check_port(port)
    assert str(error.value) == (f"port {port} cannot be used (Address already in use); choose another --port")


def test_a_port_is_tried_at_the_address_where_the_store_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check_port(port)
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            check_port(port, "127.0.0.2")


def test_a_free_port_stays_free():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    check_port(port)
    check_port(0)
    with socket.socket() as mine:
        mine.bind(("localhost", port))


def test_the_environment_is_restored_whatever_happens(monkeypatch):
    monkeypatch.setenv("DNI_TEST_OLD", "old")
    monkeypatch.delenv("DNI_TEST_NEW", raising=False)
    with pytest.raises(KeyError), local._environment(DNI_TEST_OLD="x", DNI_TEST_NEW="y"):
        assert (os.environ["DNI_TEST_OLD"], os.environ["DNI_TEST_NEW"]) == ("x", "y")
        raise KeyError
    assert os.environ["DNI_TEST_OLD"] == "old"
    assert "DNI_TEST_NEW" not in os.environ


class Launcher:
    """In the place of `elastic_launch`: keeps what it gets, then does as told."""

    def __init__(self, end=lambda: None):
        self.end = end

    def __call__(self, launch, entry):
        self.launch = launch
        return self.start

    def start(self, *arguments):
        self.module, job = arguments[1], Path(arguments[2])
        self.config, self.task = read_job(job)
        self.failure_file = Path(os.environ[FAILURE_FILE])
        self.propagate = logging.getLogger("torch.distributed.elastic").propagate
        self.end()


def launched(monkeypatch, launcher, **settings):
    monkeypatch.setattr(local, "elastic_launch", launcher)
    monkeypatch.delenv(FAILURE_FILE, raising=False)
    run_local(TrainConfig.of(**settings), Tiny(train=33))
    return launcher


def failing(*codes, line="", status=1):
    """Ranks that end with these statuses, one of which has told the user a line."""

    def end():
        if line:
            report_failure(line, status)
        failures = {rank: ProcessFailure(rank, 100 + rank, code, "") for rank, code in codes}
        raise ChildFailedError("launch.local.rank_main", failures)

    return Launcher(end)


def test_the_ranks_get_configuration_and_task(monkeypatch):
    launcher = launched(monkeypatch, Launcher(), stages=3, lr=0.5)
    assert launcher.module == "launch.local.rank_main"
    assert launcher.config == TrainConfig.of(stages=3, lr=0.5)
    assert launcher.task.sizes == (33, 20) and len(launcher.task.layers()) == 5
    assert launcher.launch.nproc_per_node == 3 and launcher.launch.max_restarts == 0
    assert launcher.launch.rdzv_endpoint == "127.0.0.1:0"


def test_without_stages_there_is_one_rank(monkeypatch):
    assert launched(monkeypatch, Launcher()).launch.nproc_per_node == 1


def test_the_launcher_restarts_ranks_as_often_as_configured(monkeypatch):
    launcher = launched(monkeypatch, Launcher(), stages=2, max_restarts=3, out="somewhere")
    assert launcher.launch.max_restarts == 3


def test_ranks_have_time_to_end_training_and_to_write_their_results_before_they_are_killed(monkeypatch):
    launcher = launched(monkeypatch, Launcher(), stages=2)
    timeout = getattr(launcher.launch, "shutdown_timeout", 30)  # torch 2.8 always takes 30 s
    assert 2 * INTERRUPT_TIMEOUT_S < STOP_TIMEOUT_S < timeout <= 30


def test_the_launcher_restores_signals_and_logging_and_leaves_no_file(monkeypatch):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    logger = logging.getLogger("torch.distributed.elastic")
    before = logger.propagate, list(logger.handlers)

    def end():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    launcher = launched(monkeypatch, Launcher(end))
    assert launcher.propagate is False
    assert not launcher.failure_file.exists()
    assert FAILURE_FILE not in os.environ
    assert (logger.propagate, logger.handlers) == before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize(
    ("codes", "reported", "status"),
    [
        (((0, -15), (1, 2)), 2, 2),
        (((0, -15), (1, 1)), 1, 1),
        (((0, 143), (1, -15)), 143, 143),  # a signal came to one rank only
        (((0, 130),), 130, 130),
    ],
)
def test_a_reported_failure_keeps_its_line_and_status(codes, reported, status, monkeypatch):
    with pytest.raises(AlreadyReported, match=r"^stage 1 is on fire$") as failure:
        launched(monkeypatch, failing(*codes, line="stage 1 is on fire", status=reported), stages=2)
    assert failure.value.status == status


def test_a_closed_stdout_ends_the_launcher_silently(monkeypatch):
    with pytest.raises(AlreadyReported, match=r"^$") as failure:
        launched(monkeypatch, failing((0, 141), (1, 1)), stages=2)
    assert failure.value.status == 141


@pytest.mark.parametrize(("code", "how"), [(-9, "killed by SIGKILL"), (3, "ended with exit status 3")])
def test_a_rank_that_ends_silently_is_named_with_what_it_did_last(code, how, monkeypatch):
    with pytest.raises(StageError, match=rf"^rank 1, before the first step: {how}$"):
        launched(monkeypatch, failing((1, code)), stages=2)

    def end():
        write_activity(1, "stage 1 (rank 1), after step 7, waiting")
        failing((1, code)).end()

    with pytest.raises(StageError, match=rf"^stage 1 \(rank 1\), after step 7, waiting: {how}$"):
        launched(monkeypatch, Launcher(end), stages=2)


@pytest.mark.parametrize(
    ("stages", "last"),
    [
        pytest.param(1, r"rank 0 \(backprop\), at", marks=pytest.mark.slow),
        (2, r"stage 0 \(rank 0\), after"),
    ],
)
def test_a_rank_0_that_is_killed_while_it_writes_the_results_is_named_with_its_last_step(
    stages, last, tmp_path, monkeypatch
):
    """It opens a pipe in the place of matplotlib's settings, and waits there."""
    pipe = tmp_path / "matplotlibrc"
    os.mkfifo(pipe)
    monkeypatch.setenv("MATPLOTLIBRC", str(pipe))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def kill_the_writer():
        ends = []
        until(lambda: _has_reader(pipe, ends), 60, "the first picture")
        kill(rank_processes(str(tmp_path))[0])
        os.close(ends.pop())

    config = TrainConfig.of(
        stages=stages,
        engine="decoupled" if stages > 1 else "backprop",
        epochs=2,
        batch_size=11,
        out=str(tmp_path / "run"),
        quiet=True,
    )
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_the_writer)
        line = rf"^{last} step 6, while writing the results: killed by SIGKILL$"
        with pytest.raises(StageError, match=line):
            run_local(config, Tiny(train=33))
        killing.result()


def _has_reader(pipe, ends):
    """Whether somebody reads the pipe; then its other end is among `ends`, and the reader waits."""
    try:
        ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_launcher_becomes_its_exit_status_and_a_line(number, status, capsys, monkeypatch):
    def end():
        raise SignalException("stopped", number)

    with pytest.raises(AlreadyReported) as failure:
        launched(monkeypatch, Launcher(end), stages=2)
    assert failure.value.status == status
    assert capsys.readouterr().err == f"dni-async: stopped by {signal.Signals(number).name}\n"


def test_a_signal_that_a_rank_has_reported_is_not_reported_again(capsys, monkeypatch):
    def end():
        report_failure("stage 0 (rank 0), at step 3: stopped by SIGINT", 130)
        raise SignalException("stopped", signal.SIGINT)

    with pytest.raises(AlreadyReported):
        launched(monkeypatch, Launcher(end), stages=2)
    assert capsys.readouterr().err == "dni-async: stage 0 (rank 0), at step 3: stopped by SIGINT\n"


def test_a_signal_that_came_when_all_results_were_written_is_told_from_one_that_stopped_the_job(
    capsys, monkeypatch
):
    def end():
        report_success()
        raise SignalException("stopped", signal.SIGINT)

    with pytest.raises(StoppedAtEnd) as failure:
        launched(monkeypatch, Launcher(end), stages=2)
    assert failure.value.status == 130
    assert capsys.readouterr().err == "dni-async: SIGINT came when all results were written\n"


def test_a_rank_that_dies_after_all_results_were_written_is_named(monkeypatch):
    def end():
        report_success()
        failing((1, -9)).end()

    with pytest.raises(StageError, match=r"^rank 1, before the first step: killed by SIGKILL$"):
        launched(monkeypatch, Launcher(end), stages=2)


def test_a_host_without_loopback_interface_ends_in_one_line_at_once(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    launcher = Launcher()
    with pytest.raises(UserError, match=r"loopback interface does not work \(Network is unreachable\)"):
        launched(monkeypatch, launcher)
    assert not hasattr(launcher, "launch")


def test_log_lines_of_torchs_launcher_are_not_printed(capfd, monkeypatch):
    def end():
        logging.getLogger("torch.distributed.elastic.agent.server.api").warning("Received 2 death signal")

    launched(monkeypatch, Launcher(end))
    assert capfd.readouterr().err == ""


def test_ranks_get_a_secret_of_their_own_and_the_launchers_process_id(monkeypatch):
    seen = []
    for _ in range(2):
        launched(monkeypatch, Launcher(lambda: seen.append(dict(os.environ))))
    assert len(seen[0][JOB_SECRET]) == 64 and seen[0][JOB_SECRET] != seen[1][JOB_SECRET]
    assert seen[0][LAUNCHER] == str(os.getpid())
    assert JOB_SECRET not in os.environ


def test_a_taken_port_starts_nothing(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        launcher = Launcher()
        with pytest.raises(UserError, match="choose another --port"):
            launched(monkeypatch, launcher, port=taken.getsockname()[1])
    assert not hasattr(launcher, "launch")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while ranks start", "in mid-run"])
def test_a_killed_launcher_leaves_no_ranks_no_files_and_no_stack_frames(tmp_path, moment):
    out, temporary, errors = tmp_path / "run", tmp_path / "tmp", tmp_path / "stderr"
    temporary.mkdir()
    command = [
        sys.executable,
        "-m",
        "launch.train",
        *TINY,
        "--stages",
        "2",
        "--epochs",
        "100000",
        "--out",
        str(out),
    ]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with open(errors, "w") as stderr:
        launcher = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=stderr, stdout=subprocess.DEVNULL
        )
    metrics = out / "metrics.jsonl"
    begun = {
        "while ranks start": lambda: len(rank_processes(str(temporary))) == 2,
        "in mid-run": lambda: metrics.exists() and metrics.stat().st_size > 0,
    }[moment]
    try:
        until(begun, 60, moment)
    finally:
        launcher.kill()
        launcher.wait()
    until(lambda: not rank_processes(str(temporary)), 10, "the end of all ranks")
    lines = errors.read_text().splitlines()
    assert lines == our_lines(errors.read_text()) and len(lines) <= 2, lines
    assert not list(temporary.glob("dni_async*"))
