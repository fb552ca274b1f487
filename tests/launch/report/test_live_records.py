"""Callbacks get each record of a run once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from launch.report.live_records import LiveRecords


def line(kind: str, step: int) -> str:
    return json.dumps({"kind": kind, "step": step}) + "\n"


class Heard:
    """What the callbacks were called with."""

    def __init__(self, out: Path) -> None:
        self.calls: list[tuple[str, int]] = []
        self.records = LiveRecords(
            out, self.callback("step"), self.callback("evaluation"), self.callback("epoch")
        )

    def callback(self, name: str) -> Any:
        return lambda record: self.calls.append((name, record["step"]))

    def new(self) -> list[tuple[str, int]]:
        self.calls.clear()
        self.records.deliver()
        return list(self.calls)


def test_each_record_goes_to_its_callbacks_once(tmp_path: Path) -> None:
    heard = Heard(tmp_path)
    assert heard.new() == []
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(line("report", 1) + line("evaluation", 2) + line("epoch", 3) + line("report", 4)[:-5])
        file.flush()
        assert heard.new() == [("step", 1), ("evaluation", 2), ("evaluation", 3), ("epoch", 3)]
        file.write(line("report", 4)[-5:])
        file.flush()
        assert heard.new() == [("step", 4)]
    assert heard.new() == []


def test_a_file_that_is_written_anew_is_read_from_where_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line("report", 1) + line("report", 2))
    heard = Heard(tmp_path)
    assert heard.new() == [], "an earlier run's"
    (tmp_path / "new").write_text(line("report", 1) + line("report", 3) + line("report", 4))
    os.replace(tmp_path / "new", path)
    assert heard.new() == [("step", 3), ("step", 4)]
    os.truncate(path, len(line("report", 1)))
    with open(path, "a") as file:
        file.write(line("report", 5))
    assert heard.new() == [("step", 5)]


def test_a_callback_may_get_every_record(tmp_path: Path) -> None:
    records, steps = LiveRecords(tmp_path), []
    records.add(lambda record: steps.append(record["step"]))
    (tmp_path / "metrics.jsonl").write_text(line("report", 1) + line("evaluation", 2) + line("epoch", 3))
    records.deliver()
    assert steps == [1, 2, 3]
