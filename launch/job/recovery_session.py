"""A stage that is started again when it dies: what it goes on from, and what it notes for the next.

first process    journal empty    ... note after every message ...                          killed
next process     journal          weights of its newest part of a checkpoint, or of the start
                                  counts, place in the data and in every channel: of the journal
                                  updates since that checkpoint: lost, and counted
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from importlib import import_module
from typing import Any

from dni_async.errors import StageError, UserError
from dni_async.stage.stage import Stage
from launch.config.train import TrainConfig
from launch.engines.registry import ENGINES
from launch.job.message_stream import Position
from launch.report.files import jsonable
from launch.report.recorder import Recorder
from workers.failure.rank_runner import RankRunner
from workers.recovery.journal import Journal
from workers.recovery.stable_storage import StableStorage
from workers.recovery.supervisor import Work, keep_running
from workers.runtime.loop import StageLoop


def supervise(runner: RankRunner, config: TrainConfig, work: Work) -> None:
    """Be the supervisor of this rank's stage, whose process does `work`, until it has ended well.

    Raises UserError without a launcher whose store outlives rank 0.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError("supervise needs a job of two stages or more; give --stages, or start it by torchrun")
    for module in (ENGINES[config.engine].module, "torch._dynamo"):  # optimizers import the latter
        import_module(module)  # once, for all processes that are forked off
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    stable = StableStorage.create(rank, world, config.in_flight)
    try:
        keep_running(stable, config.stage_restarts, f"stage {rank} (rank {rank})", work)
    except StageError:
        with suppress(StageError, UserError):
            runner.join(config.timeout)  # only now: one cannot fork with a connection
        raise
    finally:
        stable.close()


class RecoverySession:
    """One process of a supervised stage."""

    def __init__(self, stable: StableStorage, timeout: float) -> None:
        self.stable = stable
        self.journal = Journal(stable.journal, timeout)
        self.before = self.journal.before
        """The last entry of the process before this one; None for the first."""
        self.position = Position(**self.before["position"]) if self.before else None
        """Of stage 0's stream."""
        self._lost_updates: int = self.before["lost_updates"] if self.before else 0
        self._record: int = self.before["record"] if self.before else 0

    def restore_counters(self, stage: Stage) -> None:
        """Let a stage with older weights go on where the process before was."""
        assert self.before is not None
        self._lost_updates += stage.restore_counters(self.before["stage"])

    def begin(self, stage: Stage, loop: StageLoop, recorder: Recorder | None, position: Position) -> None:
        """The stage is about to go on: from now on everything is noted."""
        self.position = position
        if self.before is not None:
            loop.inputs_open = self.before["inputs_open"]
            loop.sequence_check.restore_counters(self.before["sequence_check"])
            loop.probe.totals = self.before["totals"]
            loop.throughput.samples, loop.throughput.seconds = self.before["throughput"]

        def tell() -> dict[str, Any]:
            return {
                "stage": stage.counters(),
                "position": position.state(),
                "inputs_open": loop.inputs_open,
                "sequence_check": loop.sequence_check.state(),
                "totals": loop.probe.totals,
                "throughput": [loop.throughput.samples, loop.throughput.seconds],
                "lost_updates": self._lost_updates,
                "record": self._record,
            }

        self.journal.tell = tell
        if recorder is not None:
            self.keep_record(recorder)
        self.journal.commit()

    def keep_record(self, recorder: Recorder) -> None:
        """Keep what rank 0 knows of the run; it counts from the next commit on."""
        self._record += 1
        self.stable.record.write(self._record, json.dumps(jsonable(recorder.state())).encode())

    def record(self) -> dict[str, Any] | None:
        """What rank 0 knew of the run before; None in the first process."""
        state: dict[str, Any] | None = None
        if self.before is not None:
            state = json.loads(self.stable.record.read(self._record))
        return state

    def metadata(self) -> dict[str, Any]:
        """For the summary."""
        return {"restarts": self.stable.restarts, "lost_updates": self._lost_updates}
