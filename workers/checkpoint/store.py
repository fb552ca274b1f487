"""CheckpointStore on disk: sets of files, of which only whole ones count.

    OUT/checkpoints/step-00000040/stage-0.safetensors    each stage writes its own
                                  stage-1.safetensors
                                  manifest.json          rank 0, when all have written: now it is a set
    OUT/checkpoints/step-00000060/...                    the newest set and the one before are kept
    OUT/checkpoints/step-00000080.refused/...            damaged when the run was resumed from 60: no set

The manifest holds size and SHA-256 of every file, and of itself. Files that do not agree with it are refused,
and so are those that say that they are of another run, step or stage.
A set counts if `steps` lists it. A run that goes on from an older set renames the newer ones, so that neither
a stage that is started again nor a later run takes them for its own.
All ranks must see the same folder when they resume.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dni_async.nonfinite import all_finite
from dni_async.state.checkpoint import Bounds
from dni_async.state.state_dict import State
from workers.checkpoint.atomic_file import write_whole
from workers.checkpoint.manifest import (
    MANIFEST,
    Damaged,
    Manifest,
    part_name,
    read_manifest,
    read_regular,
    sha256,
)
from workers.checkpoint.state_file import from_bytes, label_of, to_bytes

KEPT = 2
"""Sets that are kept."""
_UNREADABLE = (ValueError, KeyError, TypeError, RecursionError)
"""What reading the header of a file raises that is no part."""


class CheckpointStore:
    """The checkpoints in the folder of a run."""

    def __init__(self, out: str | Path) -> None:
        assert str(out), "without a folder it would be the working folder"
        self.folder = Path(out) / "checkpoints"

    def write_part(self, step: int, stage: int, state: State, run: str = "") -> dict[str, Any]:
        """Write the part of a stage.

        Args:
            run: id of this run, the same for all parts.

        Returns:
            name, bytes and sha256 of the file; {"error": reason} if the disk refuses it, or if the weights
            are such that no run could resume from them.
        """
        if not all_finite([w for w in state["layers"].values() if w.is_floating_point()]):
            return {"error": f"weights of stage {stage} are NaN or infinite"}
        path = self._set(step) / part_name(stage)
        data = to_bytes(state, _label(run, step, stage))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as error:
            return {"error": f"{path}: {error.strerror or error}"}
        return {"name": path.name, "bytes": len(data), "sha256": sha256(data)}

    def complete(self, manifest: Manifest) -> None:
        """Make the files a set, once all stages have written, and remove sets older than the one before.

        Raises OSError if the disk refuses the manifest.
        """
        write_whole(self._set(manifest.step) / MANIFEST, manifest.to_bytes())
        oldest = self.steps()[-KEPT:][0]
        for folder in self.folder.glob("step-*"):
            if 0 <= _step_of(folder) < oldest:
                shutil.rmtree(folder, ignore_errors=True)

    def discard(self, step: int) -> None:
        """Remove the files of a set that could not be completed."""
        shutil.rmtree(self._set(step), ignore_errors=True)

    def set_aside(self, after: int) -> list[Path]:
        """Rename the sets newer than step `after`, so that they no longer count. Returns where they are now.

        Raises OSError if the disk refuses it.
        """
        aside = []
        for step in self.steps():
            if step > after:
                folder = self._set(step)
                aside.append(folder.with_name(f"{folder.name}.refused"))
                shutil.rmtree(aside[-1], ignore_errors=True)  # of an earlier resume
                folder.rename(aside[-1])
        return aside

    def clear(self) -> None:
        """Remove all sets, also those without a manifest, and the folder if nothing else is in it. What was
        set aside stays.

        Raises OSError if that is not possible.
        """
        for folder in self.folder.glob("step-*"):
            if _step_of(folder) >= 0 and folder.is_dir():
                shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def steps(self) -> list[int]:
        """The steps of the sets that count, oldest first: those with a manifest that were not set aside."""
        steps = (_step_of(path.parent) for path in self.folder.glob(f"step-*/{MANIFEST}"))
        return sorted(step for step in steps if step >= 0)

    def newest(self) -> tuple[Manifest | None, list[str]]:
        """The newest set whose files are all as they were written, and why newer ones are refused."""
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

    def newest_part(self, stage: int, bounds: list[Bounds], start: int) -> State | None:
        """The part of a stage in the newest set in which it is as it was written, or None.

        Other ranks may complete sets, and remove old ones, meanwhile.

        Args:
            bounds: of the stages of this run.
            start: step from which this run went on; only sets that it has written since then are looked at.
        """
        for step in reversed([step for step in self.steps() if step > start]):
            try:
                manifest = self.manifest(step)
                if manifest.bounds == bounds:
                    return self.read_part(manifest, stage)
            except Damaged:
                continue
        return None

    def manifest(self, step: int) -> Manifest:
        """The manifest of a set. Raises Damaged."""
        return read_manifest(self._set(step) / MANIFEST, step)

    def read_part(self, manifest: Manifest, stage: int) -> State:
        """The part of one stage. Raises Damaged."""
        data = self._read(manifest, stage)
        try:
            return from_bytes(data)
        except (*_UNREADABLE, SafetensorError) as error:
            raise Damaged(self._path(manifest, stage), f"cannot be read ({error})") from error

    def _read(self, manifest: Manifest, stage: int) -> bytes:
        """The bytes of a part. Raises Damaged if they are not those that were written."""
        path, file = self._path(manifest, stage), manifest.files[stage]
        data = read_regular(path)
        if len(data) != file["bytes"]:
            raise Damaged(path, f"has {len(data)} bytes where {file['bytes']} were written")
        if sha256(data) != file["sha256"]:
            raise Damaged(path, "is damaged or of another set (its checksum differs)")
        try:
            label = label_of(data)
        except _UNREADABLE as error:
            raise Damaged(path, f"cannot be read ({error})") from error
        if label != (right := _label(manifest.run, manifest.step, stage)):
            raise Damaged(path, f"is of another set ({label[:100] or 'without a label'}; not {right})")
        return data

    def _path(self, manifest: Manifest, stage: int) -> Path:
        return self._set(manifest.step) / part_name(stage)

    def _set(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _label(run: str, step: int, stage: int) -> str:
    """Return what a part says of itself; "" for sets of earlier versions, whose manifest names no run."""
    return f"run {run}, step {step}, stage {stage}" if run else ""


def _step_of(folder: Path) -> int:
    """The step in the folder's name; -1 for a foreign folder, which is never touched."""
    number = folder.name.removeprefix("step-")
    if not (number.isascii() and number.isdecimal() and len(number) < 20):
        return -1
    return int(number) if folder.name == f"step-{int(number):08d}" else -1
