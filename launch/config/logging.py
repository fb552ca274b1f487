"""What a run records of itself beside its results."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from dni_async.errors import UserError
from launch.config.flat import Group
from launch.loggers.registry import check_loggers


@dataclass(kw_only=True, slots=True)
class LoggingConfig(Group):
    """Where the numbers of a run go beside metrics.jsonl."""

    log: tuple[str, ...] = ()
    """csv, tensorboard, wandb, trackio (the last three need the extra of their name), or your own as
    my_pkg.my_module:MyLogger."""

    def check(self, out: str) -> None:
        """Raise UserError unless the loggers are known and installed, and there is a folder for files."""
        check_loggers(self.log, out)


@dataclass(kw_only=True, slots=True)
class ProfilingConfig(LoggingConfig):
    """What a run records of itself beside its results."""

    profile: str = ""
    """Steps that torch.profiler records in every stage, such as 100:110 (the last one is left out): in
    timeline.json, and for each stage in profile/."""

    def __post_init__(self) -> None:
        self.profiled_steps()

    @override
    def check(self, out: str) -> None:
        LoggingConfig.check(self, out)
        if self.profile and not out:
            raise UserError("profile writes to the folder of the run; give one with --out")

    def profiled_steps(self) -> range:
        """Return the steps of `profile`, empty without one. Raises UserError for another form."""
        if not self.profile:
            return range(0)
        first, colon, end = self.profile.partition(":")
        if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
            raise UserError(f"profile is {self.profile}; write FIRST:END, such as 100:110")
        return range(int(first), int(end))
