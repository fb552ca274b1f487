"""A supervisor and the processes that it starts, real ones; the works count their lives in the journal."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from dni_async.errors import StageCrash, StageError, UserError
from tests.support.channels import TEST_TIMEOUT_S
from tests.support.children import Child
from workers.failure.errors import AlreadyReported
from workers.failure.rank_runner import RankRunner
from workers.failure.signals import Stopped
from workers.recovery import supervisor
from workers.recovery.journal import Journal
from workers.recovery.stable_storage import StableStorage
from workers.recovery.supervisor import Work, is_recoverable, keep_running

KILLED = "dni-async: stage 0 (rank 0) was killed by SIGKILL"
FAILED = "dni-async: stage 0 (rank 0) failed (RuntimeError: no memory)"


def begin(stable: StableStorage) -> int:
    """One more entry in the journal; how many there were."""
    journal = Journal(stable.journal, 1.0)
    lives = journal.before["stage"]["counts"]["steps"] if journal.before else 0
    journal.state_dict = lambda: {"stage": {"counts": {"steps": lives + 1}}}
    journal.commit()
    return lives


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_well(runner: RankRunner, stable: StableStorage) -> None:
    begin(stable)


def die_twice(runner: RankRunner, stable: StableStorage) -> None:
    if begin(stable) < 2:
        kill_me()
    assert stable.restarts == 2


PLACE = "tests/workers/recovery/test_supervisor.py:58 in fail_twice()"
"""Of an error in the function below, whose code is the user's here."""


def fail_twice(runner: RankRunner, stable: StableStorage) -> None:
    if begin(stable) < 2:
        raise RuntimeError("no memory")


def die_at_once_at_first(runner: RankRunner, stable: StableStorage) -> None:
    if not stable.restarts:
        kill_me()
    begin(stable)


def user_error(runner: RankRunner, stable: StableStorage) -> None:
    begin(stable)
    raise UserError("lower --lr")


def neighbour_gone(runner: RankRunner, stable: StableStorage) -> None:
    begin(stable)
    raise StageError("stage 1 (rank 1) is gone")


def leave_early(runner: RankRunner, stable: StableStorage) -> None:
    begin(stable)
    os._exit(0)


ENDS = {
    "well": (end_well, 3, 0, []),
    "by a status of 0 however it came": (leave_early, 3, 0, []),
    "killed twice, then well": (
        die_twice,
        2,
        0,
        [f"{KILLED}, 1 steps done; restart 1 of 2", f"{KILLED}, 2 steps done; restart 2 of 2"],
    ),
    "with an error of its own twice, then well": (
        fail_twice,
        2,
        0,
        [f"{FAILED}, 1 steps done; restart 1 of 2", f"{FAILED}, 2 steps done; restart 2 of 2"],
    ),
    "killed too often": (
        die_twice,
        1,
        1,
        [
            f"{KILLED}, 1 steps done; restart 1 of 1",
            f"{KILLED}, 2 steps done; it was started again 1 times, as often as --stage-restarts says",
        ],
    ),
    "with an error of its own too often": (
        fail_twice,
        0,
        1,
        [f"{FAILED}, 1 steps done; it was started again 0 times, as often as --stage-restarts says"],
    ),
    "killed before the first step, then well": (
        die_at_once_at_first,
        1,
        0,
        [f"{KILLED}, before the first step; restart 1 of 1"],
    ),
    "by bad input": (user_error, 3, 2, ["dni-async: lower --lr"]),
    "by a neighbour": (neighbour_gone, 3, 1, ["dni-async: stage 1 (rank 1) is gone"]),
}


@pytest.mark.parametrize(("work", "limit", "status", "lines"), ENDS.values(), ids=ENDS)
def test_every_end_of_a_stage_has_its_status_and_line(
    work: Work, limit: int, status: int, lines: list[str], tmp_path: Path
) -> None:
    with Child(_Supervisor(work, limit), tmp_path) as child:
        assert child.status() == status
        assert [line.replace(f" ({PLACE})", "") for line in child.lines()] == lines


class _Supervisor:
    """As `Work` of a `Child`; it travels to a process, which a closure does not."""

    def __init__(self, work: Work, limit: int) -> None:
        self.work, self.limit = work, limit

    def __call__(self, runner: RankRunner, mouth: Connection) -> None:
        keep_running(StableStorage.create(0, 1, 1), self.limit, "stage 0 (rank 0)", self.work)


class _Sleeper:
    """A supervisor of a stage that says which process it is, and sleeps.

    Args:
        deaf: to SIGTERM.
        done: whether SIGTERM finds the stage with its work done.
    """

    def __init__(self, deaf: bool = False, done: bool = False) -> None:
        self.deaf, self.done = deaf, done

    def __call__(self, runner: RankRunner, mouth: Connection) -> None:
        supervisor.STOP_TIMEOUT_S = 1.0 if self.deaf else TEST_TIMEOUT_S

        def work(runner: RankRunner, stable: StableStorage) -> None:
            begin(stable)
            if self.deaf:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if self.done:
                signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
            mouth.send(os.getpid())
            for _ in range(int(TEST_TIMEOUT_S / 0.05)):
                time.sleep(0.05)

        keep_running(StableStorage.create(0, 1, 1), 3, "stage 0 (rank 0)", work)


def gone(pid: int) -> bool:
    end = time.monotonic() + TEST_TIMEOUT_S
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_stage_and_is_reported_once(signum: int, status: int, tmp_path: Path) -> None:
    with Child(_Sleeper(), tmp_path) as child:
        stage = child.hear()
        assert isinstance(stage, int) and child.process.pid
        os.kill(child.process.pid, signum)
        assert child.status() == status
        assert gone(stage)
        name = signal.Signals(signum).name
        assert child.lines() == [f"dni-async: rank 0, before the first step: stopped by {name}"]


def test_a_stage_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with Child(_Sleeper(deaf=True), tmp_path) as child:
        stage = child.hear()
        assert isinstance(stage, int) and child.process.pid
        os.kill(child.process.pid, signal.SIGTERM)
        assert child.status() == 143
        assert gone(stage)


def test_a_stage_that_a_signal_finds_with_its_work_done_ends_well(tmp_path: Path) -> None:
    with Child(_Sleeper(done=True), tmp_path) as child:
        child.hear()
        assert child.process.pid
        os.kill(child.process.pid, signal.SIGTERM)
        assert child.status() == 0
        assert child.lines() == []


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    with Child(_Sleeper(), tmp_path) as child:
        stage = child.hear()
        assert isinstance(stage, int)
        child.process.kill()
        assert gone(stage)
        assert child.lines() == []


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (StageCrash("out of memory"), True),
        (MemoryError(), True),
        (ZeroDivisionError(), True),
        (StageError("stage 1 is gone"), False),
        (UserError("lower --lr"), False),
        (AlreadyReported("said", 1), False),
        (Stopped(signal.SIGTERM), False),
    ],
)
def test_errors_from_which_a_restarted_stage_recovers_are_recognised(error: BaseException, own: bool) -> None:
    assert is_recoverable(error) is own
