"""CheckpointStore on disk: sets of files, of which only whole ones count.

    OUT/checkpoints/step-00000040/stage-0.safetensors    each stage writes its own
                                  stage-1.safetensors
                                  manifest.json          rank 0, when all have written: now it is a set
    OUT/checkpoints/step-00000060/...                    the newest set and the one before are kept

The manifest holds size and SHA-256 of every file, and of itself. Whatever does not agree with it is refused.
All ranks must see the same folder when they resume.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dni_async.errors import UserError
from dni_async.nonfinite import all_finite
from dni_async.state.checkpoint import Bounds
from dni_async.state.state_dict import State
from workers.checkpoint.atomic_file import write_whole
from workers.checkpoint.state_file import from_bytes, to_bytes

FORMAT = 1
KEPT = 2
"""Sets that are kept."""
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
    """What a run that goes on from here must have in common with this one."""
    record: dict[str, Any]
    """What rank 0 knew of the run."""
    files: list[dict[str, Any]]
    """By stage, what `write_part` gave: name, bytes, sha256."""


class CheckpointStore:
    """The sets in the folder of a run."""

    def __init__(self, out: str | Path) -> None:
        self.folder = Path(out) / "checkpoints"

    def write_part(self, step: int, stage: int, state: State) -> dict[str, Any]:
        """Write the part of a stage. Gives name, bytes, sha256; {"error": why} when the disk refuses
        it, or when nobody could go on from it."""
        if not all_finite([w for w in state["layers"].values() if w.is_floating_point()]):
            return {"error": f"weights of stage {stage} are NaN or infinite"}
        path = self._set(step) / f"stage-{stage}.safetensors"
        data = to_bytes(state)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as error:
            return {"error": f"{path}: {error.strerror or error}"}
        return {"name": path.name, "bytes": len(data), "sha256": _sha256(data)}

    def complete(self, manifest: Manifest) -> None:
        """All stages have written: make their files a set, and remove what is older than the one before.

        Raises OSError when the disk refuses the manifest.
        """
        content = asdict(manifest)
        whole = {"format": FORMAT, "sha256": _sha256(_canonical(content)), "content": content}
        write_whole(self._set(manifest.step) / MANIFEST, json.dumps(whole, indent=1).encode())
        # a newer set may lie there that was refused: it does not count
        oldest = [step for step in self.steps() if step <= manifest.step][-KEPT:][0]
        for folder in self.folder.glob("step-*"):
            if 0 <= _step_of(folder) < oldest:
                shutil.rmtree(folder, ignore_errors=True)

    def discard(self, step: int) -> None:
        """Remove what there is of a set that could not be completed."""
        shutil.rmtree(self._set(step), ignore_errors=True)

    def steps(self) -> list[int]:
        """The sets that are complete, oldest first."""
        steps = (_step_of(path.parent) for path in self.folder.glob(f"step-*/{MANIFEST}"))
        return sorted(step for step in steps if step >= 0)

    def newest(self) -> tuple[Manifest | None, list[str]]:
        """The newest set of which every file is as it was written, and why newer ones are not used."""
        refused: list[str] = []
        for step in reversed(self.steps()):
            try:
                manifest = self.manifest(step)
                for stage in range(len(manifest.files)):
                    self._read(manifest, stage)
                return manifest, refused
            except Damaged as reason:
                refused.append(str(reason))
        return None, refused

    def newest_part(self, stage: int, bounds: list[Bounds]) -> State | None:
        """The part of one stage in the newest set, with that cut, where it is as it was written; None without
        any. Others may complete sets, and remove old ones, meanwhile."""
        for step in reversed(self.steps()):
            try:
                manifest = self.manifest(step)
                if manifest.bounds == bounds:
                    return self.read_part(manifest, stage)
            except Damaged:
                continue
        return None

    def manifest(self, step: int) -> Manifest:
        """The manifest of a set. Raises Damaged."""
        path = self._set(step) / MANIFEST
        try:
            whole = json.loads(_bytes_of(path))
            if whole["format"] != FORMAT:
                told = f"is of format {whole['format']}, and this version reads format {FORMAT}"
                raise Damaged(path, f"{told}; resume with the version that wrote it")
            content, sha256 = whole["content"], whole["sha256"]
        except Damaged:
            raise
        except (ValueError, KeyError, TypeError):
            raise Damaged(path, "is no manifest of a checkpoint, or is damaged") from None
        if _sha256(_canonical(content)) != sha256:
            raise Damaged(path, "is damaged (its checksum differs)")
        if content["step"] != step:
            raise Damaged(path, f"is that of step {content['step']}; it belongs into another folder")
        return Manifest(**content | {"bounds": [(first, end) for first, end in content["bounds"]]})

    def read_part(self, manifest: Manifest, stage: int) -> State:
        """The part of one stage. Raises Damaged."""
        data = self._read(manifest, stage)
        try:
            return from_bytes(data)
        except (ValueError, KeyError, SafetensorError) as error:
            raise Damaged(self._path(manifest, stage), f"cannot be read ({error})") from error

    def _read(self, manifest: Manifest, stage: int) -> bytes:
        """The bytes of a part, if they are those that were written. Raises Damaged."""
        path, told = self._path(manifest, stage), manifest.files[stage]
        data = _bytes_of(path)
        if len(data) != told["bytes"]:
            raise Damaged(path, f"has {len(data)} bytes where {told['bytes']} were written")
        if _sha256(data) != told["sha256"]:
            raise Damaged(path, "is damaged or of another set (its checksum differs)")
        return data

    def _path(self, manifest: Manifest, stage: int) -> Path:
        return self._set(manifest.step) / str(manifest.files[stage]["name"])

    def _set(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Damaged(path, "is missing") from None
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from error


def _step_of(folder: Path) -> int:
    """The step in the folder's name; -1 for a folder of somebody else's, which is never touched."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdigit() else -1


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
