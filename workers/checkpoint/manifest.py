"""The manifest of a checkpoint: what makes the files of a folder a set, and checks that nothing else does.

Every field is checked before it is used, since a manifest may be damaged, edited or of another program.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dni_async.errors import UserError
from dni_async.state.checkpoint import Bounds

FORMAT = 1
MANIFEST = "manifest.json"


class Damaged(UserError):
    """A file of a checkpoint that must not be used; the message names it and says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"checkpoint file {path} {reason}")


@dataclass(slots=True)
class Manifest:
    """What makes files a set. All of it is JSON-able."""

    step: int
    """Training batches that the run had seen."""
    bounds: list[Bounds]
    """(first, end) layer of each stage."""
    settings: dict[str, Any]
    """What a run that resumes from here must have in common with this one."""
    record: dict[str, Any]
    """State of rank 0's recorder."""
    files: list[dict[str, Any]]
    """By stage, what `CheckpointStore.write_part` returned: name, bytes, sha256."""
    run: str = ""
    """Id of the run that wrote the files, which is in each of them; "" where they name none."""

    def to_bytes(self) -> bytes:
        """The content of the manifest's file, with a checksum of its own."""
        content = asdict(self)
        whole = {"format": FORMAT, "sha256": sha256(_canonical(content)), "content": content}
        return json.dumps(whole, indent=1).encode()


def read_manifest(path: Path, step: int) -> Manifest:
    """The manifest in a file, which must be that of `step`. Raises Damaged."""
    try:
        whole = json.loads(read_regular(path))
        if whole["format"] != FORMAT:
            formats = f"is of format {whole['format']}, and this version reads format {FORMAT}"
            raise Damaged(path, f"{formats}; resume with the version that wrote it")
        content, checksum = whole["content"], whole["sha256"]
    except Damaged:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(path, "is no manifest of a checkpoint, or is damaged") from None
    if sha256(_canonical(content)) != checksum:
        raise Damaged(path, "is damaged (its checksum differs)")
    if wrong := _what_is_wrong(content):
        raise Damaged(path, f"is no manifest of a checkpoint ({wrong})")
    if content["step"] != step:
        raise Damaged(path, f"is that of step {content['step']}; it belongs into another folder")
    return Manifest(**content | {"bounds": [(first, end) for first, end in content["bounds"]]})


def read_regular(path: Path) -> bytes:
    """The content of a regular file. Raises Damaged, also for a fifo or a device, which could block for
    ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Damaged(path, "cannot be read (it is no regular file)")
            return file.read()
    except FileNotFoundError:
        raise Damaged(path, "is missing") from None
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from error


def part_name(stage: int) -> str:
    """Name of the file of a stage."""
    return f"stage-{stage}.safetensors"


def sha256(data: bytes) -> str:
    """The checksum in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _what_is_wrong(content: Any) -> str:
    """Why this is not the content of a manifest; "" if it is."""
    fields = set(Manifest.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) | {"run"} != fields:
        return f"its fields are not {', '.join(sorted(fields))}"
    if not _is_count(content["step"]):
        return "step is no number of batches"
    if not _are_bounds(content["bounds"]):
        return "bounds are no layers of stages"
    if not isinstance(content.get("run", ""), str):
        return "run is no id"
    for name in ("settings", "record"):
        if not isinstance(content[name], dict):
            return f"{name} has no names"
    if not (isinstance(content["files"], list) and len(content["files"]) == len(content["bounds"])):
        return "files are not one for each stage"
    for stage, file in enumerate(content["files"]):
        if not _is_file(file, part_name(stage)):
            return f"files name no {part_name(stage)} with bytes and sha256"
    return ""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_bounds(value: Any) -> bool:
    """Whether this is [[0, a], [a, b], ...], with layers in every stage."""
    if not (isinstance(value, list) and value):
        return False
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_count, pair)) for pair in value):
        return False
    contiguous = all(before[1] == after[0] for before, after in pairwise(value))
    return value[0][0] == 0 and contiguous and all(first < end for first, end in value)


def _is_file(value: Any, name: str) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"name", "bytes", "sha256"}
        and value["name"] == name
        and _is_count(value["bytes"])
        and isinstance(value["sha256"], str)
    )


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
