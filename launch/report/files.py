"""The output folder, and the files in it: strict JSON, JSON lines, and tables as Markdown."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dni_async.errors import StageError, UserError
from launch.report.grid import Grid, markdown
from workers.checkpoint.atomic_file import write_whole
from workers.failure.errors import format_error


def prepare_out(path: str | os.PathLike[str]) -> Path:
    """Return the output folder, made if need be. Raises UserError when it cannot be written to."""
    if not os.fspath(path):
        raise UserError("the output folder is empty; name one")
    out = Path(path)
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"output folder is a file ({out}): choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # asks the file system itself: mode bits say nothing to root
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        shown = str(out) if len(str(out)) < 300 else f"{str(out)[:50]}..."
        raise UserError(f"cannot write to the output folder ({shown}: {reason}): choose another") from error
    return out


@contextmanager
def collect_failure(problems: list[str], path: Path, *, draws: bool = False) -> Iterator[None]:
    """Add a line to `problems` when the file at `path` cannot be written, and go on.

    Args:
        draws: whether a picture is drawn, so that any error of the plotting library counts, too.
    """
    try:
        yield
    except OSError as error:
        problems.append(f"cannot write {path} ({error.strerror or error})")
    except Exception as error:
        if not draws:
            raise
        problems.append(f"cannot draw {path} ({format_error(error)})")


def jsonable(obj: Any) -> Any:
    """Return the value as strict JSON: NaN and infinities become None, tuples lists, paths strings."""
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): jsonable(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [jsonable(value) for value in obj]
    return str(obj) if isinstance(obj, Path) else obj


def write_json(path: str | os.PathLike[str], obj: Any, indent: int | None = 2) -> None:
    """Write strict JSON atomically: a reader sees the old file or the new one, never a part."""
    text = json.dumps(jsonable(obj), indent=indent, allow_nan=False, ensure_ascii=False)
    write_whole(Path(path), f"{text}\n".encode())


def read_summary(path: Path) -> dict[str, Any]:
    """Return the content of a summary.json. Raises UserError if it is missing, damaged or of no run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); give the folder of a run that ended"
        ) from None
    except ValueError:
        raise UserError(f"{path} is damaged; train again, or leave this folder out") from None
    kinds = {"task": str, "seed": int, "settings": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(k), t) for k, t in kinds.items()):
        raise UserError(f"{path} is of no run, or damaged; give folders that --out named")
    if not isinstance(content.get("engine") or content.get("rule"), str):
        raise UserError(f"{path} has neither engine nor rule; train again, or leave this folder out")
    return content


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Keep only the wanted objects of a file of JSON lines; a line that is cut off or damaged is dropped."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        kept = (line for line in lines if (record := _object(line)) is not None and wanted(record))
        write_whole(path, "".join(f"{line}\n" for line in kept).encode())


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def write_results(out: Path, name: str, data: Any, grids: Sequence[Grid]) -> None:
    """Write a command's results: `name`.json with the data and `name`.md with the tables."""
    write_json(out / f"{name}.json", data)
    write_whole(out / f"{name}.md", "\n".join(map(markdown, grids)).encode())


class JsonLines:
    """A file with one JSON object per line, each readable by others as soon as it is written."""

    def __init__(self, path: str | os.PathLike[str], append: bool = True) -> None:
        self._path = Path(path)
        self._file = open(path, "a" if append else "w", encoding="utf-8")  # noqa: SIM115

    def write(self, obj: Any) -> None:
        """Add one line. Raises StageError if the file, which may have taken its folder along, was deleted."""
        if not os.fstat(self._file.fileno()).st_nlink:
            raise StageError(
                f"{self._path} was deleted while the run wrote to it, perhaps with its folder; train again"
            )
        self._file.write(json.dumps(jsonable(obj), allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._file.close()
