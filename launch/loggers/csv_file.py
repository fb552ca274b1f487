"""--log csv: OUT/metrics.csv, a line for each number.

step,name,value
120,loss,0.2501             pandas.read_csv("metrics.csv").pivot(index="step", columns="name", values="value")
120,stage_0/utilisation,0.97
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from dni_async.errors import UserError
from launch.loggers.base import LoggedRun, Logger
from workers.checkpoint.atomic_file import write_whole

CSV = "metrics.csv"
HEAD = "step,name,value"


class CsvLogger(Logger):
    """Writes a file of comma-separated values."""

    needs_out: ClassVar[bool] = True

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run)
        if run.out is None:
            raise UserError("a file needs a folder; give one with --out")
        path = run.out / CSV
        kept = path.read_text(encoding="utf-8").splitlines()[1:] if run.start and path.exists() else []
        kept = [line for line in kept if line.count(",") == 2 and int(line.split(",")[0]) <= run.start]
        write_whole(path, "".join(f"{line}\n" for line in (HEAD, *kept)).encode())
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file, lineterminator="\n")

    @override
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._writer.writerows((step, name, value) for name, value in scalars.items())
        self._file.flush()

    @override
    def close(self) -> None:
        self._file.close()
