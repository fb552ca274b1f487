"""Where a run starts, as rank 0 decides before the plan is made.

start                              decided by                         the run goes on from
new run                            resume.choose_start                the first batch
--resume                           resume.choose_start                the newest checkpoint in --out
launcher restarts all ranks        restart.decide_start               the newest checkpoint in --out
supervisor restarts one stage      recovery_session, of that stage    its journal and its newest part of a
                                                                      checkpoint; the other stages go on
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from launch.job.message_stream import StreamPosition
from launch.job.progress_file import ProgressFile


@dataclass(slots=True)
class Start:
    """The place that a run goes on from; by default its beginning."""

    position: StreamPosition = field(default_factory=StreamPosition)
    """Of the stream of batches."""
    cut: str = ""
    """As --cut: where the checkpoint cuts the network, if that is kept."""
    record: dict[str, Any] | None = None
    """The state of the run's record at the checkpoint."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user."""
    progress_file: ProgressFile | None = None
    """On rank 0 of a run that may be resumed or restarted, from when it begins."""
    lost_steps: int | None = 0
    """Steps that were trained and are trained again; None where a restart does not know."""
