"""--log tensorboard: OUT/tensorboard, for `tensorboard --logdir OUT`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from dni_async.errors import UserError
from launch.loggers.base import LoggedRun, Logger

FOLDER = "tensorboard"


class TensorBoardLogger(Logger):
    """Writes event files of TensorBoard to the folder `tensorboard` of --out."""

    needs_out: ClassVar[bool] = True

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run)
        if run.out is None:
            raise UserError("event files need a folder; give one with --out")
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import SummaryWriter  # a second that others do not need

        self._summary: Any = Summary
        purged = run.start + 1 if run.start else None  # the first step whose numbers no longer hold
        self._writer: Any = SummaryWriter(str(run.out / FOLDER), purge_step=purged)

    @override
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        # one event for all: with `add_scalar` it would take ten times as long
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.file_writer.add_summary(self._summary(value=values), step)

    @override
    def close(self) -> None:
        self._writer.close()
