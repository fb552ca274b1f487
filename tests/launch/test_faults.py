"""Whole jobs in real processes that are struck by faults: they go on, or end with one line that says why."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from dni_async.errors import StageError
from dni_async.messages import Mark, MarkKind
from launch.config import TrainConfig
from launch.decoupled import _report
from tasks.digits import DigitsFcn
from tests.forks import Job
from tests.launch.tiny import Tiny, rank_of

STEPS = 48


def struck(folder: Path, fault: str, ranks: int = 2, **settings: Any) -> Job:
    """A job of two epochs, to be struck by a fault."""
    config = TrainConfig(**{"batch_size": 64, "epochs": 2} | settings)
    return Job(config, DigitsFcn(depth=3, width=32), ranks, folder, DNI_ASYNC_INJECT=fault)


def finished(job: Job) -> dict[str, Any]:
    """The summary of a job that ended well, with every batch trained at every stage."""
    assert job.statuses() == [0] * len(job.ranks), job.lines()
    summary = json.loads((job.out / "summary.json").read_text())
    assert [stage["samples"] for stage in summary["stages"]] == [2 * 1497] * len(job.ranks)
    assert [stage["targets_received"] for stage in summary["stages"][:-1]] == [STEPS] * (len(job.ranks) - 1)
    return summary


def only_line(job: Job) -> str:
    assert {*job.statuses()} != {0}
    (line,) = job.lines()
    return line


def test_a_killed_stage_ends_the_run(tmp_path: Path) -> None:
    with struck(tmp_path, "kill@1:5", ranks=3) as job:
        line = only_line(job)
        assert sorted(job.statuses()) == [-9, 1, 1]
    assert re.match(r"dni-async: stage 1 \(rank 1\) is gone; stage [02] noticed (at|after) step \d+", line), (
        line
    )


def test_a_stage_that_stalls_beyond_the_deadline_ends_the_run(tmp_path: Path) -> None:
    with struck(tmp_path, "stall@1:5:4", ranks=3, timeout=1.0) as job:
        line = only_line(job)
    assert re.search(r"stage [02] \(rank [02]\), (at|after) step \d+: .*stage 1.* 1 s", line), line


def test_a_stage_that_stalls_for_less_holds_up_the_others_only(tmp_path: Path) -> None:
    start = time.monotonic()
    with struck(tmp_path, "stall@1:5:1.5", timeout=20.0) as job:
        finished(job)
    assert time.monotonic() - start > 1.5


def test_a_slow_stage_is_waited_for_and_not_run_away_from(tmp_path: Path) -> None:
    with struck(tmp_path, f"slow@1:0:0.02x{STEPS}", in_flight=2) as job:
        first = finished(job)["stages"][0]
    assert first["wait_s"] > 0.4 * 0.02 * STEPS  # after the warm-up
    assert first["staleness_max"] <= 2 + 1  # what is on the way, and what the stage itself has in hand
    assert first["targets_dropped"] == 0


BEFALLEN = [
    (
        "drop@0:5",
        1,
        r"at step 6: the activation of step 6 came where that of step 5 was due: that one got lost",
    ),
    (
        "duplicate@0:5",
        1,
        "at step 5: the activation of step 5 came where that of step 6 was due: it came twice",
    ),
    (
        "reorder@0:5",
        1,
        r"at step 6: the activation of step 6 came where that of step 5 was due: that one got lost",
    ),
    ("corrupt@0:5", 1, "at step 5: the loss is nan"),
]
TARGETS = [
    (
        "drop-target@1:5",
        0,
        "at step 6: the target of step 6 came where that of step 5 was due: that one got lost",
    ),
    (
        "duplicate-target@1:5",
        0,
        "at step 5: the target of step 5 came where that of step 6 was due: it came twice",
    ),
    (
        "reorder-target@1:5",
        0,
        "at step 6: the target of step 6 came where that of step 5 was due: that one got",
    ),
    ("corrupt-target@1:5", 0, "the gradient has NaN or infinite values"),
    (f"drop@0:{STEPS - 1}", 1, f"mark EPOCH of step {STEPS} came after {STEPS - 1} batches: some got lost"),
    (
        f"drop-target@1:{STEPS - 1}",
        0,
        f"mark EPOCH of step {STEPS} came back after {STEPS - 1} targets: some",
    ),
]


@pytest.mark.parametrize(
    ("fault", "noticed", "words"),
    [*BEFALLEN, *(pytest.param(*row, marks=pytest.mark.slow) for row in TARGETS)],
    ids=lambda value: value if isinstance(value, str) and "@" in value else "",
)
def test_what_befalls_a_message_is_noticed_by_who_gets_it(
    tmp_path: Path, fault: str, noticed: int, words: str
) -> None:
    with struck(tmp_path, fault) as job:
        line = only_line(job)
    assert line.startswith(f"dni-async: stage {noticed} (rank {noticed}), ") and words in line, line


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["corrupt@0:5", "corrupt-target@1:5"])
def test_a_corrupt_message_can_be_skipped(tmp_path: Path, fault: str) -> None:
    with struck(tmp_path, fault, on_nonfinite="skip") as job:
        assert job.statuses() == [0, 0], job.lines()
    first, last = json.loads((job.out / "summary.json").read_text())["stages"]
    assert (first["skipped"], last["skipped"], first["targets_skipped"]) == (
        (0, 1, 1) if fault == "corrupt@0:5" else (0, 0, 1)
    )


def test_a_test_batch_that_is_lost_is_missed_in_the_result() -> None:
    rank = rank_of(Tiny(test=20), TrainConfig())
    mark = Mark(MarkKind.EPOCH, 7, 1, True, {"result": {"tested": 19}})
    with pytest.raises(
        StageError, match=r"^the evaluation of step 7 was on 19 of 20 samples: some got lost$"
    ):
        _report(rank, None, mark)  # type: ignore[arg-type]


def test_a_fault_that_is_none_is_refused(tmp_path: Path) -> None:
    with struck(tmp_path, "kil@1:5") as job:
        assert "DNI_ASYNC_INJECT has kil@1:5; write ACTION@STAGE:STEP" in only_line(job)
