"""What a run does when something fails: bad values, dead processes, interruptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dni_async.errors import UserError
from dni_async.nonfinite import POLICIES
from launch.config.checks import at_least, one_of
from launch.config.flat import Group


@dataclass(kw_only=True, slots=True)
class RecoveryConfig(Group):
    """What a run does when something fails: bad values, dead processes, interruptions."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when an activation, a gradient or a loss is NaN or infinite: stop, or skip (no update for
    that batch, and it is counted)."""
    checkpoint_every: int | None = None
    """Write checkpoints to --out, at the end of every epoch and every so many steps; 0: of epochs only. Rule
    delayed finishes all batches on their way first, so its weights depend on how often."""
    resume: bool = False
    """Go on from the newest complete checkpoint in --out; from the beginning when there is none yet. The run
    writes checkpoints, too: at the end of every epoch if --checkpoint-every does not say more."""
    overwrite: bool = False
    """Remove the earlier run in --out first. Without it, a folder that has one is refused."""
    supervise: bool = False
    """Start a stage again when its process dies, from its last checkpoint (written to --out at the end of
    every epoch if --checkpoint-every does not say more); the others go on meanwhile. On one host."""
    stage_restarts: int = 3
    """How often --supervise starts each stage again."""
    max_restarts: int = 0
    """How often all ranks of a job started here are started again when one of them dies, each time from the
    newest checkpoint in --out (written at least at the end of every epoch). Under torchrun give it to
    torchrun."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UserError(
                "resume goes on with the earlier run in --out, and overwrite removes it; leave one out"
            )
        one_of("on-nonfinite", self.on_nonfinite, POLICIES)
        at_least(
            0,
            stage_restarts=self.stage_restarts,
            checkpoint_every=self.checkpoint_every,
            max_restarts=self.max_restarts,
        )
