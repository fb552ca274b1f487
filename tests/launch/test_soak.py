"""A long run is watched, and what grows is said."""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dni_async.errors import StageError, UserError
from launch.soak import SoakConfig, Watch, look, ranks_below, soak_grid, verdict
from tests.support.jobs import TINY, run
from workers.transport.slots import Slot

FLAT = {"rss_bytes": 100_000_000, "slot_bytes": 4096, "descriptors": 14, "threads": 1}


def samples(count: int = 40, **growth: float) -> list[list[dict[str, int]]]:
    """Of two ranks, of which the second grows by these shares from beginning to end."""
    return [
        [FLAT, {name: int(value * (1 + growth.get(name, 0) * i / count)) for name, value in FLAT.items()}]
        for i in range(count)
    ]


def test_what_stays_as_it_was_does_not_grow() -> None:
    rows = verdict(samples())
    assert [row["grew"] for row in rows] == [[], []]
    assert rows[0] == {"rank": 0, "grew": []} | {name: [value, value] for name, value in FLAT.items()}


@pytest.mark.parametrize(
    ("growth", "grew"),
    [
        ({"rss_bytes": 0.04}, []),
        ({"rss_bytes": 0.2}, ["rss_bytes"]),
        ({"descriptors": 0.2, "slot_bytes": 0.2}, []),
        ({"descriptors": 4}, ["descriptors"]),
        ({"slot_bytes": 4, "threads": 4}, ["slot_bytes", "threads"]),
    ],
    ids=str,
)
def test_what_is_more_at_the_end_grew(growth: dict[str, float], grew: list[str]) -> None:
    rows = verdict(samples(**growth))
    assert [row["grew"] for row in rows] == [[], grew]
    told = {column.head: column.cells for column in soak_grid(rows, 40, 60.0).columns}
    assert told["grew"] == ["no", ", ".join(grew) or "no"]


def test_the_warm_up_does_not_count_nor_does_one_high_look() -> None:
    first, middle, last = samples(4), samples(32), samples(4)
    for now in first:
        now[0] = now[0] | {"rss_bytes": 1}
    last[3][1] = last[3][1] | {"rss_bytes": 10**10, "descriptors": 99}
    assert [row["grew"] for row in verdict([*first, *middle, *last])] == [[], []]


def test_too_few_looks_are_no_verdict() -> None:
    with pytest.raises(StageError, match="looked at 2 times only"):
        verdict(samples(2))


def test_a_look_sees_slots_descriptors_and_memory() -> None:
    me = psutil.Process()
    before = look(me)
    slot, files = Slot.create(3 * mmap.PAGESIZE), [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    after = look(me)
    assert after["slot_bytes"] - before["slot_bytes"] == 3 * mmap.PAGESIZE
    assert after["descriptors"] - before["descriptors"] > 5  # the slot has some, too
    assert after["rss_bytes"] > 1e7 and after["threads"] >= 1
    slot.drop()
    for file in files:
        os.close(file)


def test_watching_writes_down_what_it_keeps(tmp_path: Path) -> None:
    watch = Watch(lambda: [psutil.Process()], 0.01, tmp_path / "soak.jsonl")
    watch.start()
    end = time.monotonic() + 20
    while len(watch.samples) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    watch.stop()
    lines = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert [line["ranks"] for line in lines] == watch.samples
    assert lines[0]["seconds"] < lines[1]["seconds"]


def test_a_process_without_ranks_has_none() -> None:
    assert ranks_below(psutil.Process()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "a soak writes down what it sees; give a folder with --out"),
        ({"out": "a", "minutes": 1.0}, "every is 5.0 and minutes 1.0; a soak takes twenty looks or more"),
        ({"out": "a", "every": 0.0}, "every is 0.0"),
        ({"out": "a", "minutes": -1.0}, "minutes is -1.0; it must be positive"),
    ],
)
def test_what_cannot_be_watched_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SoakConfig(**settings)


@pytest.mark.slow
def test_half_a_minute_of_training_grows_nothing(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    done = run("launch.soak", *TINY, "--minutes", "0.5", "--every", "0.5", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "run" / "soak.json").read_text())
    assert [row["grew"] for row in told["ranks"]] == [[], []] and told["looks"] > 20
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 29 < summary["total_s"] < 60
    assert len({(stage["steps"], stage["samples"]) for stage in summary["stages"]}) == 1
