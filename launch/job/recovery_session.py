"""A stage whose process is started again when it dies, while the other stages go on (--supervise).

first process    journal empty    ... an entry after every message ...                      killed
next process     journal          weights: from the stage's newest part of a checkpoint, or the initial ones
                                  counters, position in the stream and in every channel: from the journal
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
from launch.engines.registry import find_engine
from launch.job.message_stream import StreamPosition
from launch.report.files import jsonable
from workers.failure.rank_runner import RankRunner
from workers.recovery.journal import Journal
from workers.recovery.stable_storage import StableStorage
from workers.recovery.supervisor import Work, keep_running
from workers.runtime.loop import StageLoop


def supervise(runner: RankRunner, config: TrainConfig, work: Work) -> None:
    """Run `work` in a process of its own, and start it again when it dies, until it ends well.

    Raises:
        UserError: there is no launcher whose store outlives rank 0.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError("supervise needs a job of two stages or more; give --stages, or start it by torchrun")
    for module in (find_engine(config.engine).module, "torch._dynamo"):  # optimizers import the latter
        import_module(module)  # once, for all processes that are forked off
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    may_be_far = config.runtime.transport != "shm"
    try:
        storage = StableStorage.create(rank, world, config.partition.capacity, tcp=may_be_far)
    except UserError:
        runner.join(config.runtime.timeout)  # so that one rank alone prints the line
        raise
    try:
        keep_running(storage, config.recovery.stage_restarts, f"stage {rank} (rank {rank})", work)
    except StageError:
        with suppress(StageError, UserError):
            runner.join(config.runtime.timeout)  # only now: one cannot fork with a connection
        raise
    finally:
        storage.close()


class RecoverySession:
    """One process of a supervised stage: what it takes over from the process before, and what it journals
    for the next."""

    def __init__(self, storage: StableStorage, timeout: float) -> None:
        self.storage = storage
        self.journal = Journal(storage.journal, timeout)
        self.before = self.journal.before
        """The last entry of the process before this one; None for the first."""
        self._lost_updates: int = self.before["lost_updates"] if self.before else 0
        self._record: int = self.before["record"] if self.before else 0

    def position(self) -> StreamPosition | None:
        """Return where the process before was in the stream of stage 0; None for the first process."""
        return StreamPosition(**self.before["position"]) if self.before else None

    def restore_counters(self, stage: Stage) -> None:
        """Let a stage with older weights count on from where the process before was."""
        assert self.before is not None
        self._lost_updates += stage.restore_counters(self.before["stage"])

    def start(self, stage: Stage, loop: StageLoop, position: StreamPosition) -> None:
        """Restore the loop, and from now on journal the state after every message."""
        if self.before is not None:
            loop.load_state_dict(self.before["loop"])

        def state_dict() -> dict[str, Any]:
            return {
                "stage": stage.counters(),
                "position": position.state_dict(),
                "loop": loop.state_dict(),
                "lost_updates": self._lost_updates,
                "record": self._record,
            }

        self.journal.state_dict = state_dict
        self.journal.commit()

    def save_record(self, state: dict[str, Any]) -> None:
        """Save the state of rank 0's recorder; it counts from the next commit on."""
        self._record += 1
        self.storage.record.write(self._record, json.dumps(jsonable(state)).encode())

    def record(self) -> dict[str, Any] | None:
        """Return the recorder's state in the process before; None in the first process."""
        if self.before is None:
            return None
        state: dict[str, Any] = json.loads(self.storage.record.read(self._record))
        return state

    def metadata(self) -> dict[str, Any]:
        """Return what the summary says of this stage's restarts."""
        return {"restarts": self.storage.restarts, "lost_updates": self._lost_updates}
