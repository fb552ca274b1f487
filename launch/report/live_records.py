"""The records of a run while it trains, for callbacks in the process that has started it.

rank 0 ── a line for each marker ──► OUT/metrics.jsonl ── `deliver`, called again and again ──► callbacks
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Callback = Callable[[dict[str, Any]], object]


class LiveRecords:
    """Calls callbacks with the lines that a run adds to metrics.jsonl, each line once.

    A run that goes on from a checkpoint cuts lines off and writes the file anew; then the whole file is read
    again. Lines that are there before the first call are those of an earlier run.
    """

    def __init__(
        self,
        out: Path,
        on_step: Callback | None = None,
        on_evaluation: Callback | None = None,
        on_epoch: Callback | None = None,
    ) -> None:
        self._path = out / "metrics.jsonl"
        self._callbacks: dict[str, list[Callback]] = {
            "report": [on_step] if on_step else [],
            "evaluation": [on_evaluation] if on_evaluation else [],
            "epoch": [each for each in (on_evaluation, on_epoch) if each],
        }
        self._seen: set[bytes] = set()
        self._file, self._offset = 0, 0
        self._new_lines()

    def add(self, callback: Callback) -> None:
        """Call this with every record, too."""
        for callbacks in self._callbacks.values():
            callbacks.append(callback)

    def deliver(self) -> None:
        """Call the callbacks with the records that are new."""
        if not any(self._callbacks.values()):
            return
        for line in self._new_lines():
            record = json.loads(line)
            for callback in self._callbacks.get(record.get("kind", ""), ()):
                callback(record)

    def _new_lines(self) -> list[bytes]:
        try:
            with open(self._path, "rb") as file:
                status = self._path.stat()
                if status.st_ino != self._file or status.st_size < self._offset:
                    self._file, self._offset = status.st_ino, 0
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        end = content.rfind(b"\n") + 1
        self._offset += end
        lines = [line for line in content[:end].splitlines() if line and line not in self._seen]
        self._seen.update(lines)
        return lines
