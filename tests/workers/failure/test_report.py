"""Who says and who prints why a job ends: all ranks in this process, each with a reporter of its own."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest
import torch.distributed as dist

from tests.support.channels import TEST_TIMEOUT_S
from workers.coordination.rendezvous import Rendezvous, host_identity
from workers.failure import report
from workers.failure.report import FailureReporter

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def jobs() -> list[Rendezvous]:
    """Three ranks; rank 0 runs."""
    store = dist.HashStore()
    ranks = [Rendezvous(rank, 3, rank, 3, store) for rank in range(3)]
    ranks[0].publish_process()
    return ranks


def test_the_first_failure_is_reported_and_printed_once_by_rank_0(
    jobs: list[Rendezvous], capsys: Capture
) -> None:
    first, *others = (FailureReporter(job) for job in jobs)
    first.print_pending()  # nobody has said anything
    saying = [
        threading.Thread(target=rank.report, args=("a disk is full", 1), daemon=True) for rank in others
    ]
    for thread in saying:
        thread.start()
        while jobs[0].peek("failure") is None:
            pass
    assert capsys.readouterr().err == ""
    first.print_pending()
    for thread in saying:
        thread.join(TEST_TIMEOUT_S)
        assert not thread.is_alive()
    first.report("everybody is gone", 1)
    assert capsys.readouterr().err == "dni-async: a disk is full\n"


def test_rank_0_prints_its_own_failure_at_once(jobs: list[Rendezvous], capsys: Capture) -> None:
    begin = time.monotonic()
    FailureReporter(jobs[0]).report("it was me", 1)
    FailureReporter(jobs[1]).report("rank 0 is gone", 1)
    assert time.monotonic() - begin < report.REPORT_TIMEOUT_S
    assert capsys.readouterr().err == "dni-async: it was me\n"


def test_when_rank_0_is_dead_another_rank_prints_at_once(jobs: list[Rendezvous], capsys: Capture) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait(TEST_TIMEOUT_S)
    jobs[0].publish("process/0", [host_identity(), process.pid])
    begin = time.monotonic()
    FailureReporter(jobs[2]).report("rank 0 is gone", 1)
    assert time.monotonic() - begin < report.REPORT_TIMEOUT_S
    assert capsys.readouterr().err == "dni-async: rank 0 is gone\n"


def test_when_rank_0_does_not_print_another_rank_does_after_a_while(
    jobs: list[Rendezvous], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "REPORT_TIMEOUT_S", 0.2)
    FailureReporter(jobs[1]).report("nothing came from stage 0", 1)
    assert capsys.readouterr().err == "dni-async: nothing came from stage 0\n"
