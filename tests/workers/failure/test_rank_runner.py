"""How a rank ends. Every child is a process of its own, with its standard error in a file."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch.distributed as dist

from dni_async.errors import Late, StageError, UserError
from tests.support.channels import TEST_TIMEOUT_S
from tests.support.children import Child, Work
from tests.support.waiting import until
from workers.coordination.rendezvous import Rendezvous
from workers.failure.activity_file import ACTIVITY_FILE, read_activity
from workers.failure.errors import AlreadyReported, StdoutClosed, exit_status, format_error, is_timeout
from workers.failure.failure_file import FAILURE_FILE, read_failure
from workers.failure.rank_runner import RankRunner
from workers.failure.report import FailureReporter
from workers.failure.signals import Stopped, exit_process
from workers.transport.base import PeerGone, TransportTimeout


def end_well(runner: RankRunner, mouth: Connection) -> None:
    mouth.send("done")


def user_error(runner: RankRunner, mouth: Connection) -> None:
    raise UserError("batch size is 0; it must be at least 1")


def stage_error(runner: RankRunner, mouth: Connection) -> None:
    raise StageError("stage 1 (rank 1), at step 3: no\n  memory")


def exit_silently(runner: RankRunner, mouth: Connection) -> None:
    """As the code of a task may do."""
    runner.join(20.0)
    sys.exit(0)


def any_error(runner: RankRunner, mouth: Connection) -> None:
    raise KeyError("name")


def told(runner: RankRunner, mouth: Connection) -> None:
    raise AlreadyReported("somebody said this already", 2)


def interrupted(runner: RankRunner, mouth: Connection) -> None:
    runner.describe_position = lambda: "stage 0 (rank 0), after step 7"
    signal.raise_signal(signal.SIGINT)


def signalled_when_all_is_written(runner: RankRunner, mouth: Connection) -> None:
    runner.interruption.begin_training()
    runner.interruption.end_training()
    signal.raise_signal(signal.SIGTERM)
    runner.interruption.finished = True


def signalled_in_training(runner: RankRunner, mouth: Connection) -> None:
    runner.interruption.begin_training()
    signal.raise_signal(signal.SIGTERM)
    runner.interruption.outcome = "after step 3"


def terminated(runner: RankRunner, mouth: Connection) -> None:
    signal.raise_signal(signal.SIGTERM)


def where_signals_come() -> str:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    return "stage 0"


def interrupted_on_the_way_out(runner: RankRunner, mouth: Connection) -> None:
    runner.describe_position = where_signals_come
    signal.raise_signal(signal.SIGTERM)


def stopped_while_it_says_why(runner: RankRunner, mouth: Connection) -> None:
    runner.describe_position = where_signals_come
    raise KeyError("name")


def stdout_without_a_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def print_for_nobody(runner: RankRunner, mouth: Connection) -> None:
    stdout_without_a_reader()
    print("what is written when the work is done")


def fail_to_print(runner: RankRunner, mouth: Connection) -> None:
    stdout_without_a_reader()
    try:
        print("a report", flush=True)
    except OSError as error:
        raise StageError(f"stage 0 (rank 0), at step 3: {error}") from error


def fail_in_circles(runner: RankRunner, mouth: Connection) -> None:
    """As an error that torch raises again in its own words, and we in those of the layer."""
    try:
        raise ValueError("of a layer")
    except ValueError as error:
        try:
            raise RuntimeError("of a pipeline") from error
        except RuntimeError as again:
            raise error from again


def fail_to_send(runner: RankRunner, mouth: Connection) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.write(writer, b"a message")


def fail_with_nobody_to_tell(runner: RankRunner, mouth: Connection) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    raise UserError("batch size is 0; it must be at least 1")


PLACE = re.compile(r"\(tests/workers/failure/test_rank_runner.py:[0-9]+ in ([a-z_]+)\(\)\)")
"""Of an error in the functions above, whose code is the user's here."""

ENDS: dict[str, tuple[Work, int, list[str]]] = {
    "well": (end_well, 0, []),
    "by a user error": (user_error, 2, ["dni-async: batch size is 0; it must be at least 1"]),
    "by a stage error": (stage_error, 1, ["dni-async: stage 1 (rank 1), at step 3: no memory"]),
    "by any error": (
        any_error,
        1,
        ["dni-async: rank 0, before the first step: KeyError: 'name' (in any_error)"],
    ),
    "by sys.exit": (
        exit_silently,
        1,
        [
            "dni-async: rank 0, before the first step: code of the task or of a plug-in called sys.exit "
            "(in exit_silently)"
        ],
    ),
    "by what was told": (told, 2, []),
    "by a signal that changed nothing": (signalled_when_all_is_written, 0, []),
    "by a signal in training": (signalled_in_training, 143, ["dni-async: stopped by SIGTERM after step 3"]),
    "by SIGINT": (interrupted, 130, ["dni-async: stage 0 (rank 0), after step 7: stopped by SIGINT"]),
    "by SIGTERM": (terminated, 143, ["dni-async: rank 0, before the first step: stopped by SIGTERM"]),
    "with nobody who reads": (print_for_nobody, 141, []),
    "by a report that nobody reads": (fail_to_print, 141, []),
    "by another pipe": (
        fail_to_send,
        1,
        [
            "dni-async: rank 0, before the first step: BrokenPipeError: [Errno 32] Broken pipe "
            "(in fail_to_send)"
        ],
    ),
    "by an error that comes of itself": (
        fail_in_circles,
        1,
        ["dni-async: rank 0, before the first step: ValueError: of a layer (in fail_in_circles)"],
    ),
    "with nobody to tell": (fail_with_nobody_to_tell, 2, []),
    "by an error, and signals while it is told": (
        stopped_while_it_says_why,
        1,
        ["dni-async: stage 0: KeyError: 'name' (in stopped_while_it_says_why)"],
    ),
    "by many signals": (interrupted_on_the_way_out, 143, ["dni-async: stage 0: stopped by SIGTERM"]),
}


@pytest.mark.parametrize(("work", "status", "lines"), ENDS.values(), ids=ENDS)
def test_every_failure_has_its_exit_status_and_one_line(
    work: Work, status: int, lines: list[str], tmp_path: Path
) -> None:
    with Child(work, tmp_path) as child:
        assert child.status() == status
        assert [PLACE.sub(r"(in \1)", line) for line in child.lines()] == lines


class TestTheLog:
    @pytest.mark.parametrize("rank", [0, 3])
    def test_the_traceback_is_written_to_the_log(self, rank: int, tmp_path: Path) -> None:
        with Child(stage_error, tmp_path, RANK=str(rank)) as child:
            assert child.status() == 1
            assert len(child.lines()) == 1
        text = (tmp_path / f"rank-{rank}.log").read_text()
        date, text = text.split("\n", 1)
        assert datetime.fromisoformat(date).date() <= datetime.now().date()
        assert text.startswith("Traceback (most recent call last):")
        assert 'raise StageError("stage 1 (rank 1), at step 3: no\\n  memory")' in text
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"rank-{rank}.log", "stderr"]

    def test_the_log_of_an_earlier_start_stays(self, tmp_path: Path) -> None:
        (tmp_path / "rank-0.log").write_text("the disk was full\n")
        with Child(stage_error, tmp_path, RANK="0") as child:
            child.status()
        text = (tmp_path / "rank-0.log").read_text()
        assert text.startswith("the disk was full\n") and "StageError" in text

    @pytest.mark.parametrize("work", [end_well, told, interrupted, fail_to_print, user_error])
    def test_there_is_no_log_when_nothing_but_the_input_failed_in_this_rank(
        self, work: Work, tmp_path: Path
    ) -> None:
        with Child(work, tmp_path) as child:
            child.status()
        assert not list(tmp_path.glob("*.log"))

    def test_without_a_folder_the_line_names_a_temporary_file_with_the_traceback(
        self, tmp_path: Path
    ) -> None:
        with Child(without_a_folder, tmp_path, TMPDIR=str(tmp_path)) as child:
            assert child.status() == 1
            (line,) = child.lines()
        _, _, path = line.partition("; traceback in ")
        assert Path(path).parent == tmp_path
        assert 'raise KeyError("dim")' in Path(path).read_text()

    def test_without_a_folder_bad_input_leaves_no_file(self, tmp_path: Path) -> None:
        with Child(bad_input_without_a_folder, tmp_path, TMPDIR=str(tmp_path)) as child:
            assert (child.status(), child.lines()) == (2, ["dni-async: no"])
        assert not list(tmp_path.glob("*.log"))

    def test_a_folder_that_cannot_be_written_changes_nothing(self, tmp_path: Path) -> None:
        with Child(into_no_folder, tmp_path) as child:
            assert (child.status(), len(child.lines())) == (2, 1)


def into_no_folder(runner: RankRunner, mouth: Connection) -> None:
    runner.folder = Path("/nowhere")
    raise UserError("no")


def without_a_folder(runner: RankRunner, mouth: Connection) -> None:
    tempfile.tempdir = None  # the folder for temporary files may be known from before this process
    runner.folder = None
    raise KeyError("dim")


def bad_input_without_a_folder(runner: RankRunner, mouth: Connection) -> None:
    runner.folder = None
    raise UserError("no")


class TestTheFailureFile:
    def test_the_failure_file_gets_the_line(self, tmp_path: Path) -> None:
        file = tmp_path / "told"
        with Child(user_error, tmp_path, **{FAILURE_FILE: str(file)}) as child:
            child.status()
        assert read_failure(file) == ("batch size is 0; it must be at least 1", 2)

    def test_a_reported_failure_is_not_printed_again(self, tmp_path: Path) -> None:
        file = tmp_path / "told"
        with Child(told, tmp_path, **{FAILURE_FILE: str(file)}) as child:
            child.status()
        assert not file.exists()

    def test_a_rank_stopped_before_it_joined_stays_silent_if_another_has_reported(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "told"
        file.write_text("2 the engine splits batches")
        with Child(terminated, tmp_path, **{FAILURE_FILE: str(file)}) as child:
            assert (child.status(), child.lines()) == (143, [])
        assert read_failure(file) == ("the engine splits batches", 2)

    def test_a_rank_stopped_before_it_joined_reports_it_when_no_other_has(self, tmp_path: Path) -> None:
        file = tmp_path / "told"
        with Child(terminated, tmp_path, **{FAILURE_FILE: str(file)}) as child:
            assert (child.status(), len(child.lines())) == (143, 1)
        assert read_failure(file) == ("rank 0, before the first step: stopped by SIGTERM", 143)


class TestSeveralRanks:
    @pytest.fixture
    def job(self) -> dict[str, str]:
        """The environment of two ranks whose store is in this process, as with torchrun."""
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }

    def play(
        self, folder: Path, job: dict[str, str], *works: Work
    ) -> tuple[list[int | None], list[list[str]]]:
        """The statuses of both ranks, and their lines."""
        with ExitStack() as stack:
            children = [
                stack.enter_context(Child(work, folder / str(rank), RANK=str(rank), **job))
                for rank, work in enumerate(works)
            ]
            statuses = [child.status() for child in children]
            return statuses, [child.lines() for child in children]

    def test_the_first_rank_that_fails_reports_for_all(self, tmp_path: Path, job: dict[str, str]) -> None:
        statuses, lines = self.play(tmp_path, job, fail_after_another, fail_first)
        assert statuses == [1, 2]
        assert lines == [["dni-async: rank 1 was first"], []]  # rank 0 prints
        assert (tmp_path / "0" / "rank-0.log").exists()  # nothing is lost
        assert not (tmp_path / "1" / "rank-1.log").exists()  # bad input: its line says all

    def test_when_stdout_is_closed_no_rank_prints_anything(self, tmp_path: Path, job: dict[str, str]) -> None:
        statuses, lines = self.play(tmp_path, job, meet_and_print_for_nobody, fail_after_another)
        assert statuses == [141, 1]
        assert lines == [[], []]

    def test_a_stopped_rank_names_the_rank_that_is_gone(self, tmp_path: Path, job: dict[str, str]) -> None:
        statuses, lines = self.play(tmp_path, job, stopped_when_the_other_is_gone, killed)
        assert statuses == [143, -signal.SIGKILL]
        assert lines == [["dni-async: rank 1 is gone; rank 0, before the first step: stopped"], []]

    def test_rank_0_prints_the_failure_of_another_rank_while_it_is_busy(
        self, tmp_path: Path, job: dict[str, str]
    ) -> None:
        statuses, lines = self.play(tmp_path, job, busy_until_told, fail_first)
        assert statuses == [0, 2]
        assert lines == [["dni-async: rank 1 was first"], []]

    def test_when_rank_0_is_killed_another_rank_prints_the_failure(
        self, tmp_path: Path, job: dict[str, str]
    ) -> None:
        statuses, lines = self.play(tmp_path, job, killed, stopped_when_the_other_is_gone)
        assert statuses == [-signal.SIGKILL, 143]
        assert lines == [[], ["dni-async: rank 0 is gone; rank 1, before the first step: stopped"]]

    def test_a_rank_at_its_deadline_names_the_ranks_without_heartbeat(
        self, tmp_path: Path, job: dict[str, str]
    ) -> None:
        with (
            Child(stop_for_ever, tmp_path / "1", RANK="1", **job) as other,
            Child(late, tmp_path / "0", RANK="0", **job) as child,
        ):
            assert child.status() == 1
            (line,) = child.lines()
            assert other.process.is_alive()
        assert re.fullmatch(
            r"dni-async: stage 0 \(rank 0\), after step 7: nothing came from stage 1 for 3 s; "
            r"no sign of life for [34] s from stage 1 \(rank 1\), at step 8, computing",
            line,
        )


def fail_first(runner: RankRunner, mouth: Connection) -> None:
    runner.join(TEST_TIMEOUT_S)
    raise UserError("rank 1 was first")


def fail_after_another(runner: RankRunner, mouth: Connection) -> None:
    """Fail once the other rank has said why it fails."""
    runner.join(TEST_TIMEOUT_S).store.wait(["failure"])
    raise StageError("the second")


def meet_and_print_for_nobody(runner: RankRunner, mouth: Connection) -> None:
    runner.join(TEST_TIMEOUT_S)
    print_for_nobody(runner, mouth)


def busy_until_told(runner: RankRunner, mouth: Connection) -> None:
    runner.join(TEST_TIMEOUT_S).store.wait(["failure_printed"])


def stop_for_ever(runner: RankRunner, mouth: Connection) -> None:
    """Stop once the store says what this rank does."""
    runner.describe_activity = lambda: "stage 1 (rank 1), at step 8, computing"
    rendezvous = runner.join(TEST_TIMEOUT_S)
    until(lambda: "step 8" in str(rendezvous.peek("heartbeat/1")), TEST_TIMEOUT_S, "a beat")
    os.kill(os.getpid(), signal.SIGSTOP)


def late(runner: RankRunner, mouth: Connection) -> None:
    """Wait until the other has given no sign of life for 3 s."""
    runner.join(TEST_TIMEOUT_S)
    assert runner._heartbeat
    until(lambda: "for 3 s" in runner._heartbeat.describe(), TEST_TIMEOUT_S, "the silence")
    raise Late("stage 0 (rank 0), after step 7: nothing came from stage 1 for 3 s", [1])


def killed(runner: RankRunner, mouth: Connection) -> None:
    runner.join(TEST_TIMEOUT_S)
    os.kill(os.getpid(), signal.SIGKILL)


def stopped_when_the_other_is_gone(runner: RankRunner, mouth: Connection) -> None:
    rendezvous, deadline = runner.join(TEST_TIMEOUT_S), time.monotonic() + TEST_TIMEOUT_S
    rendezvous.store.wait([f"process/{1 - rendezvous.rank}"])
    while not rendezvous.gone_ranks() and time.monotonic() < deadline:
        pass
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_the_launchers_death_ends_a_rank(tmp_path: Path) -> None:
    with Child(launch_and_die, tmp_path) as launcher:
        rank = launcher.hear()
        assert isinstance(rank, int)
        try:
            assert launcher.status() == 0
            with pytest.raises(EOFError):  # both ends of the launcher's and the rank's are closed
                launcher.hear()
            assert launcher.lines() == ["dni-async: rank 0, before the first step: stopped by SIGTERM"]
        finally:
            if Path(f"/proc/{rank}").exists():
                os.kill(rank, signal.SIGKILL)


def launch_and_die(runner: RankRunner, mouth: Connection) -> None:
    ready, told_ready = os.pipe()
    if os.fork() == 0:

        def work(runner: RankRunner) -> None:
            mouth.send(os.getpid())
            os.write(told_ready, b"!")
            for _ in range(int(TEST_TIMEOUT_S / 0.05)):  # a sleep that began too late must end too
                time.sleep(0.05)

        exit_process(RankRunner().run(work))
    os.read(ready, 1)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("bad\n value"), 2, "bad value"),
        (StageError("bad  stage"), 1, "bad stage"),
        (StdoutClosed(), 141, ""),
        (PeerGone("left"), 1, "PeerGone: left"),
        (AlreadyReported("said", 143), 143, "AlreadyReported: said"),
        (Stopped(signal.SIGINT), 130, "stopped by SIGINT"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero"),
    ],
)
def test_every_kind_of_error_has_its_status_and_line(error: BaseException, status: int, line: str) -> None:
    assert (exit_status(error), format_error(error)) == (status, line)


@pytest.mark.parametrize(
    ("error", "late"),
    [
        (Late("nothing came"), True),
        (TransportTimeout("no message in 3 s"), True),
        (dist.DistStoreError("Timed out after 61 seconds waiting for clients"), True),
        (RuntimeError("[gloo] Timed out waiting 2000ms for recv operation to complete"), True),
        (RuntimeError("Connection closed by peer"), False),
        (StageError("raise --timeout"), False),
        (UserError("timeout is -1"), False),
        (Stopped(signal.SIGTERM), False),
    ],
)
def test_errors_of_missed_deadlines_are_recognised(error: BaseException, late: bool) -> None:
    assert is_timeout(error) is late


class TestWhoTells:
    """A runner asks the store; without an answer it tells."""

    @pytest.fixture
    def run(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[[Rendezvous | None], str]:
        """Fails with this rendezvous, in this process; what was printed."""
        for name in ("Interruption.install_handlers", "ignore_signals", "Heartbeat.start"):
            monkeypatch.setattr(f"workers.failure.rank_runner.{name}", lambda *_: None)

        def run(rendezvous: Rendezvous | None, meet: bool = False) -> str:
            runner = RankRunner()
            runner.rendezvous = rendezvous
            if meet:
                runner.join(TEST_TIMEOUT_S)
            assert runner.run(lambda runner: user_error(runner, None)) == 2  # type: ignore[arg-type]
            return capsys.readouterr().err

        return run

    def test_before_ranks_have_joined_every_rank_prints(self, run: Callable) -> None:
        assert run(None) != ""

    def test_a_single_rank_prints_every_failure(self, run: Callable) -> None:
        alone = Rendezvous(0, 1, 0, 1, dist.HashStore())
        assert run(alone) == run(alone) != ""

    def test_with_a_broken_store_every_rank_prints(
        self, run: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(self: FailureReporter, line: str, status: int) -> None:
            raise dist.DistNetworkError("broken pipe")

        job = Rendezvous(1, 2, 1, 2, dist.HashStore())
        monkeypatch.setattr(FailureReporter, "report", broken)
        monkeypatch.setattr("workers.failure.rank_runner.Rendezvous.from_env", lambda timeout: job)
        assert run(None, meet=True) != ""


def test_a_heartbeat_that_began_before_does_not_hide_what_the_rank_does_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked, goes_on = tmp_path / "activity", threading.Event(), threading.Event()
    path.touch()
    monkeypatch.setenv(ACTIVITY_FILE, str(path))
    monkeypatch.delenv("RANK", raising=False)
    runner = RankRunner()

    def describe() -> str:
        asked.set()
        assert goes_on.wait(TEST_TIMEOUT_S)
        return "at step 6, computing"

    runner.describe_position, runner.describe_activity = lambda: "after step 6", describe
    beat = threading.Thread(target=runner._write_activity)
    beat.start()
    assert asked.wait(TEST_TIMEOUT_S)
    begin = threading.Thread(target=runner.begin, args=("while writing the results",))
    begin.start()
    begin.join(0.1)  # time out of which the wrong order could come
    goes_on.set()
    for thread in (beat, begin):
        thread.join(TEST_TIMEOUT_S)
    assert read_activity(path, 0) == "after step 6, while writing the results"
