"""Files are whole, strict, and where they can be written."""

import json
import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from dni_async.errors import StageError, UserError
from launch.report.files import JsonLines, jsonable, keep_lines, prepare_out, write_json


def test_json_is_strict_and_readable(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"loss": float("nan"), "rate": float("inf"), "pair": (0, 1), 3: Path("a"), "w": "é"})
    assert path.read_text(encoding="utf-8") == (
        '{\n  "loss": null,\n  "rate": null,\n  "pair": [\n    0,\n    1\n  ],\n  "3": "a",\n  "w": "é"\n}\n'
    )


def test_jsonable_leaves_the_original_alone():
    original = {"a": [float("nan"), 1.5, True, None]}
    assert jsonable(original) == {"a": [None, 1.5, True, None]}
    assert original["a"][0] != original["a"][0]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, [2])
    assert path.read_text() == "[\n  1\n]\n"
    assert os.listdir(tmp_path) == ["summary.json"]


def test_compact_json_has_no_spaces(tmp_path):
    write_json(tmp_path / "trace.json", {"a": [1, 2]}, indent=None)
    assert (tmp_path / "trace.json").read_text() == '{"a": [1, 2]}\n'


def test_json_lines_are_readable_at_once_and_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with closing(JsonLines(path)) as lines:
        lines.write({"epoch": 1, "loss": float("nan")})
        assert path.read_text() == '{"epoch": 1, "loss": null}\n'
    with closing(JsonLines(path)) as lines:
        lines.write({"epoch": 2})
    lines.close()
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]
    with closing(JsonLines(path, append=False)) as lines:
        lines.write([])
    assert path.read_text() == "[]\n"


def test_lines_for_a_file_that_was_deleted_are_refused(tmp_path):
    folder = prepare_out(tmp_path / "run")
    with closing(JsonLines(folder / "metrics.jsonl")) as lines:
        lines.write([1])
        shutil.rmtree(folder)
        with pytest.raises(
            StageError, match=r"metrics.jsonl was deleted while the run wrote to it, perhaps with"
        ):
            lines.write([2])


def test_a_missing_output_folder_is_created(tmp_path):
    out = prepare_out(str(tmp_path / "a" / "b"))
    assert out.is_dir() and os.listdir(out) == []
    assert prepare_out(out) == out


def test_an_empty_name_of_an_output_folder_is_not_the_working_folder():
    with pytest.raises(UserError, match=r"^the output folder is empty; name one$"):
        prepare_out("")


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"^output folder is a file \(.*file\): choose another folder$"):
        prepare_out(tmp_path / "file")
    with pytest.raises(UserError, match=r"^cannot write to the output folder \(.*: Not a directory\)"):
        prepare_out(tmp_path / "file" / "below")


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def denied(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(
        UserError, match=r"^cannot write to the output folder \(.*: Permission denied\): choose"
    ):
        prepare_out(tmp_path)


def test_json_lines_can_be_filtered_in_place(tmp_path):
    path = tmp_path / "metrics.jsonl"
    keep_lines(path, lambda record: True)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"step": 3, "w": "é"}\n{"step": 2}\n[1]\n{"step": 1, "lo', encoding="utf-8")
    keep_lines(path, lambda record: record["step"] != 2)
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 3, "w": "é"}\n'


def test_a_file_cut_inside_a_character_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes('{"step": 1}\n{"step": 2, "w": "é"}'.encode()[:-3])
    keep_lines(path, lambda record: True)
    assert path.read_text() == '{"step": 1}\n'
