from __future__ import annotations

import json
from pathlib import Path

import pytest

from dni_async.errors import UserError
from launch.report.page.collect import MOST_TIMELINES, find_runs, short_names
from launch.report.page.recorded_run import MOST_LINES, read_lines, read_run
from tests.support.recorded_runs import line, recorded, write_run


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = recorded()
    read = read_run(write_run(tmp_path / "a", run))
    assert (read.summary, list(read.lines)) == (run.summary, list(run.lines))
    assert [row["stage"] for row in read.timeline] == [0, 1]
    assert [row["events"] for row in read.timeline] == [row["events"] for row in run.timeline]


def test_of_a_comparison_the_jobs_of_its_rows_are_shown_and_nothing_else(tmp_path: Path) -> None:
    for name in ("backprop-1", "cdni-1", "backprop-2", "cdni-2", "gpipe-1"):
        write_run(tmp_path / name, recorded(name[:-2]))
    rows = [{"engine": "backprop"}, {"engine": "cdni"}]
    (tmp_path / "compare.json").write_text(json.dumps({"rows": rows, "settings": {}}))
    assert [run.name for run in find_runs([tmp_path])] == ["backprop-1", "cdni-1", "backprop-2", "cdni-2"]


def test_timelines_of_very_many_runs_are_left_out(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(i), recorded(lines=1)) for i in range(MOST_TIMELINES + 1)]
    assert not any(run.timeline for run in find_runs(folders))
    assert all(run.timeline for run in find_runs(folders[:2]))


def test_runs_are_called_by_what_differs_in_their_paths(tmp_path: Path) -> None:
    assert short_names([tmp_path / "runs/a/cdni", tmp_path / "runs/b/cdni"]) == ["a/cdni", "b/cdni"]
    assert short_names([tmp_path / "runs/a"]) == ["a"]


def test_of_many_records_some_are_drawn_and_of_evaluations_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = [line(i, "epoch" if i % 1000 == 0 else "report", stages=[]) for i in range(5 * MOST_LINES)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"cut of')
    read = read_lines(path)
    assert MOST_LINES / 2 < len(read) < MOST_LINES * 1.1 and read[-1] == records[-1]
    assert [r for r in read if r["kind"] == "epoch"] == [r for r in records if r["kind"] == "epoch"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("summary.json", "{", "summary.json is damaged"),
        ("summary.json", "[]", "is of no run"),
        ("summary.json", "null", "is of no run"),
        ("summary.json", '{"task": "x"}', "is of no run"),
        ("summary.json", '{"task": "x", "seed": 0, "settings": {}}', "has neither engine nor rule"),
        ("timeline.json", '{"traceEvents": [{}]}', "is no timeline of a run"),
        ("compare.json", "{", "compare.json is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    folder = write_run(tmp_path / "a", recorded(lines=1))
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=complaint):
        find_runs([folder])


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no results"):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="no runs"):
        find_runs([])
