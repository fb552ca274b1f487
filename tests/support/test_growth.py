"""Growth of processes is seen, and nothing else is taken for growth."""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path

import psutil
import pytest

from tests.support.growth import ProcessWatch, growth, ranks_below, sample
from workers.transport.slots import Slot

FLAT = {"rss_bytes": 100_000_000, "slot_bytes": 4096, "descriptors": 14, "threads": 1}


def samples(count: int = 40, **by: float) -> list[list[dict[str, int]]]:
    """Of two ranks, of which the second grows by these shares from beginning to end."""
    return [
        [FLAT, {name: int(value * (1 + by.get(name, 0) * i / count)) for name, value in FLAT.items()}]
        for i in range(count)
    ]


def test_processes_that_hold_the_same_do_not_grow() -> None:
    rows = growth(samples())
    assert [row["grew"] for row in rows] == [[], []]
    assert rows[0] == {"rank": 0, "grew": []} | {name: [value, value] for name, value in FLAT.items()}


@pytest.mark.parametrize(
    ("by", "grew"),
    [
        ({"rss_bytes": 0.04}, []),
        ({"rss_bytes": 0.2}, ["rss_bytes"]),
        ({"descriptors": 0.2, "slot_bytes": 0.2}, []),
        ({"descriptors": 4}, ["descriptors"]),
        ({"slot_bytes": 4, "threads": 4}, ["slot_bytes", "threads"]),
    ],
    ids=str,
)
def test_what_exceeds_its_tolerance_at_the_end_grew(by: dict[str, float], grew: list[str]) -> None:
    rows = growth(samples(**by))
    assert [row["grew"] for row in rows] == [[], grew]


def test_neither_the_warm_up_nor_one_high_sample_counts_as_growth() -> None:
    first, middle, last = samples(4), samples(32), samples(4)
    for now in first:
        now[0] = now[0] | {"rss_bytes": 1}
    last[3][1] = last[3][1] | {"rss_bytes": 10**10, "descriptors": 99}
    assert [row["grew"] for row in growth([*first, *middle, *last])] == [[], []]


def test_two_samples_are_too_few_to_compare() -> None:
    with pytest.raises(AssertionError, match="2 samples are too few to compare"):
        growth(samples(2))


def test_a_sample_counts_slots_descriptors_and_memory() -> None:
    me = psutil.Process()
    before = sample(me)
    slot, files = Slot.create(3 * mmap.PAGESIZE), [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    after = sample(me)
    assert after["slot_bytes"] - before["slot_bytes"] == 3 * mmap.PAGESIZE
    assert after["descriptors"] - before["descriptors"] > 5  # the slot has some, too
    assert after["rss_bytes"] > 1e7 and after["threads"] >= 1
    slot.close()
    for file in files:
        os.close(file)


def test_a_watch_writes_every_sample_to_its_file(tmp_path: Path) -> None:
    watch = ProcessWatch(lambda: [psutil.Process()], 0.01, tmp_path / "soak.jsonl")
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
