"""What is refused as a manifest although its checksum is right."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from workers.checkpoint.manifest import Damaged, Manifest, part_name, read_manifest, read_regular

FILES = [{"name": part_name(stage), "bytes": 10, "sha256": "ab"} for stage in range(2)]
GOOD: dict[str, Any] = {
    "step": 7,
    "bounds": [[0, 2], [2, 5]],
    "settings": {"batch_size": 16},
    "record": {},
    "files": FILES,
}
OF_ALL_TYPES = (None, True, -1, 1.5, 10**30, "x", "", [], [1], {}, {"a": 1})
WRONG_BOUNDS = (
    *([[0, 2], [2, "5"]], [[0, 2], [2, 5.0]], [[0, 2], [2, 5, 6]], [[1, 2], [2, 5]], [[0, 2], [2, 2]]),
    *([[0, 3], [2, 5]], [[2, 5], [0, 2]], [[0, 0], [0, 5]], [[0, 2], [3, 5]], [[0, 2], 5]),
)
WRONG_NAMES = ("../step-00000009/stage-0.safetensors", "/etc/passwd", "", "..", "a\0b", part_name(1))
ALLOWED = {"settings": ({}, {"a": 1}), "record": ({}, {"a": 1})}


def signed(path: Path, content: object) -> Path:
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"format": 1, "sha256": checksum, "content": content}))
    return path


def test_a_good_one_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    manifest = read_manifest(signed(tmp_path / "m", GOOD), 7)
    assert manifest == Manifest(7, [(0, 2), (2, 5)], {"batch_size": 16}, {}, FILES)
    (tmp_path / "again").write_bytes(manifest.to_bytes())
    assert read_manifest(tmp_path / "again", 7) == manifest


FORGED: dict[str, object] = {
    **{
        f"{name} is {v!r}": GOOD | {name: v}
        for name in GOOD
        for v in OF_ALL_TYPES
        if v not in ALLOWED.get(name, ())
    },
    **{f"without {name}": {k: v for k, v in GOOD.items() if k != name} for name in GOOD},
    **{f"bounds {bounds}": GOOD | {"bounds": bounds} for bounds in WRONG_BOUNDS},
    **{f"file {name!r}": GOOD | {"files": [FILES[0] | {"name": name}, FILES[1]]} for name in WRONG_NAMES},
    **{f"bytes {v!r}": GOOD | {"files": [FILES[0] | {"bytes": v}, FILES[1]]} for v in OF_ALL_TYPES},
    **{f"sha256 {v!r}": GOOD | {"files": [FILES[0] | {"sha256": v}, FILES[1]]} for v in OF_ALL_TYPES[:5]},
    **{f"run is {v!r}": GOOD | {"run": v} for v in OF_ALL_TYPES if not isinstance(v, str)},
    "a foreign field": GOOD | {"more": 1},
    "one file too few": GOOD | {"files": FILES[:1]},
    "one file too many": GOOD | {"files": [*FILES, FILES[0]]},
    "a file with a foreign field": GOOD | {"files": [FILES[0] | {"more": 1}, FILES[1]]},
    "a list": [1],
    "nothing": None,
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_a_forged_one_with_a_right_checksum_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(Damaged, match="is no manifest of a checkpoint"):
        read_manifest(signed(tmp_path / "m", content), 7)


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "1", "null", "[" * 100_000, "9" * 10_000, '{"format": 1}', "\xff"]
)
def test_text_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").write_bytes(text.encode("latin-1"))
    with pytest.raises(Damaged, match="is no manifest of a checkpoint, or is damaged"):
        read_manifest(tmp_path / "m", 7)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "m")
    with pytest.raises(Damaged, match="cannot be read"):
        read_regular(tmp_path / "m")
